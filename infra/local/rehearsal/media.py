"""The scripted model's other doors: moderation, transcription and speech on OpenAI's wire, the same answers each time.

A recording that it speaks holds its text, so that its own transcription hears it again. A text that says
`rehearse an error 503` is answered with that status, also by the embeddings; one that says
`rehearse a malformed answer` with a 200 of no known shape, which tells its usage unless the text says `without usage`.
"""

import re
from email.parser import BytesParser
from email.policy import HTTP
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from infra.local.rehearsal.conversation import RequestRefused

CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
MARK = b"REHEARSAL:"
BYTES_PER_SECOND = 2_000
MAX_BYTES = 26_000_000
FORMATS = {"mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav"}
Body = TypeVar("Body", bound=BaseModel)
_ERROR = re.compile(r"rehearse an error (\d{3})")


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)


class _Moderation(_Asked):
    input: str | Annotated[list[str], Field(min_length=1)]


class _Speech(_Asked):
    input: str = Field(min_length=1, max_length=4_096)
    voice: str = Field(min_length=1)
    response_format: Literal["mp3", "opus", "aac", "flac", "wav"] = "mp3"


def refuse_if_told(*texts: str) -> None:
    """Raises RequestRefused with the status that a text asks for."""
    for text in texts:
        if found := _ERROR.search(text):
            raise RequestRefused("The text says so.", status=int(found[1]))


def malformed_if_told(*texts: str, usage: dict[str, object]) -> Response | None:
    """The odd answer that a text asks for, if one does."""
    told = " ".join(texts)
    if "rehearse a malformed answer" not in told:
        return None
    return JSONResponse({"data": 7, "text": 7, "usage": None if "without usage" in told else usage})


async def moderations(request: Request) -> Response:
    """POST /v1/moderations: what names a category is flagged for it."""
    asked = _read(_Moderation, await request.body())
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    refuse_if_told(*texts)
    results = []
    for text in texts:
        found = {category: category in text.lower() for category in CATEGORIES}
        scores = {category: 0.97 if is_found else 0.01 for category, is_found in found.items()}
        types = {category: ["text"] for category in CATEGORIES}
        results.append(
            {
                "flagged": any(found.values()),
                "categories": found,
                "category_scores": scores,
                "category_applied_input_types": types,
            }
        )
    return JSONResponse({"id": "modr-rehearsal", "model": asked.model, "results": results})


async def transcriptions(request: Request) -> Response:
    """POST /v1/audio/transcriptions: multipart with a file, whose words are those that it was spoken with."""
    body = await request.body()
    if len(body) > MAX_BYTES:
        raise RequestRefused("Maximum content size limit exceeded.", status=413)
    told = b"content-type: " + request.headers.get("content-type", "").encode() + b"\r\n\r\n" + body
    message = BytesParser(policy=HTTP).parsebytes(told)
    if message.get_content_type() != "multipart/form-data":
        raise RequestRefused("Send multipart/form-data with a file and a model.")
    fields = {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
        for part in message.iter_parts()
    }
    content = fields.get("file")
    if not isinstance(content, bytes) or not content or not fields.get("model"):
        raise RequestRefused("file and model are required.")
    text = content.removeprefix(MARK).decode(errors="replace") if content.startswith(MARK) else "Nothing to be heard."
    refuse_if_told(text)
    seconds = max(1, len(content) // BYTES_PER_SECOND)
    if odd := malformed_if_told(text, usage={"type": "duration", "seconds": seconds}):
        return odd
    return JSONResponse({"text": text, "usage": {"type": "duration", "seconds": seconds}})


async def speech(request: Request) -> Response:
    """POST /v1/audio/speech: bytes that hold the text."""
    asked = _read(_Speech, await request.body())
    refuse_if_told(asked.input)
    if odd := malformed_if_told(asked.input, usage={}):
        return odd
    return Response(MARK + asked.input.encode(), media_type=FORMATS[asked.response_format])


def _read(kind: type[Body], body: bytes) -> Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RequestRefused(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
