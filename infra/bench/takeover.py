"""How long a run stands still when its worker is killed, with the lease and the sweep that workers have by default."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from infra.bench.measure import Row
from infra.bench.queued import queue_runs, until_ended
from infra.bench.runs import Bench
from infra.bench.steady_model import steady_model
from infra.chaos.workers import WorkerProcess
from workers.kernel import runqueue
from workers.kernel.runqueue import RunQueue
from workers.kernel.settings import WorkerSettings

_MOST_SECONDS = 30
_PATIENCE_SECONDS = 120
_HELD: LiteralString = """
select count(*) from pam_private.run_heads h join pam.runs r on r.id = h.run_id
 where h.run_id = any (%s) and r.status = 'running' and h.worker like %s
"""
_CLAIMED: LiteralString = """
select extract(epoch from min(e.created_at))::float8 from pam.events e
 where e.run_id = any (%s) and e.type = 'CUSTOM' and e.payload ->> 'name' = 'pam.resumed' group by e.run_id
"""


@dataclass(frozen=True)
class Pace:
    """How many runs lose their worker how often, and how soon that shows: by default as workers are by default."""

    runs: int = 20
    kills: int = 5
    lease_seconds: int = WorkerSettings.lease_seconds
    sweep_seconds: int = int(WorkerSettings.sweep_seconds)


async def takeover(bench: Bench, pace: Pace = Pace()) -> Row:
    """Kill a worker that waits on the model in many runs, again and again, beside one that has none."""
    waits: list[float] = []
    async with (
        steady_model(pause_seconds=600) as url,
        await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as database,
    ):
        holder = await _worker(bench, url, pace)
        try:
            for count in range(pace.kills):
                runs = await queue_runs(database, bench, pace.runs)
                await _held(database, bench, runs, holder)
                heir = await _worker(bench, url, pace)
                # At other moments between two renewals each time: they come with a third of the lease.
                await asyncio.sleep(count / pace.kills * pace.lease_seconds / 3)
                killed_at = time.time()
                await holder.kill()
                holder = heir
                await _held(database, bench, runs, heir, rings=False)
                claimed = await (await database.execute(_CLAIMED, [runs])).fetchall()
                waits += [row[0] - killed_at for row in claimed]
                bench.tell(f"kill {count + 1} of {pace.kills}: {waits[-1]:.1f} s")
                cancel: LiteralString = "update pam.runs set cancel_requested_at = now() where id = any (%s)"
                await database.execute(cancel, [runs])
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await until_ended(database, runs)
        finally:
            await holder.kill()
    waits.sort()
    p50, p95 = (1e3 * waits[int(q * (len(waits) - 1))] for q in (0.5, 0.95))
    made = float(round(p95)), "what is promised", float(1e3 * _MOST_SECONDS), round(p95 / 1e3 / _MOST_SECONDS, 3)
    note = (
        f"p50 {p50 / 1e3:.1f} s; {pace.kills} kills of a worker with {pace.runs} runs;"
        f" a lease of {pace.lease_seconds} s, a sweep every {pace.sweep_seconds} s"
    )
    return Row("takeover after kill -9, p95", "ms", *made, len(waits), note, 1.0, 1.0)


async def _worker(bench: Bench, model_url: str, pace: Pace) -> WorkerProcess:
    lease, sweep = str(pace.lease_seconds), str(pace.sweep_seconds)
    worker = await WorkerProcess.start(
        bench.facts, OPENAI_BASE_URL=model_url, PAM_LEASE_SECONDS=lease, PAM_SWEEP_SECONDS=sweep
    )
    await worker.ready()
    return worker


async def _held(
    database: psycopg.AsyncConnection[Any], bench: Bench, runs: list[UUID], worker: WorkerProcess, *, rings: bool = True
) -> None:
    """Ring for the runs, or trust the sweep to, and wait until this worker holds all of them."""
    if rings:
        queue = RunQueue(redis=runqueue.connect(bench.facts.redis_url))
        for run in runs:
            await queue.ring(run, 1)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while await (await database.execute(_HELD, [runs, f"%:{worker.pid}"])).fetchone() != (len(runs),):
            await asyncio.sleep(0.05)
