"""What an agent says to a model and hears back, in our own words; no provider's type passes this border."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    REFUSED = "refused"


@dataclass(frozen=True)
class ToolCall:
    """A tool the model asks for; `arguments_json` is its raw text, which nobody has validated yet."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    `tool_calls` belong to an assistant's message, `tool_call_id` to a tool's: it names the call it answers.
    """

    role: Role
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class ToolSpec:
    """A tool offered to the model; `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: Mapping[str, object]


@dataclass(frozen=True)
class Usage:
    """Tokens of a call; the cached ones are counted within the input. Estimated if no server counted them."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    is_estimated: bool = False

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            is_estimated=self.is_estimated or other.is_estimated,
        )


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class Restarted:
    """The attempt broke off after deltas were given out: forget them, the answer begins again."""


@dataclass(frozen=True)
class Answer:
    """The whole answer, equal to its deltas joined since the last restart.

    Cut by length or refused, it carries no tool calls: the last one may be half.
    `model` is the name the server gave. `lost_usage` is what earlier attempts of this call that broke off
    have probably cost besides `usage`; a money limit counts both.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    finish: Finish
    model: str
    lost_usage: Usage | None = None


StreamItem = TextDelta | Restarted | Answer


class Model(Protocol):
    """Anything that answers a conversation, perhaps with tool calls."""

    @property
    def name(self) -> str:
        """The model asked for, as the server and the price list know it."""
        ...

    def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, max_output_tokens: int
    ) -> AsyncGenerator[StreamItem, None]:
        """Answer piece by piece; the last item is the one and only Answer.

        Closing the generator (`contextlib.aclosing`) or cancelling its reader hangs up on the server.
        Raises a ModelFailure (workers.model.failures) if no answer came.
        """
        ...
