"""One breaker per organisation and host, shared by all workers: a host that keeps failing is left alone for a while."""

import asyncio
from uuid import UUID

import httpx
import structlog
from upstash_redis.asyncio import Redis
from upstash_redis.errors import UpstashError

FAILURES = 5
WINDOW_SECONDS = 60
PAUSE_SECONDS = 30
_PATIENCE_SECONDS = 2
_AWAY = (UpstashError, httpx.HTTPError, OSError, TimeoutError)

# Redis' own clock decides, since workers' clocks differ. Both scripts see `shut_until` in milliseconds.
_ENTER = """
local shut = tonumber(redis.call('HGET', KEYS[1], 'shut_until') or '0')
if shut == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now < shut then return shut - now end
redis.call('HSET', KEYS[1], 'shut_until', string.format('%d', now + ARGV[1] * 1000))
redis.call('EXPIRE', KEYS[1], ARGV[1] * 2)
return 0
"""
_FAILED = """
local count = redis.call('HINCRBY', KEYS[1], 'failures', 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
if count >= tonumber(ARGV[1]) then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', KEYS[1], 'shut_until', string.format('%d', now + ARGV[3] * 1000))
end
return count
"""

log = structlog.get_logger()


class Breaker:
    """Shuts after five failures with a minute at most between them; after 30 s one request at a time may try.

    Below `pam:<organisation>:breaker:`, so that no organisation shuts another's way; a model, which all share, below
    `pam:models:breaker:`. Without Redis it stands open: it spares the other side, it guards nothing.
    """

    def __init__(self, *, url: str, token: str) -> None:
        self._redis = Redis(url=url, token=token, allow_telemetry=False, rest_retries=0)

    async def close(self) -> None:
        """Close the HTTP session."""
        await self._redis.close()

    async def enter(self, org_id: UUID | None, authority: str) -> float:
        """0: go ahead. Else the seconds for which the host is left alone."""
        return await self._ask(_ENTER, org_id, authority, [str(PAUSE_SECONDS)]) / 1000

    async def succeeded(self, org_id: UUID | None, authority: str) -> None:
        """The host answered: earlier failures are forgotten."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._redis.delete(_key(org_id, authority))
        except _AWAY as error:
            log.warning("breaker away", error=type(error).__name__)

    async def failed(self, org_id: UUID | None, authority: str) -> None:
        """The host did not answer, or answered that it cannot."""
        await self._ask(_FAILED, org_id, authority, [str(FAILURES), str(WINDOW_SECONDS), str(PAUSE_SECONDS)])

    async def _ask(self, script: str, org_id: UUID | None, authority: str, arguments: list[str]) -> int:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return int(await self._redis.eval(script, keys=[_key(org_id, authority)], args=arguments))
        except _AWAY as error:
            log.warning("breaker away", error=type(error).__name__)
            return 0


def _key(org_id: UUID | None, authority: str) -> str:
    return f"pam:{org_id or 'models'}:breaker:{authority}"
