"""Who calls: the check of a Supabase token by the project's published keys (JWKS) or its legacy secret."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import httpx
import jwt
import structlog

from workers.kernel.errors import PamError, SignedOut, Unavailable

log = structlog.get_logger()

MAX_TOKEN_CHARACTERS = 8192
MAX_KEY_ID_CHARACTERS = 200
LEEWAY_SECONDS = 5
_ALGORITHM_OF_KEY: Final = {"EC": "ES256", "RSA": "RS256"}  # the key decides, never the token's header


@dataclass(frozen=True)
class Caller:
    """A signed-in person, and the token that speaks for them at PostgREST."""

    user_id: UUID
    token: str = field(repr=False)


class KeyRing:
    """The project's public signing keys by kid, kept for 10 minutes.

    An unknown kid asks the key server again at most once a minute, so forged ones cannot make us ask.
    """

    def __init__(self, *, url: str, http: httpx.AsyncClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._http = http
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asking = asyncio.Lock()
        self._asked_at = self._read_at = float("-inf")
        self._is_away = False

    async def key(self, kid: str) -> jwt.PyJWK:
        """The key of this id. Raises SignedOut for an unknown one, Unavailable when that cannot be known."""
        if self._is_due(kid):
            async with self._asking:
                if self._is_due(kid):
                    await self._ask()
        # When the key server is away, a key that we hold stays good for an hour, no longer.
        if kid in self._keys and self._clock() - self._read_at < 3600:
            return self._keys[kid]
        if self._is_away:
            raise Unavailable("the project's signing keys cannot be read now: try again later")
        raise SignedOut("the token is signed by a key that this project does not publish")

    def _is_due(self, kid: str) -> bool:
        now = self._clock()
        if self._is_away:
            return now - self._asked_at > 5
        return now - self._read_at > (600 if kid in self._keys else 60)

    async def _ask(self) -> None:
        self._asked_at = self._clock()
        try:
            answer = await self._http.get(self._url, timeout=5)
            answer.raise_for_status()
            found = answer.json()["keys"]
        except (httpx.HTTPError, PamError, ValueError, KeyError, TypeError) as error:
            log.warning("signing keys unreadable", error=type(error).__name__)
            self._is_away = True
            return
        self._keys = {key.key_id: key for key in map(_public_key, found) if key and key.key_id}
        self._read_at = self._clock()
        self._is_away = False


def _public_key(published: Any) -> jwt.PyJWK | None:
    """A key that may sign sessions; None for other kinds, above all for symmetric ones."""
    if not isinstance(published, dict):
        return None
    algorithm = _ALGORITHM_OF_KEY.get(str(published.get("kty")))
    if algorithm is None or published.get("alg", algorithm) != algorithm or published.get("use", "sig") != "sig":
        return None
    if algorithm == "ES256" and published.get("crv") != "P-256":
        return None
    try:
        return jwt.PyJWK(published, algorithm)
    except (jwt.PyJWTError, ValueError) as error:
        log.warning("a published signing key is unusable", error=type(error).__name__)
        return None


class CallerCheck:
    """Turns a bearer token into a Caller. No token, and nothing of one, gets into an error or a log."""

    def __init__(self, *, issuer: str, keys: KeyRing, jwt_secret: str | None) -> None:
        self._issuer = issuer
        self._keys = keys
        self._jwt_secret = jwt_secret

    async def verify(self, token: str) -> Caller:
        """Raises SignedOut for a token that is not good, Unavailable when that cannot be known."""
        if not token.isascii() or not 0 < len(token) <= MAX_TOKEN_CHARACTERS:
            raise SignedOut("the token is empty or too long: send the access token of a Supabase session")
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm = await self._key(header)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience="authenticated",
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "sub", "aud", "iss"], "enforce_minimum_key_length": True},
            )
            user_id = UUID(claims["sub"])
        except jwt.ExpiredSignatureError:
            raise SignedOut("the token has expired: refresh the session") from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise SignedOut("the token is not one of this project's: sign in again") from None
        if claims.get("role") != "authenticated":
            raise SignedOut("the token is not a person's: sign in as one")
        return Caller(user_id, token)

    async def _key(self, header: dict[str, Any]) -> tuple[Any, str]:
        """The key and the one algorithm it is good for; what the header says must agree."""
        said, kid = header.get("alg"), header.get("kid")
        if said == "HS256":
            if self._jwt_secret is None:
                raise SignedOut("this project does not accept tokens signed by a shared secret")
            return self._jwt_secret, "HS256"
        if said not in _ALGORITHM_OF_KEY.values():
            raise SignedOut("the token is signed in a way that is not accepted here")
        if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KEY_ID_CHARACTERS:
            raise SignedOut("the token does not name its key")
        key = await self._keys.key(kid)
        return key.key, key.algorithm_name
