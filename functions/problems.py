"""Errors as HTTP says them: RFC 9457 problem+json, and the one map from PAM's errors to statuses."""

import json
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from workers.kernel.errors import PamError, Refused, SignedOut, Unavailable

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
TEXT_MEDIA_TYPES = ["text/", "application/json", MEDIA_TYPE, "application/x-ndjson"]  # for Mangum

_TITLES = {
    400: "The request cannot be read",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Too large",
    422: "Invalid",
    429: "Limit reached",
    500: "Something broke",
    503: "Not available now",
}
_STATUS_OF_REFUSAL = {
    "invalid": 422,
    "not_found": 404,
    "unknown_agent": 404,
    "forbidden": 403,
    "conflict": 409,
    "busy": 409,
    "limit": 429,
    "too_large": 413,
    "signed_out": 401,
}
_CODES = {400: "unreadable", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unreadable"}
_SECONDS_TO_WAIT = {429: "30", 503: "5"}


class SignatureRefused(PamError):
    """A webhook's signature is missing, old, or not ours."""


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, str]] = (),
) -> Response:
    """A problem document (RFC 9457), with our own members code, request_id and errors."""
    body: dict[str, Any] = {
        "type": f"urn:pam:problem:{code}",
        "title": _TITLES.get(status, "The request failed"),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = list(errors)
    extra = dict(headers or {})
    if status in _SECONDS_TO_WAIT:
        extra["retry-after"] = _SECONDS_TO_WAIT[status]
    if status == 401:
        extra.setdefault("www-authenticate", "Bearer")  # RFC 9110 section 11.6.1
    return Response(json.dumps(body), status, media_type=MEDIA_TYPE, headers=extra)


def _id(request: Request) -> str:
    return str(request.scope.get("request_id", ""))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    status = _STATUS_OF_REFUSAL.get(error.code)
    if status is None:
        log.error("a refusal has no status", code=error.code, request_id=_id(request))
        status = 409
    return problem(status, error.code, str(error), request_id=_id(request))


async def _signed_out(request: Request, error: Exception) -> Response:
    challenge = {"www-authenticate": 'Bearer error="invalid_token"'}  # RFC 6750 section 3
    return problem(401, "signed_out", str(error), request_id=_id(request), headers=challenge)


async def _unavailable(request: Request, error: Exception) -> Response:
    log.warning("unavailable", reason=str(error), request_id=_id(request))
    return problem(503, "unavailable", str(error), request_id=_id(request))


async def _bad_signature(request: Request, error: Exception) -> Response:
    headers = {"www-authenticate": "Webhook-Signature"}
    return problem(401, "bad_signature", str(error), request_id=_id(request), headers=headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "failed")
    detail = {
        404: f"There is nothing at {request.url.path[:200]}.",
        405: f"{request.method[:20]} is not possible here.",
    }.get(error.status_code, str(error.detail))
    return problem(error.status_code, code, detail, request_id=_id(request), headers=error.headers)


def unhandled(request_id: str, error: Exception) -> Response:
    """The answer to a fault of ours: an id to look up, and nothing of its insides."""
    # No locals and no foreign message: either may hold a token or what somebody wrote.
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    reason = str(error) if isinstance(error, PamError) else ""
    log.error("request failed", request_id=request_id, error=type(error).__name__, reason=reason, at=frames[-12:])
    detail = "This is our fault, not yours. Tell whoever runs PAM the request_id."
    return problem(500, "internal", detail, request_id=request_id)


def invalid(request: Request, errors: Sequence[Mapping[str, Any]]) -> Response:
    """pydantic's errors without the values they were about, each with the place it was found at."""
    found = []
    for error in errors[:20]:
        place, *path = [str(part) for part in error["loc"]] or ["body"]
        pointer = "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)[:200]  # RFC 6901
        found.append({"in": place, "pointer": f"#/{pointer}", "detail": str(error["msg"])[:200]})
    first = found[0]
    name = first["pointer"].removeprefix("#/") or first["in"]
    return problem(422, "invalid", f"{name}: {first['detail']}", request_id=_id(request), errors=found)


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    Refused: _refused,
    SignedOut: _signed_out,
    Unavailable: _unavailable,
    SignatureRefused: _bad_signature,
    HTTPException: _http,
}
