"""One worker process, many runs: its places, what RQ's own tools see and command, and what it leaves in Redis."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from redis import Redis
from rq import Queue, Worker
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_job_command

from infra.chaos.workers import WorkerProcess
from tests.faults.conftest import Lab
from workers.kernel import runqueue
from workers.run_worker import KEPT_SECONDS

THINKS = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "Here it is.", hang_seconds: 1.5}]
"""
HANGS = THINKS.replace("1.5", "60")
PLACES = 3
COMMANDS_A_RUN = 30


@pytest.fixture
async def worker(lab: Lab) -> AsyncIterator[WorkerProcess]:
    """The only worker there is, with three places."""
    for other in lab.workers:
        await other.kill()
    # Nothing here is about leases: a slow machine shall lose none.
    started = await WorkerProcess.start(lab.facts, PAM_MAX_RUNS=str(PLACES), PAM_LEASE_SECONDS="30")
    await started.ready()
    yield started
    if started.is_alive:
        started.terminate()
        await started.ended()
    await lab.staff()


@pytest.fixture
def redis(lab: Lab) -> Any:
    client = runqueue.connect(lab.facts.redis_url)
    yield client
    client.close()


async def running(lab: Lab, count: int) -> list[str]:
    """The runs under way, once there are so many."""
    async with asyncio.timeout(20):
        while True:
            rows = await lab.house.admin("select id::text from pam.runs where status = 'running'")
            if len(rows) == count:
                return [row["id"] for row in rows]
            await asyncio.sleep(0.02)


def registered(redis: "Redis", process: WorkerProcess) -> Worker:
    """A worker as RQ's tools know it; those that other tests killed are still known, too."""
    return next(one for one in Worker.all(connection=redis) if one.pid == process.pid)


async def eventually(asked: Any, wanted: Any) -> None:
    async with asyncio.timeout(10):
        while asked() != wanted:
            await asyncio.sleep(0.05)


async def test_as_many_runs_at_once_as_there_are_places_and_the_rest_waits_its_turn(
    lab: Lab, worker: WorkerProcess, redis: "Redis"
) -> None:
    runs = [(await lab.start(THINKS))[0] for _ in range(2 * PLACES + 1)]
    await running(lab, PLACES)
    await asyncio.sleep(0.3)
    assert len(await running(lab, PLACES)) == PLACES
    assert len(Queue(runqueue.QUEUE, connection=redis)) == PLACES + 1, "what has no place stays in the queue"
    for run_id in runs:
        await lab.ended(run_id)
        assert await lab.claims(run_id) == 1


async def test_rq_sees_who_works_on_what_and_nothing_stays_when_it_is_done(
    lab: Lab, worker: WorkerProcess, redis: "Redis"
) -> None:
    before = {key for key in redis.keys("rq:*") if b":worker" not in key}
    run_id, _ = await lab.start(THINKS)
    await running(lab, 1)

    def seen() -> Any:
        one = registered(redis, worker)
        return one.get_state(), [execution.job_id for execution in one.get_current_executions(refresh=True)]

    await eventually(seen, ("busy", [f"{run_id}-1"]))
    assert 0 < redis.ttl(f"rq:job:{run_id}-1") <= KEPT_SECONDS, "it leaves by itself when the worker is lost"
    await lab.ended(run_id)
    await eventually(seen, ("idle", []))
    await eventually(lambda: {key for key in redis.keys("rq:*") if b":worker" not in key}, before)


async def test_what_redis_is_asked_for_a_run_is_little(lab: Lab, worker: WorkerProcess, redis: "Redis") -> None:
    def commands() -> int:
        return int(redis.info("stats")["total_commands_processed"])

    began, count = commands(), 4 * PLACES
    runs = [(await lab.start(THINKS.replace("1.5", "0.2")))[0] for _ in range(count)]
    for run_id in runs:
        await lab.ended(run_id)
    assert (commands() - began) / count < COMMANDS_A_RUN


@pytest.mark.parametrize("command", ["stop-job", "kill-horse"])
async def test_rqs_stop_commands_stop_the_run_they_name_or_all(
    lab: Lab, worker: WorkerProcess, redis: "Redis", command: str
) -> None:
    stopped, beside = (await lab.start(HANGS))[0], (await lab.start(HANGS))[0]
    await running(lab, 2)
    one = registered(redis, worker)
    await eventually(lambda: len(one.get_current_executions(refresh=True)), 2)
    if command == "stop-job":
        send_stop_job_command(redis, f"{stopped}-1", serializer="json")
    else:
        send_kill_horse_command(redis, one.name)
    run = await lab.ended(stopped, status="failed")
    assert run["reason"] == "stopped"
    if command == "stop-job":
        assert await running(lab, 1) == [beside]
        await lab.ada.person.call("cancel_run", run_id=beside)
        await lab.ended(beside, status="cancelled")
    else:
        await lab.ended(beside, status="failed")
    assert worker.is_alive


