"""LISTEN on one connection for the gateway's tasks, and find the way back when Postgres restarts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import sql

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0


class Notices:
    """Carries notifications to queues, one per channel, in the order of the commits.

    A queue also receives "" after every (re)connection: what was committed in between was not announced.
    """

    def __init__(self, *, dsn: str) -> None:
        self._dsn = dsn
        self._queues: dict[str, asyncio.Queue[str]] = {}

    def queue(self, channel: str) -> asyncio.Queue[str]:
        """The queue of one channel; ask for it before `run`."""
        return self._queues.setdefault(channel, asyncio.Queue())

    async def run(self) -> None:
        """Listen until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
                    for channel, queue in self._queues.items():
                        await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                        queue.put_nowait("")
                    pause = FIRST_PAUSE_SECONDS
                    async for notice in connection.notifies():
                        self._queues[notice.channel].put_nowait(notice.payload)
            except (psycopg.Error, OSError) as error:
                log.warning("the gateway lost Postgres (%s), next try in %.1f s", type(error).__name__, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


async def repeat_until_cancelled(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` again and again; a failure is logged, for one must not stop the rest."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            await work()
        except (psycopg.Error, OSError) as error:
            log.warning("%s waits for Postgres (%s)", name, type(error).__name__)
        except Exception:
            log.exception("%s failed and goes on", name)
        else:
            pause = FIRST_PAUSE_SECONDS
            continue
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def drain(queue: asyncio.Queue[str], first: str, limit: int) -> list[str]:
    """The first payload and those that wait behind it, at most `limit`, without the empty ones."""
    payloads = [first]
    while len(payloads) < limit and not queue.empty():
        payloads.append(queue.get_nowait())
    return [payload for payload in payloads if payload]
