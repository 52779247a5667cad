"""A rehearsal script: which user message it answers, and per turn what it must meet and what it says.

    name: slow-list                        # letters, digits, dots and dashes
    when: "slow for members"               # regex (any case) searched in the newest user message
    turns:                                 # turn n answers n-1 assistant messages after that user message
      - expect: {role: user, contains: ["slow"], tools: [file_list]}       # tools that must be on offer
        say: "I will look first."
        call: [{file_list: {pattern: "**/*"}}]                             # several = parallel calls
      - expect: {role: tool, result_of: file_list, contains: ["app/"], capture: {path: "(app/[a-z/]+[.]py)"}}
        say: "Reading {path}."             # {path}: as captured from the messages really sent; other
        call: [{file_read: {path: "{path}"}}]                              # braces stay as they are
      - expect: {role: tool}
        say: "It is {path}."

`expect`: everything in `contains` (captured names filled in) and every regex of `capture` (its first group)
is searched in all messages of that role since the last assistant message, joined; `result_of` keeps only
the results of that tool's calls. Nothing is required unless it is named.

A call is `{tool_name: {arguments}}`, or in long form `{tool: name, arguments_text: "{broken", times: 3}`
to send text that is no JSON, or many calls. A tool that was never offered may be named.

A turn may also have, alone or beside `say` and `call`:
    say: ""                      an empty answer
    refuse: "I must not."        a refusal in place of text
    finish: length               stop, length, content_filter or tool_calls; else what fits the calls
    fail: {status: 429, retry_after: 1, times: 2}    an HTTP error the first two times, then the turn
                                 (without times: always); also code, message, as_date
    cut: text                    the connection drops after half the text; tool_call: in half the first
                                 call's arguments; before_finish: the body ends politely, unfinished
    hang_seconds: 60             silence: before the first byte if nothing is said, else after the text
    faults: [no_usage]           how the wire itself errs, see Fault
    trouble_times: 1             cut, hang and err only the first time, then play the turn whole
    seconds_per_word: 0.02       pace of the text
And a script may have `repeat_last: true`: the last turn is played for ever.
"""

import re
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

Fault = Literal[
    "bad_json",  # a data line in mid-stream that is no JSON
    "error_event",  # a data line {"error": …} in mid-stream
    "no_choices",  # every chunk has an empty list of choices
    "no_done",  # the stream ends without [DONE]
    "no_ids",  # tool calls without id
    "no_usage",  # usage is left out although asked for
    "same_ids",  # all tool calls share one id
    "split_names",  # a tool's name comes in two pieces
]


class ScriptRefused(Exception):
    """A script's text is no script; the sentence names file, line and field."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Expect(_Strict):
    """What a turn must meet before it is played."""

    role: Literal["user", "tool", "system"]
    contains: list[str] = []
    tools: list[str] = []
    result_of: str | None = None
    capture: dict[str, str] = {}

    @field_validator("capture")
    @classmethod
    def _are_patterns(cls, capture: dict[str, str]) -> dict[str, str]:
        for name, pattern in capture.items():
            if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
                raise ValueError(f"{name!r} is no name for a capture: use lower case and underscores")
            _compiled(pattern)
        return capture

    @model_validator(mode="after")
    def _narrows_results_only(self) -> Self:
        if self.result_of is not None and self.role != "tool":
            raise ValueError("result_of needs role: tool")
        return self


class Call(_Strict):
    """A tool call; `arguments_text` goes out as it stands, `arguments` as JSON."""

    tool: str = Field(min_length=1)
    arguments: dict[str, JsonValue] = {}
    arguments_text: str | None = None
    times: int = Field(default=1, ge=1, le=5_000)

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, given: object) -> object:
        if isinstance(given, dict) and len(given) == 1 and not isinstance(given.get("tool"), str):
            tool, arguments = next(iter(given.items()))
            return {"tool": tool, "arguments": {} if arguments is None else arguments}
        return given


class Fail(_Strict):
    """An HTTP error in OpenAI's shape; without `times` it never ends."""

    status: int = Field(ge=400, le=599)
    retry_after: float | None = Field(default=None, ge=0)
    as_date: bool = False
    times: int | None = Field(default=None, ge=1)
    code: str | None = None
    message: str = "The script says so."


class Turn(_Strict):
    """One answer of the model."""

    expect: Expect
    say: str | None = None
    refuse: str | None = None
    call: list[Call] = []
    finish: Literal["stop", "length", "content_filter", "tool_calls"] | None = None
    fail: Fail | None = None
    cut: Literal["text", "tool_call", "before_finish"] | None = None
    hang_seconds: float = Field(default=0.0, ge=0)
    faults: list[Fault] = []
    trouble_times: int | None = Field(default=None, ge=1)
    seconds_per_word: float = Field(default=0.02, ge=0)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        plays = self.say is not None or self.refuse is not None or bool(self.call)
        if not plays and (self.fail is None or self.fail.times is not None):
            raise ValueError('a turn needs say, refuse, call or an endless fail (say: "" is an empty answer)')
        if self.cut == "tool_call" and not self.call:
            raise ValueError("cut: tool_call needs a call")
        if self.trouble_times is not None and not self.has_trouble:
            raise ValueError("trouble_times needs cut, hang_seconds or faults")
        return self

    @property
    def has_trouble(self) -> bool:
        """Whether the wire errs in this turn."""
        return self.cut is not None or self.hang_seconds > 0 or bool(self.faults)

    def without_trouble(self) -> "Turn":
        """The same turn on a sound wire."""
        return self.model_copy(update={"cut": None, "hang_seconds": 0.0, "faults": []})


class Script(_Strict):
    """A whole conversation from one user message on."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    when: str = Field(min_length=1)
    turns: list[Turn] = Field(min_length=1)
    repeat_last: bool = False

    @field_validator("when")
    @classmethod
    def _is_pattern(cls, when: str) -> str:
        _compiled(when)
        return when

    def answers(self, user_text: str) -> bool:
        """Whether this script is one for that user message."""
        return re.search(self.when, user_text, re.IGNORECASE) is not None

    def turn_at(self, position: int) -> Turn | None:
        """The turn after `position` assistant messages, or None beyond the last."""
        if self.repeat_last:
            position = min(position, len(self.turns) - 1)
        return self.turns[position] if position < len(self.turns) else None


def parse_script(text: str, *, source: str) -> Script:
    """Read one script; raises ScriptRefused with `source`, line and field in its sentence."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ScriptRefused(f"{source}: this is no YAML: {' '.join(str(error).split())}") from None
    try:
        return Script.model_validate(document)
    except ValidationError as error:
        # A misspelt key also leaves the right one missing: name the misspelling.
        faults = error.errors(include_url=False)
        first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
        field = ".".join(str(part) for part in first["loc"]) or "the script"
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        raise ScriptRefused(f"{source}, line {_line(node, first['loc'])}: {field}: {what}") from None


def load_scripts(folder: Path) -> list[Script]:
    """All `*.yaml` of a folder, by name of file; raises ScriptRefused, also if the folder is not there."""
    if not folder.is_dir():
        raise ScriptRefused(f"{folder}: there is no such folder of scripts")
    return [parse_script(path.read_text("utf-8"), source=str(path)) for path in sorted(folder.glob("*.yaml"))]


def _compiled(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """The line (from 1) of the deepest node on the way to a field."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == part]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
