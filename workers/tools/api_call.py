"""Call an HTTP API of somebody else, at a host that the organisation allows."""

import hashlib
import json
from http import HTTPStatus
from typing import Any, Literal

from pydantic import Field

from workers.kernel.errors import Unavailable
from workers.kernel.ledger import allowed_hosts
from workers.kernel.ledger.tool_calls import CallEffect
from workers.outbound.answer import MAX_HEADER_CHARACTERS, Answer
from workers.outbound.client import Injects
from workers.outbound.credentials import Injection
from workers.outbound.failures import OutboundFailed
from workers.outbound.request import Request
from workers.outbound.target import parsed
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.tool import Arguments, Shown, Tool, ToolContext, ToolResult

SHOWN_HEADERS = (
    "content-type", "location", "allow", "etag", "last-modified", "link", "retry-after", "x-request-id",
    "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset",
    "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
)  # fmt: skip
_MAX_TEXT_BYTES = 4_100_000
_SHOWN_BODY_CHARACTERS = 4_000
_CHARSETS = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "utf-8", "iso-8859-1": "latin-1", "latin1": "latin-1"}
_TEXT_TYPES = (
    "application/json",
    "application/xml",
    "application/javascript",
    "application/x-ndjson",
    "application/yaml",
)


class Args(Arguments):
    """A method, a URL, and what goes with it."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: str = Field(
        description="https://host/path?query, percent-encoded, e.g. https://api.example.com/v1/items?limit=5"
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="further headers; never Authorization, Cookie or Host"
    )
    json_body: Any = Field(default=None, description="the body as JSON; for POST, PUT, PATCH and DELETE")
    text_body: str | None = Field(
        default=None, description="the body as text instead; name its Content-Type in headers"
    )
    connection: str | None = Field(
        default=None, description="the name of the organisation's connection whose credential PAM adds"
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Status, the headers that matter, and the body."""
    request = _request(args, str(context.call_id))
    inject = _injecting(args, context)

    async def admits(host: str, port: int) -> bool:
        return await allowed_hosts.is_allowed(context.hold, host, port)

    async def send() -> Answer:
        return await context.services.outbound.send(request, org_id=context.org_id, admits=admits, inject=inject)

    credentials = context.services.credentials
    try:
        answer = await send()
        # What was not let in took no effect, unless a redirect led here: a token is fetched anew, once.
        name = args.connection if answer.status == 401 and not answer.is_redirected else None
        if name and credentials and await credentials.invalidate(context.hold, context.call_id, name):
            answer = await send()
    except OutboundFailed as error:
        if error.was_sent and not request.is_safe:
            raise Unavailable(str(error).rstrip(".")) from None
        raise ToolRetry(f"{error} Nothing was changed there by this call.") from None
    told = {
        "method": args.method,
        "host": answer.target.authority,
        "path": answer.target.path[:500],
        "status": answer.status,
        "bytes": len(answer.body),
        "seconds": answer.seconds,
        "attempts": answer.attempts,
    }
    return ToolResult(_told(answer), notes={"pam.api_called": told}, origin=f"page {_origin(args, answer)}")


async def show(args: Args, context: ToolContext) -> Shown:
    """What leaves the house, to whom and with whose credential."""
    request = _request(args, str(context.call_id))
    lines = [f"{request.method} {request.url}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if args.connection:
        lines.append(f"[with the credential of the connection {args.connection!r}]")
    if request.body is not None:
        body = request.body.decode()
        lines += ["", body[:_SHOWN_BODY_CHARACTERS]]
        if len(body) > _SHOWN_BODY_CHARACTERS:
            digest = hashlib.sha256(request.body).hexdigest()
            lines.append(f"[cut: {len(body):,} characters in all, sha256 {digest}]")
    return Shown("\n".join(lines))


def effect_of(args: Args) -> CallEffect:
    """Every call leaves the house; what DELETE took away does not come back."""
    return CallEffect.IRREVERSIBLE if args.method == "DELETE" else CallEffect.EXTERNAL


def _request(args: Args, key: str) -> Request:
    if args.json_body is not None and args.text_body is not None:
        raise ToolRetry("Give json_body or text_body, not both.")
    headers, body = dict(args.headers), None
    has_type = any(name.lower().replace("_", "-") == "content-type" for name in headers)
    if args.json_body is not None:
        body = json.dumps(args.json_body, ensure_ascii=False).encode()
    elif args.text_body is not None:
        body = args.text_body.encode()
    if body is not None and not has_type:
        headers["Content-Type"] = "application/json" if args.json_body is not None else "text/plain; charset=utf-8"
    return Request(args.method, args.url, headers, body, key)


def _injecting(args: Args, context: ToolContext) -> Injects | None:
    """How the connection's credential gets into the request; the model never learns it."""
    name, credentials = args.connection, context.services.credentials
    if name is None:
        return None
    if credentials is None:
        raise ToolRefused("This installation has no connections yet: call without one.")

    async def inject(host: str) -> Injection:
        return await credentials.injected(context.hold, context.call_id, name, host)

    return inject


def _origin(args: Args, answer: Answer) -> str:
    """Where the answer came from, in words that the asker chose: of a redirect its host alone, which is on the list."""
    asked = parsed(args.url)
    return asked.page[:200] if answer.target.origin == asked.origin else answer.target.origin


def _told(answer: Answer) -> str:
    lines = [f"HTTP {answer.status} {_phrase(answer.status)} from {answer.target.page}"]
    lines += [f"{n}: {v[:MAX_HEADER_CHARACTERS]}" for n, v in answer.headers if n in SHOWN_HEADERS]
    if answer.note:
        lines.append(f"[{answer.note}]")
    text = _text(answer)
    if text is None:
        digest = hashlib.sha256(answer.body).hexdigest()
        size = f"{len(answer.body):,} bytes{'' if answer.is_whole else ' and more'}"
        lines += ["", f"[the body is no text: {size}, sha256 {digest}]"]
    elif text:
        lines += ["", text]
    if text and not answer.is_whole and not answer.note:
        lines.append(f"[cut: the body is longer than {len(answer.body):,} bytes; ask for a smaller part]")
    return "\n".join(lines)


def _text(answer: Answer) -> str | None:
    """The body as text, or None when it is none."""
    if not answer.body:
        return ""
    kind, _, rest = (answer.header("content-type") or "text/plain").lower().partition(";")
    kind = kind.strip()
    if not (kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml"))):
        return None
    named = rest.partition("charset=")[2].partition(";")[0].strip(" \"'") or "utf-8"
    charset = _CHARSETS.get(named)
    if charset is None or b"\0" in answer.body:
        return None
    try:
        return _capped(answer.body.decode(charset))
    except UnicodeDecodeError:
        # A cut may have gone through the middle of a character.
        return None if answer.is_whole else _capped(answer.body.decode(charset, errors="ignore"))


def _capped(text: str) -> str:
    return text.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(a status of its own)"


TOOL = Tool(
    name="api_call",
    description="Call an HTTP API on the Internet at a host that the organisation allows (an admin keeps the list): "
    "read from it or change something there. Answers status, headers and body. Name a connection for APIs that want a "
    "key: PAM adds it, you never see it. Not for the team's own database (database_query), nor for searching the web.",
    arguments=Args,
    run=run,
    effect=CallEffect.IRREVERSIBLE,
    timeout_seconds=60,
    is_repeatable=False,
    effect_of=effect_of,
    show=show,
)
