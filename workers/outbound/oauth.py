"""OAuth 2 for machines: an access token by client credentials or by a refresh token (RFC 6749, 4.4 and 6)."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote_plus, urlencode
from uuid import UUID

from workers.kernel.errors import Refused, Unavailable
from workers.kernel.ledger.connections import ConnectionKind, ConnectionTerms
from workers.kernel.vault import Secret
from workers.outbound.client import Outbound
from workers.outbound.credentials import Injection
from workers.outbound.failures import OutboundFailed
from workers.outbound.limits import OutboundLimits
from workers.outbound.request import Request
from workers.outbound.target import parsed

MAX_ANSWER_BYTES = 65_536
MAX_TOKEN_CHARACTERS = 16_384
DEFAULT_SECONDS = 300
FETCH_SECONDS = 20.0
MAX_SECONDS = 86_400
# RFC 6749, 5.2. Any other word of the endpoint, and its descriptions, may say anything: they are not passed on.
_ERRORS = (
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
)


@dataclass(frozen=True)
class TokenAnswer:
    """What a token endpoint answered."""

    status: int
    body: bytes = field(repr=False)


class TokenPost(Protocol):
    """How a form reaches a token endpoint for an organisation: one request, no redirect, at most MAX_ANSWER_BYTES read.

    Raises Refused or Unavailable.
    """

    async def __call__(
        self, url: str, *, org_id: UUID, headers: Mapping[str, str], form: Mapping[str, str]
    ) -> TokenAnswer: ...


@dataclass(frozen=True)
class FetchedToken:
    """An access token, the seconds it lives, and the refresh token that takes the place of the last, if any."""

    access_token: str = field(repr=False)
    seconds: int
    refresh_token: str | None = field(repr=False, default=None)


def post_through(outbound: Outbound) -> TokenPost:
    """Token requests through the guarded client; an admin's word for the endpoint stands for the list of hosts.

    It should follow no redirect, try once, and read MAX_ANSWER_BYTES: see token_limits.
    """

    async def post(url: str, *, org_id: UUID, headers: Mapping[str, str], form: Mapping[str, str]) -> TokenAnswer:
        home = parsed(url)
        shown = {name: value for name, value in headers.items() if name != "authorization"}
        shown["content-type"] = "application/x-www-form-urlencoded"
        request = Request("POST", url, shown, urlencode(form).encode())

        async def admits(host: str, port: int) -> bool:
            return (host, port) == (home.host, home.port)

        async def inject(_: str) -> Injection:
            return Injection({name: value for name, value in headers.items() if name == "authorization"})

        try:
            answer = await outbound.send(request, org_id=org_id, admits=admits, inject=inject)
        except OutboundFailed as error:
            raise Unavailable(f"the token endpoint did not answer: {error}") from None
        if not answer.is_whole:
            raise Refused("token", "The token endpoint answered more than 64 KiB.")
        return TokenAnswer(answer.status, answer.body)

    return post


def token_limits() -> OutboundLimits:
    """One request, no redirect, a small answer."""
    return OutboundLimits(total_seconds=FETCH_SECONDS, attempts=1, max_redirects=0, max_body_bytes=MAX_ANSWER_BYTES)


async def fetch(post: TokenPost, terms: ConnectionTerms, secret: Secret) -> FetchedToken:
    """A new access token for a connection.

    Raises Refused when the endpoint says no or answers what is no bearer token, Unavailable when it may work later.
    """
    headers, form = _asked(terms, secret)
    answer = await post(str(terms.settings["token_url"]), org_id=terms.org_id, headers=headers, form=form)
    if answer.status in (408, 425, 429) or answer.status >= 500:
        raise Unavailable(f"the token endpoint of {terms.name} answered {answer.status}: try again later")
    told = _told(answer.body)
    if answer.status != 200:
        word = told.get("error")
        why = f"{answer.status}, {word}" if word in _ERRORS else str(answer.status)
        raise Refused("token", f"The token endpoint of {terms.name} refused ({why}): an admin checks and rotates it.")
    return _token(told, terms)


def _asked(terms: ConnectionTerms, secret: Secret) -> tuple[dict[str, str], dict[str, str]]:
    settings = terms.settings
    headers, form = {"accept": "application/json"}, {"grant_type": "client_credentials"}
    client_secret: str | None = secret.secret
    if terms.kind is ConnectionKind.OAUTH2_REFRESH:
        form = {"grant_type": "refresh_token", "refresh_token": secret.secret}
        client_secret = secret.client_secret
    if settings.get("scopes"):
        form["scope"] = " ".join(settings["scopes"])
    if settings.get("audience"):
        form["audience"] = settings["audience"]
    if client_secret is None:
        form["client_id"] = settings["client_id"]
    elif settings.get("client_auth") == "body":
        form |= {"client_id": settings["client_id"], "client_secret": client_secret}
    else:  # both form-encoded first: RFC 6749, 2.3.1
        pair = f"{quote_plus(settings['client_id'])}:{quote_plus(client_secret)}"
        headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return headers, form


def _told(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body) if len(body) <= MAX_ANSWER_BYTES else None
    except (ValueError, RecursionError):
        told = None  # the error would carry the body
    return told if isinstance(told, dict) else {}


def _token(told: dict[str, Any], terms: ConnectionTerms) -> FetchedToken:
    """RFC 6749, 5.1, read strictly: only what can go into a header, only of the type bearer."""
    token, kind, refresh = told.get("access_token"), told.get("token_type"), told.get("refresh_token")
    seconds = told.get("expires_in", DEFAULT_SECONDS)
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit():
        seconds = int(seconds[:9])
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise Refused("token", f"The token endpoint of {terms.name} gave no bearer token: other types are not used.")
    if not _is_word(token) or not (refresh is None or _is_word(refresh)):
        raise Refused("token", f"The token endpoint of {terms.name} answered what is no token.")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 1:
        raise Refused("token", f"The token endpoint of {terms.name} gave a token that has expired already.")
    return FetchedToken(str(token), int(min(seconds, MAX_SECONDS)), refresh)


def _is_word(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_TOKEN_CHARACTERS
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )
