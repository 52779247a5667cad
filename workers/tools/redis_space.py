"""An organisation's own corner of Redis, over Upstash's REST face; every write happens once per call id."""

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from uuid import UUID

import httpx
from upstash_redis.asyncio import Redis
from upstash_redis.errors import UpstashError

from workers.kernel.errors import Unavailable
from workers.tools import redis_steps

DEFAULT_SECONDS = 604_800
_MARK_SECONDS = 86_400
_LEDGER_SECONDS = 2_678_400  # a day longer than the longest value
_OVERHEAD_BYTES = 100  # what Redis itself keeps for a key, about
_AWAY = (UpstashError, httpx.HTTPError, OSError)


@dataclass(frozen=True)
class SpaceLimits:
    """What one organisation may hold, and how full the server may be before no tool writes any more.

    The rest of the server's memory is the queue's: however many organisations there are, work still rings.
    """

    max_keys: int = 10_000
    max_bytes: int = 16 * 1024 * 1024
    max_server_percent: int = 75


@dataclass(frozen=True)
class Written:
    """What a write did: whether it was written, a counter's new value, or why it was refused."""

    written: bool = True
    value: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Entry:
    """A key of the organisation with the seconds it has left."""

    key: str
    seconds_left: int


class CursorUnknown(Exception):
    """The cursor was not given out by this listing of this organisation."""


class RedisSpace:
    """Reads and writes below `pam:<organisation>:`; no other prefix can be named."""

    def __init__(self, *, url: str, token: str, limits: SpaceLimits | None = None) -> None:
        self._redis = Redis(url=url, token=token, allow_telemetry=False)
        self._limits = limits or SpaceLimits()
        self._cursor_key = hashlib.sha256(b"pam cursor:" + token.encode()).digest()

    async def close(self) -> None:
        """Close the HTTP session."""
        await self._redis.close()

    async def set(
        self, org_id: UUID, call_id: UUID, key: str, value: str, *, seconds: int, only_if_absent: bool
    ) -> Written:
        """Write a value with a time to live. Raises Unavailable."""
        return await self._write(
            org_id, call_id, key, "if_absent" if only_if_absent else "set", value, seconds, "given"
        )

    async def increment(self, org_id: UUID, call_id: UUID, key: str, by: int, *, seconds: int | None) -> Written:
        """Count up (or down) and answer the sum; a new counter lives for the seconds given, else a week."""
        return await self._write(
            org_id, call_id, key, "increment", str(by), seconds or DEFAULT_SECONDS, "given" if seconds else "default"
        )

    async def get(self, org_id: UUID, key: str) -> tuple[str, int] | None:
        """A value and the seconds it has left, or None."""
        try:
            value, seconds = await self._redis.eval(redis_steps.LOOK, keys=[_named(org_id, key)])
        except _AWAY as error:
            raise Unavailable(f"Redis did not answer: {type(error).__name__}") from error
        return None if value is None else (value, seconds)

    async def list(
        self, org_id: UUID, prefix: str, *, cursor: str | None, count: int
    ) -> tuple[list[Entry], str | None]:
        """Keys that begin with the prefix, in order of their bytes, and where to go on (None: that was all).

        A key that is there during the whole listing is listed exactly once, whatever else is written meanwhile; a page
        may hold fewer than count. Raises CursorUnknown.
        """
        last = self._opened(org_id, prefix, cursor) if cursor else ""
        try:
            names = await self._redis.eval(
                redis_steps.PAGE, keys=[f"pam:{org_id}:names"], args=[prefix, last, str(count)]
            )
            pipeline = self._redis.pipeline()
            for name in names:
                pipeline.ttl(_named(org_id, name))
            lives = [int(str(seconds)) for seconds in await pipeline.exec()] if names else []
        except _AWAY as error:
            raise Unavailable(f"Redis did not answer: {type(error).__name__}") from error
        entries = [Entry(name, seconds) for name, seconds in zip(names, lives, strict=True) if seconds >= 0]
        return entries, self._sealed(org_id, prefix, names[-1]) if len(names) == count else None

    async def _write(
        self, org_id: UUID, call_id: UUID, key: str, act: str, value: str, seconds: int, ttl: str
    ) -> Written:
        keys = [_named(org_id, key), f"pam:{org_id}:calls:{call_id}"]
        keys += [f"pam:{org_id}:{ledger}" for ledger in ("names", "sizes", "ends", "used")]
        limits = self._limits
        numbers = (_MARK_SECONDS, limits.max_keys, limits.max_bytes, _LEDGER_SECONDS, _OVERHEAD_BYTES)
        args = [act, value, str(seconds), ttl, key, str(call_id), *map(str, numbers), str(limits.max_server_percent)]
        try:
            answer = json.loads(str(await self._redis.eval(redis_steps.WRITE, keys=keys, args=args)))
        except _AWAY as error:
            raise Unavailable(f"Redis did not answer: {type(error).__name__}") from error
        if full := answer.get("full"):
            return Written(written=False, refused=_full(full, limits, answer.get("used", 0)))
        return Written(**answer)

    def _sealed(self, org_id: UUID, prefix: str, last: str) -> str:
        """Where a listing goes on, for this organisation and prefix alone."""
        seal = self._seal(org_id, prefix, last.encode())
        return base64.urlsafe_b64encode(seal + last.encode()).decode().rstrip("=")

    def _opened(self, org_id: UUID, prefix: str, cursor: str) -> str:
        try:
            told = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except (binascii.Error, ValueError):
            raise CursorUnknown from None
        seal, last = told[:12], told[12:]
        if not hmac.compare_digest(seal, self._seal(org_id, prefix, last)):
            raise CursorUnknown
        return last.decode()

    def _seal(self, org_id: UUID, prefix: str, last: bytes) -> bytes:
        told = b"\0".join([str(org_id).encode(), prefix.encode(), last])
        return hmac.digest(self._cursor_key, told, "sha256")[:12]


def _named(org_id: UUID, key: str) -> str:
    return f"pam:{org_id}:values:{key}"


def _full(what: str, limits: SpaceLimits, used: int) -> str:
    """Why nothing more fits, and what to do."""
    match what:
        case "keys":
            held = f"it holds {limits.max_keys:,} keys, the most there may be"
        case "bytes":
            held = f"{used:,} of {limits.max_bytes:,} bytes are taken, and this would not fit"
        case _:
            return "Redis as a whole is nearly full, and the rest is kept for the queue: put the text into a file."
    return (
        f"The organisation's corner of Redis is full: {held}. Overwrite what is not needed with seconds=1, "
        "or put the text into a file."
    )
