"""Jobs as tests look at them: submitted on a bench, swept up on the sweeper's own login, carried out by hand."""

from typing import Any
from uuid import UUID

import psycopg

from tests.database.world import BROKEN, FINISHED, call, step
from tests.support.bench import Bench
from tests.support.database import Database
from workers.kernel import sweeps

GET = {"task": "redis_get", "arguments": {"key": "a"}}


async def jobs(bench: Bench) -> list[dict[str, Any]]:
    return await bench.database.admin(
        "select *, status::text as state from pam.jobs where org_id = %s order by created_at", bench.org_id
    )


async def submitted(bench: Bench, **more: Any) -> UUID:
    """A job of redis_get, unless said."""
    before = {row["id"] for row in await jobs(bench)}
    status, said = await bench.use("celery_task", action="submit", **{**GET, **more})
    assert status == "succeeded", said
    return UUID(str(next(row["id"] for row in await jobs(bench) if row["id"] not in before)))


async def swept(database: Database) -> list[dict[str, Any]]:
    """A whole sweep, on the sweeper's own login."""
    async with await psycopg.AsyncConnection.connect(database.sweeper_dsn, autocommit=True) as connection:

        async def verb(name: str, **arguments: Any) -> Any:
            names = ", ".join(f"{key} => %({key})s" for key in arguments)
            row = await (
                await connection.execute(f"select pam_worker.{name}({names})".encode(), arguments or None)
            ).fetchone()
            return row[0] if row else None

        return await sweeps.sweep(verb)


async def ran(bench: Bench, job: UUID, *, status: str = "failed", calls: tuple[tuple[str, str], ...] = ()) -> UUID:
    """Be the worker of a job's run, and end it: calls are (effect, outcome)."""
    run = next(row["run_id"] for row in await jobs(bench) if row["id"] == job)
    held = {"run_id": run, "fence": await bench.database.claimed(run)}
    planned = [call("api_call", effect) for effect, _ in calls]
    await bench.database.worker("record_step", **held, step=step(), calls=planned, events=[])
    for one, (_, outcome) in zip(planned, calls, strict=True):
        await bench.database.worker("begin_call", **held, id=one["id"])
        await bench.database.worker(
            "finish_call", **held, id=one["id"], status=outcome, result=f"it {outcome}", events=[]
        )
    last = FINISHED if status == "succeeded" else BROKEN
    await bench.database.worker("finish_run", **held, status=status, reason="x", events=[last])
    return UUID(str(run))
