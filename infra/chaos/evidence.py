"""What is held against the invariants: the database's rows, the outside ledger's requests, and what was left behind."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from redis.exceptions import RedisError

from infra.chaos.outside import Received
from infra.local.facts import StackFacts
from workers.kernel import runqueue

INVARIANTS = Path(__file__).parent / "invariants.sql"
JOBS = "rq:job:"


@dataclass
class Evidence:
    """What the database cannot know by itself."""

    accepted: list[str] = field(default_factory=list)
    received: list[Received] | None = None
    left: list[dict[str, str]] = field(default_factory=list)

    def told(self) -> str:
        """As invariants.sql reads it."""
        outside = {} if self.received is None else {"received": [asdict(one) for one in self.received]}
        return json.dumps({"accepted": self.accepted, "left": self.left, **outside})


async def breaches_in(connection: psycopg.AsyncConnection[Any], evidence: Evidence) -> list[dict[str, str]]:
    """Every breach of an invariant, as this transaction sees the database: [{"breach", "subject"}]."""
    await connection.execute("select set_config('chaos.evidence', %s, false)", [evidence.told()])
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(INVARIANTS.read_bytes())
        while cursor.nextset():
            pass
        return await cursor.fetchall()


async def breaches(facts: StackFacts, evidence: Evidence) -> list[dict[str, str]]:
    """The same, on a connection of its own; as the superuser, whom nothing is hidden from."""
    async with await psycopg.AsyncConnection.connect(facts.admin_dsn) as connection:
        found = await breaches_in(connection, evidence)
        await connection.rollback()
        return found


async def left_in_redis(facts: StackFacts, *, ended: Iterable[str]) -> list[dict[str, str]]:
    """Jobs of ended runs that wait in the queue or never leave Redis; what a lost worker had expires by itself."""
    runs = set(ended)

    def look() -> list[dict[str, str]]:
        redis = runqueue.connect(facts.redis_url)
        try:
            found = [
                (name, "a job waits in Redis whose run has ended")
                for key in (f"rq:queue:{runqueue.QUEUE}", f"rq:queue:{runqueue.QUEUE}:intermediate")
                for name in (one.decode() for one in redis.lrange(key, 0, -1))  # type: ignore[union-attr]
            ]
            for key in redis.scan_iter(f"{JOBS}*", count=1000):
                if redis.ttl(key) == -1:
                    found.append((key.decode().removeprefix(JOBS), "a job stays in Redis whose run has ended"))
            return [{"what": what, "about": name} for name, what in found if name[:36] in runs]
        finally:
            redis.close()

    try:
        return await asyncio.to_thread(look)
    except RedisError as error:
        return [{"what": "Redis does not answer", "about": type(error).__name__}]


async def connections_of_workers(facts: StackFacts) -> list[dict[str, str]]:
    """Connections that workers left: for when there is no worker any more."""
    async with await psycopg.AsyncConnection.connect(facts.admin_dsn, row_factory=dict_row) as connection:
        rows = await connection.execute(
            "select usename::text as about, 'a connection is left of a worker that is gone' as what"
            " from pg_stat_activity where usename in ('pam_worker', 'pam_agent_sql')"
        )
        return await rows.fetchall()
