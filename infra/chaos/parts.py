"""The parts of a running stack as processes: killed, frozen and flushed; its supervisor starts again what ends."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import redis.asyncio
from redis.exceptions import RedisError

from infra.local.facts import StackFacts

# Processes die here, the machine does not: what Postgres has written stays, without waiting for the disk.
NO_POWER_CUT = (("fsync", "off"), ("full_page_writes", "off"))
# What ends a part at once. Postgres: an immediate shutdown, as a crash is to whoever is connected.
AT_ONCE = {"postgres": signal.SIGQUIT}


RedisAilment = Literal["read-only", "full", "slow"]
_AILMENTS = {
    "read-only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "slow": (("CLIENT", "PAUSE", "1500", "ALL"), ("CLIENT", "UNPAUSE")),
}


class Parts:
    """Whoever the stack's supervisor looks after, by name."""

    def __init__(self, *, facts: StackFacts) -> None:
        self._facts = facts

    def pid(self, name: str) -> int:
        """The process that plays this part now."""
        noted: dict[str, tuple[int, float]] = json.loads((Path(self._facts.state) / "children.json").read_text())
        return noted[name][0]

    def kill(self, name: str) -> int:
        """End it at once; answers whom."""
        pid = self.pid(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, AT_ONCE.get(name, signal.SIGKILL))
        return pid

    async def freeze(self, name: str, *, seconds: float) -> None:
        """Let it be silent for a while: whoever is connected stays connected."""
        pid = self.pid(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def flush_redis(self) -> None:
        """FLUSHALL: the queue is gone, and everything that tools have stored."""
        client = redis.asyncio.Redis.from_url(self._facts.redis_url)
        try:
            with contextlib.suppress(RedisError, OSError):
                await client.flushall()
        finally:
            await client.aclose()

    @contextlib.asynccontextmanager
    async def ailing_redis(self, how: RedisAilment) -> AsyncIterator[None]:
        """Redis answers, but not as it should, for as long as the context lasts."""
        begin, end = _AILMENTS[how]
        client = redis.asyncio.Redis.from_url(self._facts.redis_url)
        try:
            await client.execute_command(*begin)  # type: ignore[no-untyped-call]
            yield
        finally:
            await client.execute_command(*end)  # type: ignore[no-untyped-call]
            await client.aclose()

    @contextlib.asynccontextmanager
    async def away(self, name: str) -> AsyncIterator[None]:
        """The part is killed and stays away for as long as the context lasts: its supervisor stands still."""
        pid = self.pid(name)
        os.kill(self._facts.supervisor_pid, signal.SIGSTOP)
        try:
            self.kill(name)
            yield
        finally:
            os.kill(self._facts.supervisor_pid, signal.SIGCONT)
        await self.is_back(name, after=pid)

    async def is_back(self, name: str, *, after: int) -> None:
        """Wait until another process than the one that was killed plays the part."""
        async with asyncio.timeout(60):
            while self.pid(name) == after:
                await asyncio.sleep(0.05)
