"""Space, memory, time and connections run short under the workers; runs go on when there is enough again, or end with a reason."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psutil
import psycopg
import pytest

from infra.chaos.team import STEPS
from infra.chaos.workers import WorkerProcess
from tests.faults.conftest import Lab
from tests.faults.small_disk import MIB, SmallDisk, answers, log_on, small_disk, wal_on
from tests.faults.test_takeover import ANSWERS, WRITES

RUNS_ON_THE_DISK = 3
ENOSPC = "No space left on device"
ROOM_BYTES = 24 * MIB  # what a worker short of memory may take on top of what it has
THINKS = ANSWERS.replace('"Here."', '"Here.", hang_seconds: 4')
HANGS = ANSWERS.replace('"Here."', '"Here.", hang_seconds: 60')


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    with small_disk() as mounted:
        yield mounted


@pytest.mark.timeout(180)
@pytest.mark.parametrize("place", ["log", "wal"])
async def test_runs_go_on_once_there_is_space_again(lab: Lab, disk: SmallDisk, place: str) -> None:
    await lab.staff()
    team = await lab.team()
    async with log_on(disk, lab) if place == "log" else wal_on(disk, lab):
        names = [f"full-{place}-{number}" for number in range(RUNS_ON_THE_DISK)]
        halts = [lab.ledger.halt(name, 3, "after") for name in names]
        runs = [await team.start(name) for name in names]
        async with asyncio.timeout(40):
            for halt in halts:
                await halt.reached.wait()
        told = len(lab.house.log("postgres"))
        disk.fill()
        for halt in halts:
            halt.go.set()
        async with asyncio.timeout(60):
            while ENOSPC not in lab.house.log("postgres")[told:]:
                if place == "wal":  # the WAL goes on in the files that it has
                    with contextlib.suppress(psycopg.Error):
                        await lab.house.admin(
                            "select pg_switch_wal() from pg_logical_emit_message(true, 'full', 'disk')"
                        )
                await asyncio.sleep(0.1)
        if place == "log":
            assert not await are_over(lab, runs), "an end that cannot be told is none"
        disk.free()
        await answers(lab)
        for name, run_id in zip(names, runs, strict=True):
            async with asyncio.timeout(90):
                while not await are_over(lab, [run_id]):
                    await asyncio.sleep(0.2)
            run = await lab.house.until(run_id)
            assert (run["status"], run["steps"]) == ("succeeded", STEPS), (name, run["reason"])
            await lab.house.events(run_id)


async def are_over(lab: Lab, runs: list[str]) -> bool:
    """Whether every one of these runs has ended; a server that is not there says nothing."""
    with contextlib.suppress(psycopg.Error):
        return not await lab.house.admin("select id from pam.runs where id = any (%s) and ended_at is null", runs)
    return False


@asynccontextmanager
async def only_worker(lab: Lab) -> AsyncIterator[WorkerProcess]:
    """One worker and no other; whatever becomes of it, nobody is left afterwards."""
    for other in lab.workers:
        await other.kill()
    worker = await WorkerProcess.start(lab.facts)
    try:
        await worker.ready()
        yield worker
    finally:
        if worker.is_alive:
            await worker.kill()


async def is_held_by(lab: Lab, run_id: str, worker: WorkerProcess) -> None:
    """Wait until this worker works on the run."""
    async with asyncio.timeout(30):
        while not await lab.house.admin(
            "select run_id from pam_private.run_heads where run_id = %s and worker like %s and lease_until is not null",
            run_id,
            f"%:{worker.pid}",
        ):
            await asyncio.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process")
async def test_a_run_that_its_worker_has_no_memory_for_ends_with_a_reason_and_holds_up_no_other(lab: Lab) -> None:
    async with only_worker(lab) as worker:
        warm, _ = await lab.start(ANSWERS)  # so that it has its threads and modules
        await lab.ended(warm)
        process = psutil.Process(worker.pid)
        process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + ROOM_BYTES,) * 2)
        await lab.switch("lose webhooks", is_on=True)
        limits = {"max_tokens": 20_000_000, "max_cost_usd": 100}
        poison = await lab.ada.start(await lab.house.script(ANSWERS), limits=limits)
        async with await psycopg.AsyncConnection.connect(lab.facts.admin_dsn, autocommit=True) as connection:
            claims = json.dumps({"sub": lab.ada.person.user_id, "role": "authenticated"})
            await connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            await connection.execute(
                f"select pam.steer_run('{poison}', repeat('€', 100000)) from generate_series(1, 99)"
            )
        await lab.switch("lose webhooks", is_on=False)
        await lab.age(poison)
        beside = [(await lab.start(THINKS))[0] for _ in range(3)]
        ended = await lab.house.until(poison)
        assert (ended["status"], ended["steps"]) == ("failed", 0)
        assert ended["reason"] in ("internal", "attempts"), "as where the memory ran out: in Python, or below it"
        for run_id in beside:
            await lab.ended(run_id)
        assert worker.is_alive


async def test_runs_beside_one_that_ends_their_worker_by_segfault_go_on_and_that_one_is_parked(lab: Lab) -> None:
    async with only_worker(lab) as worker:
        poison, _ = await lab.start(HANGS)
        await is_held_by(lab, poison, worker)
        await lab.house.admin("update pam.runs set attempt = 5 where id = %s", poison)  # four were lost before this one
        beside = [(await lab.start(THINKS))[0] for _ in range(3)]
        for run_id in beside:
            await is_held_by(lab, run_id, worker)
        os.kill(worker.pid, signal.SIGSEGV)
        assert await worker.ended() == -signal.SIGSEGV
    await lab.staff()
    for run_id in beside:
        await lab.ended(run_id)
        assert await lab.claims(run_id) >= 2
    await lab.ended(poison, status="failed")
    (lost,) = [e["value"] for e in await lab.house.events(poison) if e.get("name") == "pam.lost"]
    assert lost["worker"].endswith(f":{worker.pid}")
    end = (await lab.house.events(poison))[-1]
    assert (end["code"], end["message"].split(" (")[0]) == (
        "attempts",
        "The run is parked: five workers in a row were lost after step 0",
    )


async def test_a_verb_that_is_cut_off_by_the_servers_time_limit_is_made_up_for(lab: Lab) -> None:
    await lab.staff()
    async with limited(lab, "set statement_timeout = '1500ms'", "reset statement_timeout"):
        async with lab.barrier("call succeeded", WRITES) as (run_id, message):
            await (await lab.holder(run_id)).logs("turn broken off")
        await lab.ended(run_id)
    assert await lab.claims(run_id) >= 2
    assert not await lab.house.unused(message)
    path = f"{message.split()[-1].rstrip('.')}.txt"
    versions = await lab.house.admin(
        "select v.content from pam.file_versions v join pam.files f on f.id = v.file_id where f.path = %s", path
    )
    assert [bytes(row["content"]) for row in versions] == [b"written"]


async def test_a_run_outlives_a_server_that_has_no_connection_to_give(lab: Lab) -> None:
    await lab.staff()
    told = len(lab.house.log("postgres"))
    async with lab.barrier("call succeeded", WRITES) as (run_id, message):
        worker = await lab.holder(run_id)
        async with limited(lab, "connection limit 0", "connection limit -1"):
            await worker.logs("turn broken off")
            await worker.logs("PoolTimeout")  # it has waited ten seconds for a connection
            assert "too many connections for role" in lab.house.log("postgres")[told:]
    await lab.ended(run_id)
    assert await lab.claims(run_id) >= 2
    assert not await lab.house.unused(message)


@asynccontextmanager
async def limited(lab: Lab, limit: str, no_limit: str) -> AsyncIterator[None]:
    """The workers' login has this limit for as long as the context lasts; their connections are made anew."""
    again = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pam_worker'"
    await lab.house.admin(f"alter role pam_worker {limit}")
    try:
        await lab.house.admin(again)
        yield
    finally:
        await lab.house.admin(f"alter role pam_worker {no_limit}")
        await lab.house.admin(again)
