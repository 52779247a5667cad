"""All scripts and what became of them: who plays, which troubles are due, and the report.

The place in a script is read off the messages, never remembered: a step that is asked again gets the same
answer, with the same call ids. Only two things are remembered, in memory: the report, and how often a failure
or trouble with `times` has been played, by (script, digest of all messages, turn). Two runs with the same
messages share that count; a test that minds puts something of its own into the user message.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from infra.local.rehearsal.conversation import ChatRequest, RequestRefused
from infra.local.rehearsal.cue import Cue, Unexpected, cue_for, shortened
from infra.local.rehearsal.scripts import Fail, Script

_KEPT_MEETINGS = 200
_KEPT_COUNTS = 10_000


@dataclass
class _Record:
    begun: int = 0
    furthest: int = 0
    abandoned: int = 0
    played: Counter[int] = field(default_factory=Counter)


class Stage:
    """Scripts by name, each with its record."""

    def __init__(self, *, scripts: Iterable[Script]) -> None:
        self._scripts: dict[str, Script] = {}
        self._records: dict[str, _Record] = {}
        self._unexpected: deque[dict[str, object]] = deque(maxlen=_KEPT_MEETINGS)
        self._no_script: deque[dict[str, object]] = deque(maxlen=_KEPT_MEETINGS)
        self._counts: OrderedDict[tuple[str, str, int, str], int] = OrderedDict()
        for script in scripts:
            self.put(script)

    @property
    def names(self) -> list[str]:
        """The scripts' names."""
        return sorted(self._scripts)

    def put(self, script: Script) -> None:
        """Add a script, or put it in the place of its namesake, with a fresh record."""
        self._scripts[script.name] = script
        self._records[script.name] = _Record()
        self._unexpected = deque(
            (entry for entry in self._unexpected if entry["script"] != script.name), maxlen=_KEPT_MEETINGS
        )
        for key in [key for key in self._counts if key[0] == script.name]:
            del self._counts[key]

    def cue(self, request: ChatRequest) -> tuple[Cue, Fail | None]:
        """What to play to a request, or the failure that is due instead; raises RequestRefused.

        A turn counts as played once it is answered, were the answer cut short by script or reader.
        """
        script = self._script_for(request.meetings()[0][0].text)
        record = self._records[script.name]
        try:
            cue = cue_for(script, request)
        except Unexpected as unexpected:
            self._unexpected.append(unexpected.entry)
            raise
        if cue.position == 0:
            record.begun += 1
        record.furthest = max(record.furthest, cue.position + 1)
        fail = cue.turn.fail
        if fail is not None and (fail.times is None or self._is_due(cue, "fail", fail.times)):
            if fail.times is None:
                record.played[cue.turn_index] += 1
            return cue, fail
        times = cue.turn.trouble_times
        if times is not None and not self._is_due(cue, "trouble", times):
            cue = replace(cue, turn=cue.turn.without_trouble())
        record.played[cue.turn_index] += 1
        return cue, None

    def abandon(self, cue: Cue) -> None:
        """Note that the reader hung up before the turn was told to its end."""
        self._records[cue.script.name].abandoned += 1

    def report(self, *, script: str | None = None) -> dict[str, object]:
        """How far each script went; `unused` has the turns (from 1) that were never played.

        With a name, that script alone; raises RequestRefused (404) if there is none.
        """
        if script is not None and script not in self._scripts:
            raise RequestRefused(f"There is no script {script}.", code="rehearsal_no_script", status=404)
        names = self.names if script is None else [script]
        played = {name: self._played(name) for name in names}
        return {
            "scripts": [
                {
                    "name": name,
                    "turns": len(played[name]),
                    "begun": self._records[name].begun,
                    "furthest": self._records[name].furthest,
                    "played": played[name],
                    "abandoned": self._records[name].abandoned,
                }
                for name in names
            ],
            "unused": {
                name: [turn for turn, count in enumerate(counts, start=1) if not count]
                for name, counts in played.items()
                if 0 in counts
            },
            "unexpected": [entry for entry in self._unexpected if entry["script"] in played],
            "no_script": list(self._no_script),
        }

    def _played(self, name: str) -> list[int]:
        return [self._records[name].played[index] for index in range(len(self._scripts[name].turns))]

    def _script_for(self, user_text: str) -> Script:
        fitting = [script for script in self._scripts.values() if script.answers(user_text)]
        fitting.sort(key=lambda script: len(script.when), reverse=True)
        if len(fitting) == 1 or (fitting and len(fitting[0].when) > len(fitting[1].when)):
            return fitting[0]
        if fitting:
            trouble = f"The scripts {fitting[0].name} and {fitting[1].name} fit equally: make one `when` longer"
        else:
            trouble = "No script fits: add one whose `when` matches"
        message = f"{trouble}. The user message is {shortened(user_text)}."
        self._no_script.append({"user": shortened(user_text), "message": message})
        raise RequestRefused(message, code="rehearsal_no_script")

    def _is_due(self, cue: Cue, kind: str, times: int) -> bool:
        """Count one more play of a limited failure; False once it has been played that often."""
        key = (cue.script.name, cue.digest, cue.position, kind)
        count = self._counts.get(key, 0)
        self._counts[key] = count + 1
        while len(self._counts) > _KEPT_COUNTS:
            self._counts.popitem(last=False)
        return count < times
