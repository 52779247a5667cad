"""One request and its answer over a connection of its own: nothing is kept, no answer can belong to another request."""

import asyncio
import re
from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import urlencode

import httpcore

from workers.outbound.answer import ENCODINGS, Answer, Body, plain_headers
from workers.outbound.credentials import Injection
from workers.outbound.failures import OutboundFailed, OutboundRefused
from workers.outbound.limits import OutboundLimits
from workers.outbound.request import Request
from workers.outbound.target import Target

_NAME = re.compile(r"[A-Za-z0-9-]{1,100}")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "upgrade"})
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError)
_LATE = (TimeoutError, httpcore.TimeoutException)


async def exchange(
    stream: httpcore.AsyncNetworkStream,
    target: Target,
    request: Request,
    injection: Injection,
    *,
    deadline: float,
    limits: OutboundLimits,
) -> Answer:
    """The answer, its body unpacked and capped; the caller closes the stream.

    Raises OutboundFailed, and OutboundRefused for a body that is not read. An effect that was answered is an answer:
    trouble with the body of one that is not safe becomes its note.
    """
    url = httpcore.URL(
        scheme=target.scheme, host=target.host, port=target.port, target=_request_target(target, injection)
    )
    asked = httpcore.Request(
        request.method,
        url,
        headers=_headers(target, request, injection),
        content=request.body or b"",
        extensions={"timeout": {"read": limits.read_seconds, "write": limits.read_seconds}},
    )
    connection = httpcore.AsyncHTTP11Connection(origin=url.origin, stream=stream)
    try:
        async with asyncio.timeout_at(deadline):
            response = await connection.handle_async_request(asked)
    except _LATE:
        raise OutboundFailed(f"{target.authority} did not answer in time.", was_sent=True) from None
    except _BROKEN:
        raise OutboundFailed(
            f"{target.authority} broke the connection off or answered what is no HTTP.", was_sent=True
        ) from None
    headers = plain_headers(response.headers)
    encoding = ", ".join(value for name, value in headers if name == "content-encoding")
    body = Body(encoding="" if request.method == "HEAD" else encoding, max_bytes=limits.max_body_bytes)
    answer = Answer(target, response.status, headers)
    try:
        async with asyncio.timeout_at(deadline), aclosing(_chunks(response)) as chunks:
            async for chunk in chunks:
                body.add(chunk)
                if body.is_full:
                    return _with(answer, body, is_whole=False)
    except OutboundRefused as error:
        if request.is_safe:
            raise
        return _with(answer, None, is_whole=False, note=str(error))
    except (*_LATE, *_BROKEN) as error:
        what = "did not come in time" if isinstance(error, _LATE) else "broke off"
        if request.is_safe:
            raise OutboundFailed(f"The body of {target.authority}'s answer {what}.", was_sent=True) from None
        return _with(answer, body, is_whole=False, note=f"The body {what}.")
    return _with(answer, body, is_whole=True)


def _with(answer: Answer, body: Body | None, *, is_whole: bool, note: str = "") -> Answer:
    content = body.content if body else b""
    return Answer(answer.target, answer.status, answer.headers, content, is_whole, note)


async def _chunks(response: httpcore.Response) -> Any:
    async for chunk in cast(AsyncIterable[bytes], response.stream):
        yield chunk


def _request_target(target: Target, injection: Injection) -> str:
    given = {piece.partition("=")[0] for piece in target.query.split("&")}
    if given & injection.query.keys():
        raise OutboundRefused("credentials", "The connection sets a parameter of this URL itself: leave it out.")
    query = "&".join(part for part in (target.query, urlencode(injection.query)) if part)
    return f"{target.path}?{query}" if query else target.path


def _headers(target: Target, request: Request, injection: Injection) -> list[tuple[bytes, bytes]]:
    """Ours, then the caller's, then the connection's: a later one takes the place of an earlier one."""
    told: dict[str, tuple[str, str]] = {}

    def tell(name: str, value: str) -> None:
        told[name.lower()] = (name, value)

    tell("Host", target.authority)
    tell("User-Agent", "PAM")
    tell("Accept", "application/json, text/*;q=0.9, */*;q=0.5")
    for name, value in request.headers.items():
        tell(name, value.strip())
    if request.idempotency_key and not request.is_safe:
        tell("Idempotency-Key", request.idempotency_key)
    tell("Accept-Encoding", ENCODINGS)
    tell("Connection", "close")
    if not request.is_safe:
        tell("Content-Length", str(len(request.body or b"")))
    for name, value in injection.headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise OutboundRefused("credentials", "The connection holds a header that cannot be sent: ask its owner.")
        tell(name, value)
    return [(name.encode(), value.encode()) for name, value in told.values()]
