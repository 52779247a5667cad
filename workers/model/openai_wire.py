"""The adapter to OpenAI and every compatible server, over Chat Completions; alone in importing openai."""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from openai import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    OpenAIError,
    Timeout,
)
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionMessageParam,
)

from workers.model.estimate import estimated_usage
from workers.model.failures import (
    ContextTooLong,
    MalformedAnswer,
    ModelFailure,
    ModelOverloaded,
    ModelRateLimited,
    ModelRefusedRequest,
    ModelTimeout,
    ModelUnreachable,
)
from workers.model.openai_chunks import Chunk, OpenAnswer
from workers.model.protocol import Allowance, Answer, Message, Role, StreamItem, TextDelta, ToolSpec

_TOO_LONG_CODES = {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
_NO_MONEY_CODES = {"insufficient_quota", "billing_hard_limit_reached"}
_SAID_CHARACTERS = 600
_CUT = "complete message body"  # httpx, of an answer that had begun: it is billed

T = TypeVar("T")


class OpenAIModel:
    """A Model behind `POST {base_url}/chat/completions`, streamed; never retries by itself.

    `read_seconds` bounds every silence: before the first byte and between any two pieces.
    """

    def __init__(
        self,
        *,
        name: str,
        api_key: str,
        base_url: str,
        connect_seconds: float = 5.0,
        read_seconds: float = 90.0,
    ) -> None:
        self._name = name
        self._api_key = api_key
        self._read_seconds = read_seconds
        self._client = AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            timeout=Timeout(connect=connect_seconds, read=read_seconds, write=connect_seconds, pool=connect_seconds),
        )

    @property
    def name(self) -> str:
        """The model asked for."""
        return self._name

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, name: str, request: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        """One request of another kind, for the model of this name. Raises a ModelFailure; never retries by itself."""
        try:
            return await request(self._client)
        except OpenAIError as error:
            failure = self._failure(error, has_stream=False, name=name)
        except ValueError:
            failure = MalformedAnswer("The model's server answered in a shape that we do not know.")
        raise failure  # out here, so that no failure carries the library's error, whose request holds the key

    async def _open(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], max_output_tokens: int
    ) -> AsyncStream[object]:
        """Chat Completions by the library's own `post`, as its answer came.

        Its `create` looks through every message, schema and chunk for what it might rename: half of a step's time.
        """
        body = {
            "model": self._name,
            "messages": [_message_param(message) for message in messages],
            "max_completion_tokens": max_output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if tools:
            body["tools"] = [_tool_param(tool) for tool in tools]
        return await self._client.post(
            "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=AsyncStream[object]
        )

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, allowed: Allowance
    ) -> AsyncGenerator[StreamItem, None]:
        """Answer as `Model.stream` says; closing the generator closes the HTTP stream."""
        answer = OpenAnswer()
        has_stream = False
        failure: ModelFailure | None = None
        try:
            stream = await self._open(messages, tools, allowed.output_tokens)
            has_stream = True
            async with stream:
                async for chunk in stream:
                    text = answer.take(Chunk.model_validate(chunk))
                    if text:
                        yield TextDelta(text)
        except ModelFailure as malformed:
            failure = malformed
        except OpenAIError as error:
            failure = None if answer.is_finished else self._failure(error, has_stream=has_stream)
        except ValueError:
            # Broken JSON, broken UTF-8 or a chunk of another shape. What follows the finish is no loss.
            if not answer.is_finished:
                failure = MalformedAnswer("The model's stream held something that is no chunk of an answer.")
        # Raised out here, so that no failure carries the library's error, whose request holds the key.
        usage = answer.usage or estimated_usage(messages, tools, output_text=answer.received)
        try:
            if failure is not None:
                raise failure
            whole_text, calls, finish = answer.close()
        except ModelFailure as final:
            final.lost_usage = usage if answer.has_begun else None
            raise
        yield Answer(text=whole_text, tool_calls=calls, usage=usage, finish=finish, model=answer.model or self._name)

    def _failure(self, error: OpenAIError, *, has_stream: bool, name: str | None = None) -> ModelFailure:
        match error:
            case APITimeoutError():
                return ModelTimeout(
                    f"The model's server was silent for {self._read_seconds:g} seconds or could not be reached in time."
                )
            case APIConnectionError() if has_stream:
                return MalformedAnswer("The model's stream broke off: the connection was lost.")
            case APIConnectionError() if _CUT in str(error.__cause__):
                return MalformedAnswer("The model's answer broke off: the connection was lost.")
            case APIConnectionError():
                return ModelUnreachable("The model's server cannot be reached: check OPENAI_BASE_URL and the network.")
            case APIStatusError():
                retry_after = _retry_after_seconds(error.response.headers)
                return self._status_failure(error, error.status_code, retry_after, name)
            case APIResponseValidationError():
                return MalformedAnswer("The model's server answered in a shape that we do not know.")
            case APIError():
                return self._status_failure(error, _status_in_stream(error), None)
            case _:
                return ModelRefusedRequest("The model client cannot build the request: check its settings.", status=0)

    def _status_failure(
        self, error: APIError, status: int, retry_after: float | None, name: str | None = None
    ) -> ModelFailure:
        name = name or self._name
        if error.code in _TOO_LONG_CODES or "maximum context length" in error.message or status == 413:
            return ContextTooLong(f"The conversation is longer than {name} can read: shorten it.")
        if error.code in _NO_MONEY_CODES:
            return ModelRefusedRequest("The model account has no credit left: check its billing.", status=status)
        match status:
            case 401:
                sentence = "The model's server does not accept our key: check OPENAI_API_KEY."
            case 403:
                sentence = f"Our key may not use the model {name}: check the key's project and region."
            case 404:
                sentence = f"There is no model {name} here: check PAM_MODEL and OPENAI_BASE_URL."
            case 408:
                return ModelTimeout("The model's server gave up waiting for our request.")
            case 429:
                return ModelRateLimited("The model's server asks us to slow down.", retry_after_seconds=retry_after)
            case _ if status >= 500:
                return ModelOverloaded(
                    f"The model's server failed with status {status}.", retry_after_seconds=retry_after
                )
            case _:
                said = error.message.replace(self._api_key, "[key]")[:_SAID_CHARACTERS]
                sentence = f"The model's server refuses this request ({status}); it says: {said}"
                return ModelRefusedRequest(sentence, status=status, is_quoting=True)
        return ModelRefusedRequest(sentence, status=status)


