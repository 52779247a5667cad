"""Figures of many runs at once on two worker processes, against RQ's own pool of two that forks for each job."""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psutil
import psycopg
from redis import Redis
from rq import Queue, Worker

from infra.bench.measure import Row
from infra.bench.queued import are_unfinished, queue_runs
from infra.bench.runs import Bench
from infra.bench.steady_model import PAUSE_SECONDS, steady_model
from infra.local.facts import StackFacts
from infra.local.stack import ROOT, worker_environment
from workers.kernel import runqueue
from workers.kernel.runqueue import RunQueue

PROCESSES = 2
POOL = "bench-pool"
_PATIENCE_SECONDS = 300
_TIMES: LiteralString = """
select r.status::text, extract(epoch from r.ended_at)::float8,
       extract(epoch from (select min(e.created_at) from pam.events e where e.run_id = r.id))::float8
  from pam.runs r where r.id = any (%s)
"""


@dataclass(frozen=True)
class Batch:
    """What a batch of runs took, in seconds from its first ring; memory in bytes, processor seconds in all workers."""

    whole: float
    first: list[float]
    ended: list[float]
    peak_bytes: int
    cpu_seconds: float


class Crew:
    """Worker processes of ours, and as many of RQ's own pool on the same Redis."""

    def __init__(self, *, bench: Bench, workers: list[psutil.Process], database: psycopg.AsyncConnection[Any]) -> None:
        self._bench = bench
        self._workers = workers
        self.database = database
        self.redis = runqueue.connect(bench.facts.redis_url)

    @classmethod
    @asynccontextmanager
    async def open(cls, bench: Bench, *, processes: int = PROCESSES) -> AsyncIterator["Crew"]:
        """Start so many of both, and wait until they listen."""
        facts = bench.facts
        async with steady_model() as url:
            with tempfile.TemporaryFile() as log:
                ours = await _process(
                    *(sys.executable, "-m", "workers.main", "-n", str(processes)),
                    env={**_own(facts), "OPENAI_BASE_URL": url, "PAM_MAX_RUNS": "500", "PAM_LOG_LEVEL": "warning"},
                    log=log,
                )
                rq = str(Path(sys.executable).with_name("rq"))
                pool = await _process(
                    *(rq, "worker-pool", POOL, "-n", str(processes), "-u", facts.redis_url, "-q"),
                    env={"PYTHONPATH": str(ROOT)},
                    log=log,
                )
                try:
                    await _listening(facts, 2 * processes)
                    async with await psycopg.AsyncConnection.connect(facts.admin_dsn, autocommit=True) as database:
                        await database.execute("select pam.limit_organization(%s, 10000)", [UUID(bench.org_id)])
                        parent = psutil.Process(ours.pid)
                        yield cls(bench=bench, workers=parent.children() or [parent], database=database)
                finally:
                    for process in (ours, pool):
                        process.terminate()
                    await asyncio.gather(ours.wait(), pool.wait())

    async def runs(self, count: int) -> Batch:
        """So many runs, rung for at once, until the last has ended."""
        ids = await queue_runs(self.database, self._bench, count)
        queue = RunQueue(redis=self.redis)
        before = sum(sum(worker.cpu_times()[:2]) for worker in self._workers)
        began = time.time()
        rings = asyncio.create_task(_ring(queue, ids))
        peak = 0
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                await asyncio.sleep(0.02)
                peak = max(peak, sum(worker.memory_info().rss for worker in self._workers))
                if rings.done() and not await are_unfinished(self.database, ids):
                    break
        await rings
        cpu = sum(sum(worker.cpu_times()[:2]) for worker in self._workers) - before
        rows = await (await self.database.execute(_TIMES, [ids])).fetchall()
        if {row[0] for row in rows} != {"succeeded"}:
            raise RuntimeError(f"runs ended as {sorted({row[0] for row in rows})}")
        ended = sorted(row[1] - began for row in rows)
        return Batch(ended[-1], sorted(row[2] - began for row in rows), ended, peak, cpu)

    async def pool(self, count: int) -> float:
        """So many jobs that wait as long as the model, on RQ's own pool: seconds until the last has ended."""
        queue = Queue(POOL, connection=self.redis)
        began = time.time()
        jobs = await asyncio.to_thread(
            lambda: [queue.enqueue_call("time.sleep", args=[PAUSE_SECONDS], result_ttl=60) for _ in range(count)]
        )
        last = jobs[-PROCESSES:]
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while await asyncio.to_thread(lambda: any(job.get_status() not in ("finished", "failed") for job in last)):
                await asyncio.sleep(0.01)
        for job in last:
            job.refresh()  # type: ignore[no-untyped-call]
        return max(job.ended_at.timestamp() for job in last if job.ended_at) - began


async def _process(*command: str, env: dict[str, str], log: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )


async def _ring(queue: RunQueue, ids: list[UUID]) -> None:
    for id in ids:
        await queue.ring(id, 1)


def _own(facts: StackFacts) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), **worker_environment(facts, model_key="none")}


async def _listening(facts: StackFacts, count: int) -> None:
    redis = Redis.from_url(facts.redis_url)
    async with asyncio.timeout(60):
        while await asyncio.to_thread(lambda: Worker.count(connection=redis)) < count:
            await asyncio.sleep(0.05)
    redis.close()


def _quantile(sorted_values: list[float], q: float) -> float:
    return sorted_values[min(int(q * len(sorted_values)), len(sorted_values) - 1)]


async def at_once(bench: Bench, count: int) -> Row:
    """So many runs at once against as many jobs on the fork pool, in runs per second."""
    async with Crew.open(bench) as crew:
        await crew.runs(min(count, 32))  # a worker lives long: its connections are open
        await crew.pool(2 * PROCESSES)
        batches = [await crew.runs(count) for _ in range(7 if count <= 32 else 3)]
        pools = [await crew.pool(min(count, 32)) * count / min(count, 32) for _ in range(2)]
    whole, pool = (1e3 * statistics.median(taken) for taken in ([batch.whole for batch in batches], pools))
    last, peak = batches[-1], max(batch.peak_bytes for batch in batches)
    note = (
        f"{1e3 * count / whole:.0f} runs/s; first event p50 {_quantile(last.first, 0.5):.2f} s,"
        f" p95 {_quantile(last.first, 0.95):.2f} s; end p50 {_quantile(last.ended, 0.5):.2f} s,"
        f" p95 {_quantile(last.ended, 0.95):.2f} s; {1e3 * last.cpu_seconds / count:.1f} ms of processor a run;"
        f" {peak / 1e6:.0f} MB at most in both workers"
    )
    name, yardstick = f"{count:,} runs at once", f"{count:,} jobs on RQ's fork pool"
    made = round(whole, 1), yardstick, round(pool, 1), round(whole / pool, 3)
    # Asked for is a multiple of the pool's runs per second at 32, and memory (told in the note) at 1,000.
    must, aim = (round(1 / 8, 3), round(1 / 14, 3)) if count == 32 else (None, None)
    return Row(name, "ms", *made, len(batches), note, must, aim)
