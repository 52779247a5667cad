"""Leases: kept by a heart, taken away when they run out, and what the sweep brings back or to its end."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg

from tests.database.fenced_verbs import verbs
from tests.database.test_doors import asked
from tests.database.world import FINISHED, OLD, call, refused_state, running, step
from tests.support.database import Database


async def pulsed(database: Database, *held: tuple[UUID, int], lease_seconds: int = 30) -> dict[str, str]:
    """One pulse for these runs: what each that must stop is told."""
    runs, fences = zip(*held, strict=True)
    stopped = await database.worker("pulse_runs", runs=runs, fences=fences, lease_seconds=lease_seconds)
    return {one["run_id"]: one["reason"] for one in stopped}


async def test_an_expired_lease_is_swept_and_the_old_worker_finds_itself_fenced_out(database: Database) -> None:
    _, _, run, fence, planned = await running(database)
    await database.worker("begin_call", run_id=run, fence=fence, id=planned)
    await database.admin("update pam_private.run_heads set lease_until = clock_timestamp() - interval '1 s'")
    assert await database.worker("sweep_runs") == [{"run_id": str(run), "turn": 2}]
    for name, verb in verbs(database, run, fence, planned).items():
        assert await refused_state(verb()) == OLD, name
    assert await database.worker("sweep_runs") == []
    newer = await database.claimed(run)
    types = [e["type"] for e in await database.admin("select type from pam.events order by seq")]
    assert (newer, types) == (fence + 2, ["RUN_STARTED", "CUSTOM", "CUSTOM"]), "who was lost, and who goes on"


async def test_a_pulse_keeps_the_lease_only_when_a_third_is_used_up(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run, lease_seconds=30)
    lease = "select lease_until from pam_private.run_heads"
    (first,) = await database.admin(lease)
    assert await pulsed(database, (run, fence)) == {}
    assert await database.admin(lease) == [first]
    assert await pulsed(database, (run, fence), lease_seconds=90) == {}
    (later,) = await database.admin(lease)
    assert 55 < (later["lease_until"] - first["lease_until"]).total_seconds() < 65


async def test_one_pulse_tells_each_run_by_its_own_fence_and_reason(database: Database) -> None:
    owner, org = await database.new_organization()
    runs = {name: await database.new_run(owner, org) for name in ("well", "old", "cancelled", "late", "released")}
    held = {name: (run, await database.claimed(run, lease_seconds=30)) for name, run in runs.items()}
    await database.rpc(owner, "cancel_run", run_id=runs["cancelled"])
    await database.admin("update pam.runs set deadline_at = now() where id = %s", runs["late"])
    await database.worker("release_run", run_id=held["released"][0], fence=held["released"][1])
    held["old"] = (runs["old"], held["old"][1] - 1)
    absent = uuid4()
    before = await database.admin("select run_id, lease_until from pam_private.run_heads")
    told = await pulsed(database, *held.values(), (absent, 1), lease_seconds=9000)
    assert told == {
        str(runs["old"]): "fence_lost",
        str(runs["cancelled"]): "cancelled",
        str(runs["late"]): "deadline",
        str(runs["released"]): "fence_lost",
        str(absent): "fence_lost",
    }
    after = await database.admin("select run_id, lease_until from pam_private.run_heads")
    kept = {row["run_id"] for row in after if row not in before}
    assert kept == {runs["well"], runs["cancelled"], runs["late"]}, "no lease is kept under an old fence"


async def test_a_head_that_is_locked_holds_up_no_other_runs_lease(database: Database) -> None:
    owner, org = await database.new_organization()
    busy, beside = await database.new_run(owner, org), await database.new_run(owner, org)
    held = [(run, await database.claimed(run, lease_seconds=30)) for run in (busy, beside)]
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as writing:
        await writing.execute("select from pam_private.run_heads where run_id = %s for update", [busy])
        assert await asyncio.wait_for(pulsed(database, *held, lease_seconds=9000), 5) == {}
    rows = await database.admin("select run_id from pam_private.run_heads where lease_until > now() + interval '1 h'")
    assert [row["run_id"] for row in rows] == [beside]


async def test_the_sweep_ends_what_can_only_end_and_rings_for_what_was_not_heard(database: Database) -> None:
    owner, org = await database.new_organization()
    runs = {
        name: await database.new_run(owner, org) for name in ("fresh", "unheard", "late", "stopped", "silent", "live")
    }
    await database.admin(
        "update pam_private.run_heads set rung_at = now() - interval '11 s' where run_id = %s", runs["unheard"]
    )
    await database.admin("update pam.runs set deadline_at = now() - interval '1 s' where id = %s", runs["late"])
    await database.claimed(runs["stopped"], lease_seconds=0)
    await database.admin("update pam.runs set cancel_requested_at = now() where id = %s", runs["stopped"])
    await asked(database, runs["silent"])
    await database.admin("update pam.runs set interrupted_at = now() - interval '8 days' where id = %s", runs["silent"])
    await database.claimed(runs["live"])
    due = await database.worker("sweep_runs")
    assert due == [{"run_id": str(runs["unheard"]), "turn": 1}]
    ends = {
        row["id"]: (row["status"], row["reason"])
        for row in await database.admin("select id, status, reason from pam.runs")
    }
    assert {name: ends[run] for name, run in runs.items()} == {
        "fresh": ("queued", None), "unheard": ("queued", None), "late": ("failed", "deadline"),
        "stopped": ("cancelled", "cancelled"), "silent": ("failed", "unanswered"), "live": ("running", None),
    }  # fmt: skip
    assert await database.worker("sweep_runs") == []


async def test_the_sweepers_login_sweeps_and_two_sweeps_at_once_are_one(database: Database) -> None:
    owner, org = await database.new_organization()
    for _ in range(20):
        await database.claimed(await database.new_run(owner, org), lease_seconds=0)

    async def sweep() -> list[Any]:
        async with await psycopg.AsyncConnection.connect(database.sweeper_dsn, autocommit=True) as connection:
            row: Any = await (await connection.execute("select pam_worker.sweep_runs()")).fetchone()
            return list(row[0])

    found = [due["run_id"] for answer in await asyncio.gather(*(sweep() for _ in range(6))) for due in answer]
    assert len(found) == len(set(found)) == 20


async def test_a_run_that_ends_while_the_sweep_goes_on_is_not_queued_again(database: Database) -> None:
    """The sweep's list is as old as its first row; what it does to a run must follow the run as it is."""
    owner, org = await database.new_organization()
    runs = [await database.new_run(owner, org) for _ in range(14)]
    fences = {run: await database.claimed(run, lease_seconds=0) for run in runs}
    async with await psycopg.AsyncConnection.connect(database.owner_dsn) as blocking:
        await blocking.execute("select 1 from pam.runs where id = %s for update", [runs[0]])
        sweeping = asyncio.create_task(database.worker("sweep_runs"))
        async with asyncio.timeout(10):
            while not await database.admin(
                "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.01)
        await database.worker(
            "finish_run", run_id=runs[-1], fence=fences[runs[-1]], status="succeeded", reason=None, events=[FINISHED]
        )
        await blocking.rollback()
    assert len(await sweeping) == 13
    (row,) = await database.admin("select status, turn from pam.runs where id = %s", runs[-1])
    assert row == {"status": "succeeded", "turn": 1}


async def test_the_end_by_the_sweep_leaves_no_call_open(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    begun, planned = call(), call()
    await database.worker("record_step", run_id=run, fence=fence, step=step(), calls=[begun, planned], events=[])
    await database.worker("begin_call", run_id=run, fence=fence, id=begun["id"])
    await database.admin("update pam_private.run_heads set lease_until = now() - interval '1 s'")
    await database.admin("update pam.runs set deadline_at = now() - interval '1 s'")
    await database.worker("sweep_runs")
    rows = await database.admin("select status from pam.tool_calls order by place")
    assert [row["status"] for row in rows] == ["unknown", "refused"]
