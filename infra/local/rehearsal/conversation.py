"""A chat request as the scripted model reads it: messages in the shapes that OpenAI's API accepts."""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 3


class RequestRefused(Exception):
    """The request is answered with an OpenAI-shaped error."""

    def __init__(self, message: str, *, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class _Given(BaseModel):
    # Extra keys are what a real server has and we do not play (temperature, store, user …).
    model_config = ConfigDict(extra="ignore", frozen=True)


class _TextPart(_Given):
    text: str = ""


class _CalledFunction(_Given):
    name: str
    arguments: str


class _Called(_Given):
    id: str
    function: _CalledFunction


class HeardMessage(_Given):
    """One message that was sent to us."""

    role: str
    content: str | list[_TextPart] | None = None
    tool_calls: list[_Called] = []
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text, parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _OfferedFunction(_Given):
    name: str
    description: str = ""
    parameters: dict[str, object] = {}


class _Offered(_Given):
    function: _OfferedFunction


class _StreamOptions(_Given):
    include_usage: bool = False


class _JsonSchema(_Given):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    schema_: dict[str, object] = Field(alias="schema")
    strict: bool | None = None


class _ResponseFormat(_Given):
    """What the answer must look like. A script says what it says: whoever asked holds it against the schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None

    @model_validator(mode="after")
    def _names_its_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema: a schema with a name is required")
        return self


class ChatRequest(_Given):
    """The body of POST /v1/chat/completions."""

    model: str = Field(min_length=1)
    messages: list[HeardMessage] = Field(min_length=1)
    tools: list[_Offered] = []
    stream: bool = False
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None

    @property
    def offered(self) -> set[str]:
        """Names of the tools on offer."""
        return {tool.function.name for tool in self.tools}

    @property
    def input_tokens(self) -> int:
        """Each message: three and what its text, calls and arguments count; each tool: its JSON."""
        messages = sum(
            TOKENS_PER_MESSAGE
            + counted_tokens(message.text)
            + sum(counted_tokens(call.function.name + call.function.arguments) for call in message.tool_calls)
            for message in self.messages
        )
        return messages + sum(counted_tokens(json.dumps(tool.model_dump())) for tool in self.tools)

    @property
    def digest(self) -> str:
        """The same for the same messages: a resumed step is known again by it."""
        told = [message.model_dump(mode="json") for message in self.messages]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]

    def meetings(self) -> list[list[HeardMessage]]:
        """What stands before each answer since the newest user message.

        The first holds that user message, the last what has come since the last assistant message.
        Raises RequestRefused if nobody has spoken.
        """
        starts = [index for index, message in enumerate(self.messages) if message.role == "user"]
        if not starts:
            raise RequestRefused("There is no user message in this conversation.", code="rehearsal_no_script")
        meetings: list[list[HeardMessage]] = [[]]
        for message in self.messages[starts[-1] :]:
            if message.role == "assistant":
                meetings.append([])
            else:
                meetings[-1].append(message)
        return meetings

    def results_of(self, tool: str, heard: Sequence[HeardMessage]) -> list[HeardMessage]:
        """Those of the tool results heard which answer a call of that tool."""
        ids = {call.id for message in self.messages for call in message.tool_calls if call.function.name == tool}
        return [message for message in heard if message.tool_call_id in ids]


def counted_tokens(text: str) -> int:
    """The rehearsal's rule: UTF-8 bytes divided by four, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def read_chat_request(body: bytes) -> ChatRequest:
    """Check the body; raises RequestRefused naming the first field at fault."""
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise RequestRefused(f"{field}: {first['msg']}", code="invalid_request") from None
