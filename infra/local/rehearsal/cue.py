"""What a script says to a request: its turn found, what it meets checked, captures filled in; no memory."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from infra.local.rehearsal.conversation import ChatRequest, HeardMessage, RequestRefused
from infra.local.rehearsal.scripts import Expect, Script, Turn

_SHOWN_CHARACTERS = 200
_PLACEHOLDER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


@dataclass(frozen=True)
class PlannedCall:
    """A tool call as it goes out."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Cue:
    """What to play now; `position` counts from 0 and runs on where the last turn repeats."""

    script: Script
    position: int
    turn: Turn
    text: str
    calls: tuple[PlannedCall, ...]
    digest: str
    input_tokens: int

    @property
    def turn_index(self) -> int:
        """The index of the turn in the script."""
        return min(self.position, len(self.script.turns) - 1)


class Unexpected(RequestRefused):
    """A script met what it did not expect."""

    def __init__(self, script: Script, position: int, *, expected: str, found: str) -> None:
        self.entry: dict[str, object] = {
            "script": script.name,
            "turn": position + 1,
            "expected": expected,
            "found": found,
        }
        super().__init__(
            f"Script {script.name}, turn {position + 1} of {len(script.turns)}: expected {expected}; found {found}.",
            code="rehearsal_unexpected",
        )


def cue_for(script: Script, request: ChatRequest) -> Cue:
    """The turn this script plays to this request; raises Unexpected."""
    meetings = request.meetings()
    position = len(meetings) - 1
    turn = script.turn_at(position)
    if turn is None:
        expected = f"no turn after its {len(script.turns)}"
        raise Unexpected(script, position, expected=expected, found=_seen(meetings[-1]))

    captured: dict[str, str] = {}
    for earlier, heard in enumerate(meetings[:-1]):
        met = script.turn_at(earlier)
        if met is not None:
            captured |= _captures(met.expect, _searched(request, met.expect, heard))
    declared = {name for met in script.turns[: position + 1] for name in met.expect.capture}

    def fill(text: str) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name in declared and name not in captured:
                expected = f"{{{name}}} from an earlier turn"
                raise Unexpected(script, position, expected=expected, found="nothing any more that it is in")
            return captured.get(name, match[0])

        return _PLACEHOLDER.sub(value, text)

    text = _searched(request, turn.expect, meetings[-1])
    _check(script, position, request, turn.expect, meetings[-1], text, fill)
    captured |= _captures(turn.expect, text)
    return Cue(
        script=script,
        position=position,
        turn=turn,
        text=fill(turn.say or ""),
        calls=_planned_calls(turn, fill, seed=f"{script.name}/{position}/{request.digest}"),
        digest=request.digest,
        input_tokens=request.input_tokens,
    )


def _check(
    script: Script,
    position: int,
    request: ChatRequest,
    expect: Expect,
    heard: list[HeardMessage],
    text: str | None,
    fill: Callable[[str], str],
) -> None:
    source = f"a result of {expect.result_of or 'a tool'}" if expect.role == "tool" else f"a {expect.role} message"
    if text is None:
        raise Unexpected(script, position, expected=source, found=_seen(heard))
    missing = [tool for tool in expect.tools if tool not in request.offered]
    if missing:
        offered = ", ".join(sorted(request.offered)) or "none"
        expected = f"the tools {', '.join(missing)} on offer"
        raise Unexpected(script, position, expected=expected, found=f"on offer: {offered}")
    for wanted in map(fill, expect.contains):
        if wanted not in text:
            raise Unexpected(script, position, expected=f"{source} with {wanted!r}", found=_seen(heard))
    for name, pattern in expect.capture.items():
        if name not in _captures(expect, text):
            expected = f"{source} with {name} = /{pattern}/"
            raise Unexpected(script, position, expected=expected, found=_seen(heard))


def _searched(request: ChatRequest, expect: Expect, heard: list[HeardMessage]) -> str | None:
    """The text that an `expect` looks at, or None if no such message came."""
    fitting = [message for message in heard if message.role == expect.role]
    if expect.result_of is not None:
        fitting = request.results_of(expect.result_of, fitting)
    return "\n".join(message.text for message in fitting) if fitting else None


def _captures(expect: Expect, text: str | None) -> dict[str, str]:
    matches = {name: re.search(pattern, text or "") for name, pattern in expect.capture.items()}
    # The first group, or the whole match of a pattern without one; a group that took no part is no capture.
    values = {name: match[min(1, match.re.groups)] for name, match in matches.items() if match is not None}
    return {name: value for name, value in values.items() if value is not None}


def _planned_calls(turn: Turn, fill: Callable[[str], str], *, seed: str) -> tuple[PlannedCall, ...]:
    planned: list[PlannedCall] = []
    for call in turn.call:
        if call.arguments_text is not None:
            arguments = fill(call.arguments_text)
        else:
            arguments = json.dumps(_filled(call.arguments, fill), ensure_ascii=False)
        for _ in range(call.times):
            digest = hashlib.sha256(f"{seed}/{len(planned)}".encode()).hexdigest()
            planned.append(PlannedCall(id=f"call_{digest[:24]}", name=call.tool, arguments=arguments))
    return tuple(planned)


def _filled(value: object, fill: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return fill(value)
    if isinstance(value, dict):
        return {key: _filled(item, fill) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, fill) for item in value]
    return value


def _seen(heard: list[HeardMessage]) -> str:
    """A short account of messages."""
    if not heard:
        return "nothing after the last assistant message"
    return "; ".join(f"{message.role}: {shortened(message.text)}" for message in heard[:4]) + (
        f"; and {len(heard) - 4} more" if len(heard) > 4 else ""
    )


def shortened(text: str) -> str:
    """A text on one line, cut to what a message can carry."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "…")
