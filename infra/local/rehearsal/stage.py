"""Who plays what: finds the script and the turn for a request, checks what it meets, and keeps the report.

The place in a script is read off the messages, never remembered: a step that is asked again gets the same
answer, with the same call ids. Only two things are remembered, in memory: the report, and how often a failure
or cut with `times` has been played, by (script, digest of all messages, turn). Two runs with word-for-word the
same messages share that count; a test that minds puts something of its own into the user message.
"""

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from infra.local.rehearsal.conversation import ChatRequest, HeardMessage, RequestRefused
from infra.local.rehearsal.scripts import Expect, Fail, Script, Turn

_FOUND_CHARACTERS = 240
_KEPT_MEETINGS = 200
_KEPT_COUNTS = 10_000


@dataclass(frozen=True)
class PlannedCall:
    """A tool call as it goes out."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Cue:
    """What to play now, with everything filled in."""

    script: Script
    position: int
    turn: Turn
    text: str
    calls: tuple[PlannedCall, ...]
    digest: str
    fail: Fail | None
    is_cut: bool


@dataclass
class _Record:
    begun: int = 0
    furthest: int = 0
    abandoned: int = 0
    played: Counter[int] = field(default_factory=Counter)


class Unexpected(RequestRefused):
    """A script met what it did not expect."""

    def __init__(self, script: Script, position: int, *, expected: str, found: str) -> None:
        self.entry = {"script": script.name, "turn": position + 1, "expected": expected, "found": found}
        super().__init__(
            f"Script {script.name}, turn {position + 1} of {len(script.turns)}: "
            f"expected {expected}; found {found}.",
            code="rehearsal_unexpected",
        )


class Stage:
    """All scripts, and what became of them."""

    def __init__(self, *, scripts: Iterable[Script]) -> None:
        self._scripts: dict[str, Script] = {}
        self._records: dict[str, _Record] = {}
        self._unexpected: deque[dict[str, object]] = deque(maxlen=_KEPT_MEETINGS)
        self._no_script: deque[dict[str, object]] = deque(maxlen=_KEPT_MEETINGS)
        self._times: Counter[tuple[str, str, int, str]] = Counter()
        for script in scripts:
            if script.name in self._scripts:
                raise ValueError(f"Two scripts are named {script.name}.")
            self.put(script)

    def put(self, script: Script) -> None:
        """Add a script, or put it in the place of its namesake with a fresh record."""
        self._scripts[script.name] = script
        self._records[script.name] = _Record()
        for key in [key for key in self._times if key[0] == script.name]:
            del self._times[key]

    def cue(self, request: ChatRequest) -> Cue:
        """Find and check the turn for a request, and count it as begun; raises RequestRefused."""
        meetings = request.meetings()
        script = self._script_for(meetings[0][0].text)
        try:
            return self._cue(request, script, meetings)
        except Unexpected as unexpected:
            self._unexpected.append(unexpected.entry)
            raise

    def abandon(self, cue: Cue) -> None:
        """Note that the reader hung up before the turn was told to its end."""
        self._records[cue.script.name].abandoned += 1

    def report(self, *, script: str | None = None) -> dict[str, object]:
        """Scripts and how far they went; `unused` lists the turns (from 1) that nobody has met.

        With a name, only that script; raises RequestRefused (404) if there is none.
        """
        if script is not None and script not in self._scripts:
            raise RequestRefused(f"There is no script {script}.", code="rehearsal_no_script", status=404)
        names = sorted(self._scripts) if script is None else [script]
        unused = {name: self._unused(name) for name in names}
        return {
            "scripts": [
                {
                    "name": name,
                    "turns": len(self._scripts[name].turns),
                    "begun": self._records[name].begun,
                    "furthest": self._records[name].furthest,
                    "played": [
                        self._records[name].played[turn] for turn in range(len(self._scripts[name].turns))
                    ],
                    "abandoned": self._records[name].abandoned,
                }
                for name in names
            ],
            "unused": {name: turns for name, turns in unused.items() if turns},
            "unexpected": [entry for entry in self._unexpected if entry["script"] in names],
            "no_script": list(self._no_script),
        }

    def _unused(self, name: str) -> list[int]:
        played = self._records[name].played
        return [turn + 1 for turn in range(len(self._scripts[name].turns)) if not played[turn]]

    def _script_for(self, user_text: str) -> Script:
        found = sorted(
            (script for script in self._scripts.values() if script.answers(user_text)),
            key=lambda script: -len(script.when),
        )
        if found and (len(found) == 1 or len(found[0].when) > len(found[1].when)):
            return found[0]
        if found:
            trouble = f"The scripts {found[0].name} and {found[1].name} fit equally well: lengthen one `when`"
        else:
            trouble = "No script's `when` fits"
        message = f"{trouble} (user message: {_short(user_text)})."
        self._no_script.append({"user": _short(user_text), "message": message})
        raise RequestRefused(message, code="rehearsal_no_script")

    def _cue(self, request: ChatRequest, script: Script, meetings: list[list[HeardMessage]]) -> Cue:
        position = len(meetings) - 1
        turn = script.turn_at(position)
        if turn is None:
            expected = f"no further turn than {len(script.turns)}"
            raise Unexpected(script, position, expected=expected, found=_seen(meetings[-1]))
        captured: dict[str, str] = {}
        declared: set[str] = set()
        for earlier, heard in enumerate(meetings):
            met = script.turn_at(earlier)
            if met is None:
                break
            declared |= met.expect.capture.keys()
            if earlier == position:
                self._check(request, script, position, met.expect, heard, captured)
            captured |= _captures(met.expect, _searched(request, met.expect, heard))

        def filled(text: str) -> str:
            def value(match: re.Match[str]) -> str:
                name = match[1]
                if name in declared and name not in captured:
                    raise Unexpected(
                        script,
                        position,
                        expected=f"{{{name}}} captured in an earlier turn",
                        found="no message any more that it can be captured from",
                    )
                return captured.get(name, match[0])

            return re.sub(r"\{([a-z_][a-z0-9_]*)\}", value, text)

        seed = f"{script.name}/{position}/{request.digest}"
        arguments = [
            (call.tool, filled_arguments)
            for call in turn.call
            for filled_arguments in [
                filled(call.arguments_text)
                if call.arguments_text is not None
                else json.dumps(_fill(call.arguments, filled), ensure_ascii=False)
            ]
            * call.times
        ]
        cue = Cue(
            script=script,
            position=position,
            turn=turn,
            text=filled(turn.say or ""),
            calls=tuple(
                PlannedCall(_call_id(seed, index), name, text) for index, (name, text) in enumerate(arguments)
            ),
            digest=request.digest,
            fail=turn.fail if self._is_due(script, request, position, turn.fail) else None,
            is_cut=False,
        )
        return self._begun(cue, request)