async def test_rqs_shutdown_command_lets_every_run_go_and_another_worker_goes_on(
    lab: Lab, worker: WorkerProcess, redis: "Redis"
) -> None:
    runs = [(await lab.start(THINKS))[0] for _ in range(PLACES)]
    await running(lab, PLACES)
    one = registered(redis, worker)
    send_shutdown_command(redis, one.name)
    assert await worker.ended() == 0
    assert "Traceback" not in worker.log
    assert worker.pid not in [one.pid for one in Worker.all(connection=redis)]
    await lab.staff()
    for run_id in runs:
        await lab.ended(run_id)


async def test_a_worker_that_redis_has_forgotten_makes_itself_known_again_with_what_it_works_on(
    lab: Lab, worker: WorkerProcess, redis: "Redis"
) -> None:
    first, _ = await lab.start(HANGS)
    await running(lab, 1)
    redis.flushall()
    second, _ = await lab.start(HANGS)
    await running(lab, 2)
    async with asyncio.timeout(10):
        while not any(one.pid == worker.pid and one.birth_date for one in Worker.all(connection=redis)):
            await asyncio.sleep(0.05)
    one = registered(redis, worker)
    await eventually(lambda: len(one.get_current_executions(refresh=True)), 2)
    send_kill_horse_command(redis, one.name)
    for run_id in (first, second):
        assert (await lab.ended(run_id, status="failed"))["reason"] == "stopped"


async def test_a_job_of_somebody_elses_is_dropped(lab: Lab, worker: WorkerProcess, redis: "Redis") -> None:
    queue = Queue(runqueue.QUEUE, connection=redis, serializer="json")
    queue.enqueue_call("os.system", args=["touch /tmp/pam-was-here"], job_id="foreign")
    queue.enqueue_call(runqueue.JOB, args=["no run", 1], job_id="malformed")
    await worker.logs("foreign job dropped")
    run_id, _ = await lab.start(THINKS.replace("1.5", "0"))
    await lab.ended(run_id)
    assert redis.exists("rq:job:foreign", "rq:job:malformed") == 0


async def test_several_processes_are_kept_alive_and_leave_together(lab: Lab, redis: "Redis") -> None:
    for other in lab.workers:
        await other.kill()
    parent = await WorkerProcess.start(lab.facts, arguments=["-n", "2"])
    known = psutil.Process(parent.pid)
    try:
        async with asyncio.timeout(30):
            while parent.log.count("worker ready") < 2:
                await asyncio.sleep(0.05)
        first = known.children()
        assert len(first) == 2
        first[0].kill()
        async with asyncio.timeout(30):
            while parent.log.count("worker ready") < 3:
                await asyncio.sleep(0.05)
        run_id, _ = await lab.start(THINKS)
        await lab.ended(run_id)
        children = known.children()
        parent.terminate()
        assert await parent.ended() == 0
        assert not any(child.is_running() for child in children)
    finally:
        if parent.is_alive:
            await parent.kill()
        await lab.staff()


async def test_no_process_outlives_a_parent_that_was_killed(lab: Lab) -> None:
    parent = await WorkerProcess.start(lab.facts, arguments=["-n", "2"])
    async with asyncio.timeout(30):
        while parent.log.count("worker ready") < 2:
            await asyncio.sleep(0.05)
    children = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    async with asyncio.timeout(15):
        while any(child.is_running() for child in children):
            await asyncio.sleep(0.05)


async def test_one_organisations_many_runs_do_not_starve_anothers_one(lab: Lab, worker: WorkerProcess) -> None:
    many = [(await lab.start(THINKS))[0] for _ in range(3 * PLACES)]
    await running(lab, PLACES)
    bob = await lab.house.engineer()
    one = await bob.start(await lab.house.script(THINKS))
    await lab.ended(one)
    left = await lab.house.admin("select id from pam.runs where id = any (%s) and ended_at is null", many)
    assert len(left) >= PLACES, "the one was not the last"
    for run_id in many:
        await lab.ended(run_id)
