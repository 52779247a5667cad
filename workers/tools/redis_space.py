"""An organisation's own corner of Redis, over Upstash's REST face; every write happens once per call id."""

import json
from dataclasses import dataclass
from uuid import UUID

import httpx
from upstash_redis.asyncio import Redis
from upstash_redis.errors import UpstashError

from workers.kernel.errors import Unavailable

_MARK_SECONDS = 86_400
_AWAY = (UpstashError, httpx.HTTPError, OSError)

# KEYS: the value, the mark of this call. ARGV: what to do, value, seconds …
# One atomic step; a repeat answers the first outcome.
_WRITE = """
local seen = redis.call('GET', KEYS[2])
if seen then return seen end
local outcome
if ARGV[1] == 'increment' then
  local now = redis.call('GET', KEYS[1])
  if now and not string.match(now, '^-?%d+$') then
    outcome = cjson.encode({refused = 'The value is no whole number: it cannot be counted up.'})
  else
    local sum = redis.pcall('INCRBY', KEYS[1], ARGV[2])
    if type(sum) == 'table' then
      outcome = cjson.encode({refused = 'The counter would pass what 64 bits hold.'})
    else
      if redis.call('TTL', KEYS[1]) < 0 or ARGV[4] == 'given' then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
      outcome = cjson.encode({value = redis.call('GET', KEYS[1])})
    end
  end
elseif ARGV[1] == 'if_absent' then
  local done = redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3], 'NX')
  outcome = cjson.encode({written = done and true or false})
else
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
  outcome = cjson.encode({written = true})
end
redis.call('SET', KEYS[2], outcome, 'EX', ARGV[5])
return outcome
"""


@dataclass(frozen=True)
class Written:
    """What a write did: whether it was written, a counter's new value, or why it was refused."""

    written: bool = True
    value: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Entry:
    """A key of the organisation with its value's size in bytes and the seconds it has left."""

    key: str
    seconds_left: int


class RedisSpace:
    """Reads and writes below `pam:<organisation>:`; no other prefix can be named."""

    def __init__(self, *, url: str, token: str) -> None:
        self._redis = Redis(url=url, token=token, allow_telemetry=False)

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
            org_id, call_id, key, "increment", str(by), seconds or 604_800, "given" if seconds else "default"
        )

    async def get(self, org_id: UUID, key: str) -> tuple[str, int] | None:
        """A value and the seconds it has left, or None."""
        try:
            value = await self._redis.get(_named(org_id, key))
            seconds = await self._redis.ttl(_named(org_id, key))
        except _AWAY as error:
            raise Unavailable(f"Redis did not answer: {type(error).__name__}") from error
        return None if value is None else (value, seconds)

    async def list(self, org_id: UUID, prefix: str, *, cursor: int, count: int) -> tuple[list[Entry], int]:
        """Keys that begin with the prefix and where to go on (0: that was all); a page may hold fewer than count."""
        pattern = _named(org_id, "".join(f"\\{c}" if c in "*?[]^-\\" else c for c in prefix)) + "*"
        found: list[str] = []
        try:
            for _ in range(50):
                cursor, page = await self._redis.scan(cursor, match=pattern, count=count)
                found.extend(page)
                if cursor == 0 or len(found) >= count:
                    break
            entries = [Entry(key[len(_named(org_id, "")) :], await self._redis.ttl(key)) for key in sorted(found)]
        except _AWAY as error:
            raise Unavailable(f"Redis did not answer: {type(error).__name__}") from error
        return entries, cursor

    async def _write(
        self, org_id: UUID, call_id: UUID, key: str, act: str, value: str, seconds: int, ttl: str
    ) -> Written:
        keys = [_named(org_id, key), f"pam:{org_id}:calls:{call_id}"]
        try:
            answer = await self._redis.eval(_WRITE, keys=keys, args=[act, value, str(seconds), ttl, str(_MARK_SECONDS)])
        except _AWAY as error:
            raise Unavailable(f"Redis did not answer: {type(error).__name__}") from error
        return Written(**json.loads(str(answer)))


def _named(org_id: UUID, key: str) -> str:
    return f"pam:{org_id}:values:{key}"
