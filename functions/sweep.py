"""The scheduled backstop: when no worker lives to sweep, this finds due runs and rings for them."""

import asyncio
import os
from typing import Any
from uuid import UUID

import psycopg
import structlog

from functions.settings import SweepSettings
from workers.kernel import runqueue, sweeps, telemetry
from workers.kernel.errors import Unavailable
from workers.kernel.runqueue import RunQueue

log = structlog.get_logger()


async def sweep(*, database_url: str, queue: RunQueue) -> dict[str, int]:
    """Sweep once: {"due", "queued"}. Raises Unavailable; nothing is lost by that, the next sweep rings again.

    A few statements on a connection of its own, and nothing prepared: a transaction pooler is fine with it.
    """
    try:
        async with await psycopg.AsyncConnection.connect(
            database_url,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=5,
            application_name="pam-sweep",
        ) as connection:

            async def call(verb: str, **arguments: Any) -> Any:
                names = ", ".join(f"{name} => %({name})s" for name in arguments)
                statement = f"select pam_worker.{verb}({names})".encode()
                row = await (await connection.execute(statement, arguments or None)).fetchone()
                return row[0] if row else None

            due = await sweeps.sweep(call)
    except psycopg.OperationalError as error:
        # The driver's own message can name the host and the login.
        raise Unavailable(f"the database did not answer ({type(error).__name__})") from None
    queued = 0
    for run in due:
        queued += await queue.ring(UUID(run["run_id"]), run["turn"])
    return {"due": len(due), "queued": queued}


def handler(event: dict[str, Any], context: object) -> dict[str, int]:
    """What the schedule calls. A failure ends the invocation with an error, for the alarm to see."""
    telemetry.configure("sweep")
    settings = SweepSettings.read(os.environ)
    queue = RunQueue(redis=runqueue.connect(settings.redis_url))
    swept = asyncio.run(sweep(database_url=settings.database_url, queue=queue))
    log.info("swept", **swept)
    return swept