def _status_in_stream(error: APIError) -> int:
    """The status that an error told in mid-stream stands for: 200 has long been sent by then."""
    if error.code is not None and error.code.isdecimal():
        return int(error.code)
    if "rate_limit" in f"{error.code} {error.type}":
        return 429
    return 400 if error.type == "invalid_request_error" else 500


def _retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` as seconds or as a date (RFC 9110, 10.2.3); `retry-after-ms` goes before it."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    for text, divisor in ((milliseconds, 1000), (value, 1)):
        try:
            seconds = float(text or "") / divisor
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        at = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return max(0.0, (at.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _message_param(message: Message) -> ChatCompletionMessageParam:
    match message.role:
        case Role.SYSTEM:
            return {"role": "system", "content": message.text}
        case Role.USER:
            return {"role": "user", "content": message.text}
        case Role.TOOL:
            return {"role": "tool", "content": message.text, "tool_call_id": message.tool_call_id or ""}
        case Role.ASSISTANT:
            # Servers refuse an empty list of calls, and want null rather than "" beside calls.
            said: ChatCompletionAssistantMessageParam = {"role": "assistant", "content": message.text}
            if message.tool_calls:
                said["content"] = message.text or None
                said["tool_calls"] = [
                    ChatCompletionMessageFunctionToolCallParam(
                        id=call.id,
                        type="function",
                        function={"name": call.name, "arguments": call.arguments_json},
                    )
                    for call in message.tool_calls
                ]
            return said


def _tool_param(tool: ToolSpec) -> ChatCompletionFunctionToolParam:
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        },
    }
