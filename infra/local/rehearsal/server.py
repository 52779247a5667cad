"""The doors of the scripted model: OpenAI's paths under /v1, its own under /rehearsal."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from infra.local.rehearsal import media
from infra.local.rehearsal.conversation import RequestRefused, counted_tokens, read_chat_request
from infra.local.rehearsal.cue import Cue
from infra.local.rehearsal.embedding import DIMENSIONS, as_base64, embedding
from infra.local.rehearsal.frames import Frame, completion, frames
from infra.local.rehearsal.scripts import Fail, ScriptRefused, parse_script
from infra.local.rehearsal.stage import Stage

MODELS = ("rehearsal", "rehearsal-small")
MAX_SCRIPT_BYTES = 1_000_000


class _Performance(StreamingResponse):
    """Frames at their pace; ends the connection at a drop, and tells the stage if the reader hangs up."""

    def __init__(self, *, told: Iterator[Frame], cue: Cue, stage: Stage) -> None:
        self._told = told
        self._cue = cue
        self._stage = stage
        super().__init__((), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def stream_response(self, send: Send) -> None:
        has_ended = False
        try:
            has_ended = await self._send_frames(send)
        finally:
            if not has_ended:
                self._stage.abandon(self._cue)

    async def _send_frames(self, send: Send) -> bool:
        started = False
        for frame in self._told:
            if frame.pause_seconds:
                await asyncio.sleep(frame.pause_seconds)
            if not started:
                start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(start)
                started = True
            if frame.drops:
                # Returning without a last body makes uvicorn close the connection in mid-body.
                return True
            await send({"type": "http.response.body", "body": frame.data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True


class _EmbeddingRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int = Field(default=DIMENSIONS, ge=8, le=4096)


def create_rehearsal(*, stage: Stage) -> Starlette:
    """The app; one Stage holds all that it remembers."""

    async def chat(request: Request) -> Response:
        _require_bearer(request)
        asked = read_chat_request(await request.body())
        cue, fail = stage.cue(asked)
        if fail is not None:
            return _failed(fail)
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return _Performance(told=frames(cue, model=asked.model, with_usage=with_usage), cue=cue, stage=stage)
        await asyncio.sleep(cue.turn.hang_seconds)
        if cue.turn.cut is not None:
            half = Frame(b'{"id": "chatcmpl-')
            return _Performance(told=iter([half, Frame(b"", drops=True)]), cue=cue, stage=stage)
        return JSONResponse(completion(cue, model=asked.model))

    async def embeddings(request: Request) -> Response:
        _require_bearer(request)
        try:
            asked = _EmbeddingRequest.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise RequestRefused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not texts or not all(texts):
            raise RequestRefused("input: an empty text has no embedding")
        media.refuse_if_told(*texts)
        vectors = [embedding(text, dimensions=asked.dimensions) for text in texts]
        tokens = sum(counted_tokens(text) for text in texts)
        if odd := media.malformed_if_told(*texts, usage={"prompt_tokens": tokens, "total_tokens": tokens}):
            return odd
        return JSONResponse(
            {
                "object": "list",
                "model": asked.model,
                "data": [
                    {
                        "object": "embedding",
                        "index": index,
                        "embedding": as_base64(vector) if asked.encoding_format == "base64" else vector,
                    }
                    for index, vector in enumerate(vectors)
                ],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    def behind_key(door: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def opened(request: Request) -> Response:
            _require_bearer(request)
            return await door(request)

        return opened

    async def models(request: Request) -> Response:
        _require_bearer(request)
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "rehearsal"} for name in MODELS]
        return JSONResponse({"object": "list", "data": listed})

    async def report(request: Request) -> Response:
        return JSONResponse(stage.report(script=request.query_params.get("script")))

    async def put_script(request: Request) -> Response:
        name = str(request.path_params["name"])
        body = await request.body()
        if len(body) > MAX_SCRIPT_BYTES:
            raise RequestRefused(f"A script has at most {MAX_SCRIPT_BYTES} bytes.", status=413)
        try:
            script = parse_script(body.decode("utf-8"), source=name)
        except (ScriptRefused, UnicodeDecodeError) as refused:
            raise RequestRefused(str(refused), code="rehearsal_script_refused") from None
        if script.name != name:
            raise RequestRefused(f"The script calls itself {script.name}, the path says {name}.")
        stage.put(script)
        return JSONResponse({"name": script.name, "turns": len(script.turns)})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/moderations", behind_key(media.moderations), methods=["POST"]),
            Route("/v1/audio/transcriptions", behind_key(media.transcriptions), methods=["POST"]),
            Route("/v1/audio/speech", behind_key(media.speech), methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/rehearsal/report", report, methods=["GET"]),
            Route("/rehearsal/scripts/{name}", put_script, methods=["PUT"]),
        ],
        exception_handlers={RequestRefused: _refused, HTTPException: _no_door, ClientDisconnect: _nobody},
    )


def _require_bearer(request: Request) -> None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise RequestRefused("You didn't provide an API key.", code="invalid_api_key", status=401)


def _failed(fail: Fail) -> Response:
    headers: dict[str, str] = {}
    if fail.retry_after is not None:
        at = datetime.now(UTC) + timedelta(seconds=fail.retry_after)
        headers["retry-after"] = format_datetime(at, usegmt=True) if fail.as_date else f"{fail.retry_after:g}"
    return _error(fail.status, fail.message, fail.code, headers)


async def _refused(request: Request, error: Exception) -> Response:
    status, code = (error.status, error.code) if isinstance(error, RequestRefused) else (500, None)
    return _error(status, str(error), code)


async def _no_door(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error(status, f"Invalid URL ({request.method} {request.url.path})", "unknown_url")


async def _nobody(request: Request, error: Exception) -> Response:
    """The caller left before we had read the question; nobody reads this answer."""
    return Response(status_code=400)


def _error(status: int, message: str, code: str | None, headers: dict[str, str] | None = None) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    kind = "rate_limit_error" if status == 429 else kind
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)
