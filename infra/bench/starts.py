"""Figures of a run's start: from the bell to its claim, against RQ's own worker from enqueue to a job's first line."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psycopg
from rq import Queue
from rq.job import Job, JobStatus

from infra.bench.measure import Row, compared
from infra.bench.queued import queue_runs, until_ended
from infra.bench.runs import Bench
from infra.bench.scale import POOL, Crew
from workers.kernel.runqueue import RunQueue

ANNOUNCED = "realtime_messages"  # the channel on which the embedded Realtime hears what was committed
_PATIENCE_SECONDS = 60


async def enqueue_to_start(bench: Bench, *, runs: int = 9) -> Row:
    """Beside a job as RQ's worker would have to carry out ours: forked, its module imported in the fork.

    Whoever loads the module before the worker forks saves the import: that is the bare job of the other row.
    """
    return await _beside(
        bench,
        "enqueue → start of a run",
        lambda jobs: _end_of(jobs, "builtins.exec", "import workers.jobs"),
        "enqueue → first line of a job on rq.Worker that imports workers.jobs",
        runs=runs,
    )


async def enqueue_to_bare_start(bench: Bench, *, runs: int = 9) -> Row:
    """Beside a job that has nothing to import: RQ's own share, the fork and its round trips, and nothing else."""
    return await _beside(
        bench,
        "enqueue → start of a run, beside a bare job",
        lambda jobs: _start_of(jobs, "time.time"),
        "enqueue → first line of a job on rq.Worker that imports nothing",
        runs=runs,
    )


async def _beside(
    bench: Bench,
    name: str,
    started: Callable[[Queue], float],
    yardstick: str,
    *,
    runs: int,
) -> Row:
    """One run on an idle worker, from the call that rings until the commit of its claim is heard in this process.

    Both rows are held to what was agreed, since "RQ's default worker" may be read either way.
    """
    async with (
        Crew.open(bench, processes=1) as crew,
        await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as heard,
    ):
        await heard.execute(f"listen {ANNOUNCED}".encode())
        bell, jobs = RunQueue(redis=crew.redis), Queue(POOL, connection=crew.redis)

        async def run_starts() -> float:
            (run_id,) = await queue_runs(crew.database, bench, 1)
            await _unheard(heard)
            first = asyncio.create_task(_first(heard))  # the claim's own event, in the transaction that claims
            began = time.time()
            await bell.ring(run_id, 1)
            async with asyncio.timeout(_PATIENCE_SECONDS):
                started_at = await first
                await until_ended(crew.database, [run_id])
            return started_at - began

        async def job_starts() -> float:
            return await asyncio.to_thread(started, jobs)

        note = "ours: ring, take the job, claim, commit, hear of it; RQ's: enqueue, take the job, fork, first line"
        return await compared(name, run_starts, yardstick, job_starts, runs=runs, note=note, must=0.25, aim=0.10)


async def _first(heard: psycopg.AsyncConnection[Any]) -> float:
    """When the next notice came, in seconds since the epoch."""
    async for _ in heard.notifies(stop_after=1):
        return time.time()
    raise RuntimeError("the connection that listens was closed")


async def _unheard(heard: psycopg.AsyncConnection[Any]) -> None:
    """Let what the last run still said pass by."""
    async for _ in heard.notifies(timeout=0.05):
        pass


def _start_of(jobs: Queue, function: str) -> float:
    """Seconds from the call that enqueues to the moment that the job answers."""
    began = time.time()
    return float(str(_done(jobs, function).return_value())) - began


def _end_of(jobs: Queue, function: str, *args: str) -> float:
    """Seconds from the call that enqueues to the moment at which the job is through."""
    began = time.time()
    ended_at = _done(jobs, function, *args).ended_at
    if ended_at is None:
        raise RuntimeError(f"the job {function} has no end")
    return ended_at.timestamp() - began


def _done(jobs: Queue, function: str, *args: str) -> Job:
    """A job that has been carried out."""
    job = jobs.enqueue_call(function, args=args, result_ttl=60, failure_ttl=60)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (status := job.get_status()) is not JobStatus.FINISHED:
        if status is JobStatus.FAILED or time.monotonic() > deadline:
            raise RuntimeError(f"the job {function} is {status}")
        time.sleep(0.02)
    job.refresh()  # type: ignore[no-untyped-call]
    return job
