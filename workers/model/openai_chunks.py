"""The streamed chunks of Chat Completions, checked, and the one answer that is put together from them."""

from pydantic import BaseModel, ConfigDict, Field

from workers.model.failures import MalformedAnswer
from workers.model.protocol import Finish, ToolCall, Usage

MAX_TOOL_CALLS = 64
MAX_ANSWER_CHARACTERS = 2_000_000

_FINISHES = {
    "stop": Finish.STOP,
    "tool_calls": Finish.TOOL_CALLS,
    "length": Finish.LENGTH,
    "content_filter": Finish.REFUSED,
}


class _Part(BaseModel):
    # The client library builds its objects unchecked; here the same attributes are read and checked.
    model_config = ConfigDict(from_attributes=True, extra="ignore")


class _FunctionPart(_Part):
    name: str | None = None
    arguments: str | None = None


class _CallPart(_Part):
    index: int = Field(ge=0)
    id: str | None = None
    function: _FunctionPart | None = None


class _DeltaPart(_Part):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallPart] | None = None


class _ChoicePart(_Part):
    index: int = 0
    delta: _DeltaPart | None = None
    finish_reason: str | None = None


class _CachedPart(_Part):
    cached_tokens: int | None = None


class _UsagePart(_Part):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    prompt_tokens_details: _CachedPart | None = None


class Chunk(_Part):
    """One event of the stream. No choices is normal in one that only carries the usage."""

    model: str | None = None
    choices: list[_ChoicePart]
    usage: _UsagePart | None = None


class _OpenCall:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def take(self, part: _CallPart) -> None:
        if part.id and self.id and part.id != self.id:
            raise MalformedAnswer("The model's stream gave one tool call two ids.")
        self.id = self.id or part.id or ""
        if part.function is None:
            return
        # A name may come in pieces before the arguments; some servers repeat the whole name in every piece.
        if part.function.name and not (self.arguments and part.function.name == self.name):
            self.name += part.function.name
        if part.function.arguments:
            self.arguments.append(part.function.arguments)

    def close(self) -> ToolCall:
        if not self.id or not self.name:
            missing = "name" if self.id else "id"
            raise MalformedAnswer(f"The model's stream held a tool call without {missing}.")
        return ToolCall(id=self.id, name=self.name, arguments_json="".join(self.arguments))


class OpenAnswer:
    """An answer while it arrives."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.usage: Usage | None = None
        self.has_begun = False
        self._finish: Finish | None = None
        self._text: list[str] = []
        self._is_refused = False
        self._calls: dict[int, _OpenCall] = {}
        self._characters = 0

    @property
    def is_finished(self) -> bool:
        """True once the model has said why it ended; what breaks after that is no loss."""
        return self._finish is not None

    @property
    def received(self) -> str:
        """All that has come so far, joined, for an estimate of its tokens."""
        calls = "".join(call.name + "".join(call.arguments) for call in self._calls.values())
        return "".join(self._text) + calls

    def take(self, chunk: Chunk) -> str:
        """Add a chunk and return its text, perhaps empty; raises MalformedAnswer."""
        self.model = self.model or chunk.model
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        text = ""
        for choice in chunk.choices:
            if choice.index != 0:
                raise MalformedAnswer("The model's server sent a second choice; only one was asked for.")
            self.has_begun = True
            if choice.delta is not None:
                text += self._take_delta(choice.delta)
            if choice.finish_reason is not None:
                if choice.finish_reason not in _FINISHES:
                    raise MalformedAnswer("The model's server gave a finish reason that we do not know.")
                self._finish = _FINISHES[choice.finish_reason]
        return text

    def _take_delta(self, delta: _DeltaPart) -> str:
        for part in delta.tool_calls or ():
            if part.index not in self._calls and len(self._calls) == MAX_TOOL_CALLS:
                raise MalformedAnswer(f"The model asked for more than {MAX_TOOL_CALLS} tool calls at once.")
            self._calls.setdefault(part.index, _OpenCall()).take(part)
            if part.function is not None:
                self._count(part.function.name, part.function.arguments)
        self._count(delta.content, delta.refusal)
        # A refusal is the text of its answer: a reader sees why.
        self._is_refused = self._is_refused or bool(delta.refusal)
        text = (delta.content or "") + (delta.refusal or "")
        self._text.append(text)
        return text

    def _count(self, *pieces: str | None) -> None:
        self._characters += sum(len(piece) for piece in pieces if piece)
        if self._characters > MAX_ANSWER_CHARACTERS:
            raise MalformedAnswer(f"The model's answer is longer than {MAX_ANSWER_CHARACTERS} characters.")

    def close(self) -> tuple[str, tuple[ToolCall, ...], Finish]:
        """Text, calls and finish of the whole answer; raises MalformedAnswer if it is not whole."""
        if self._finish is None:
            cut = "in the middle" if self.has_begun else "before it began"
            raise MalformedAnswer(f"The model's stream ended {cut}, without a finish reason.")
        text = "".join(self._text)
        if self._is_refused or self._finish is Finish.REFUSED:
            return text, (), Finish.REFUSED
        if self._finish is Finish.LENGTH:
            return text, (), Finish.LENGTH
        calls = tuple(self._calls[index].close() for index in sorted(self._calls))
        if len({call.id for call in calls}) < len(calls):
            raise MalformedAnswer("The model's stream gave two tool calls the same id.")
        if self._finish is Finish.TOOL_CALLS and not calls:
            raise MalformedAnswer("The model ended for tool calls, but asked for none.")
        # Some servers say stop behind tool calls; the calls decide.
        return text, calls, Finish.TOOL_CALLS if calls else Finish.STOP


def _usage(part: _UsagePart) -> Usage:
    cached = part.prompt_tokens_details.cached_tokens if part.prompt_tokens_details else None
    return Usage(
        input_tokens=part.prompt_tokens,
        output_tokens=part.completion_tokens,
        cached_input_tokens=min(max(cached or 0, 0), part.prompt_tokens),
    )
