"""What an agent says to a model and hears back, in our own words; no provider's type passes this border."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

LEAST_OUTPUT_TOKENS = 128  # with less to write no model is asked


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


def both(one: Usage | None, other: Usage | None) -> Usage | None:
    """Two usages together, where there are two."""
    return one + other if one and other else one or other


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
    have probably cost besides `usage`; a money limit counts both. `asked`: which of several models was asked.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    finish: Finish
    model: str
    lost_usage: Usage | None = None
    asked: str = ""

    def besides(self, lost: Usage | None, *, asked: str) -> "Answer":
        """The same answer of a model that was asked after others had broken off."""
        return replace(self, lost_usage=both(self.lost_usage, lost), asked=asked)


StreamItem = TextDelta | Restarted | Answer


@dataclass(frozen=True)
class Allowance:
    """What one call to a model may use up, in all its attempts, whichever model answers.

    `output_tokens`: how much one attempt may write. `input_tokens`: what each attempt sends. `total_tokens` and
    `total_usd`: what all attempts may use together; None is no bound. `input_usd` is the dearest price of what is sent,
    `output_usd` that of one written token.
    """

    output_tokens: int
    input_tokens: int = 0
    total_tokens: int | None = None
    total_usd: Decimal | None = None
    input_usd: Decimal = Decimal(0)
    output_usd: Decimal = Decimal(0)

    def within(self, output_tokens: int, *, is_all: bool) -> "Allowance":
        """The same with so many tokens to write; `is_all`: enough for one whole attempt, and no more, is to be had."""
        if not is_all:
            return replace(self, output_tokens=output_tokens)
        return replace(
            self,
            output_tokens=output_tokens,
            total_tokens=self.input_tokens + output_tokens,
            total_usd=self.input_usd + self.output_usd * output_tokens,
        )

    def after(self, lost: Usage | None) -> "Allowance | None":
        """What is left for a further attempt when earlier ones have used this; None when too little is."""
        if lost is None:
            return self
        left = self.output_tokens
        tokens = usd = None
        if self.total_tokens is not None:
            tokens = self.total_tokens - lost.input_tokens - lost.output_tokens
            left = min(left, tokens - self.input_tokens)
        if self.total_usd is not None:
            of_input = self.input_usd / self.input_tokens if self.input_tokens else Decimal(0)
            usd = self.total_usd - of_input * lost.input_tokens - self.output_usd * lost.output_tokens
            affordable = (usd - self.input_usd) / self.output_usd if self.output_usd else Decimal(left)
            left = min(left, int(affordable))
        if left < min(LEAST_OUTPUT_TOKENS, self.output_tokens):
            return None
        return replace(self, output_tokens=left, total_tokens=tokens, total_usd=usd)


class Model(Protocol):
    """Anything that answers a conversation, perhaps with tool calls."""

    @property
    def name(self) -> str:
        """The model asked for, as the server and the price list know it."""
        ...

    def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, allowed: Allowance
    ) -> AsyncGenerator[StreamItem, None]:
        """Answer piece by piece; the last item is the one and only Answer.

        Closing the generator (`contextlib.aclosing`) or cancelling its reader hangs up on the server.
        Raises a ModelFailure (workers.model.failures) if no answer came.
        """
        ...
