"""Attacks on the sweep: due work done twice, too early, too often, for nobody, again without asking, or not at all."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg

from tests.database.world import refused_state
from tests.support.bench import Bench
from tests.support.jobs import GET, jobs, ran, submitted, swept
from workers.kernel.ledger import tool_calls


async def test_two_sweeps_at_once_start_a_job_once(bench: Bench) -> None:
    job = await submitted(bench)
    rung = [due for dues in await asyncio.gather(*(swept(bench.database) for _ in range(6))) for due in dues]
    rung += await swept(bench.database)
    (row,) = await jobs(bench)
    assert (row["id"], row["attempt"], row["state"]) == (job, 1, "queued")
    assert [due["run_id"] for due in rung].count(str(row["run_id"])) == 1
    runs = await bench.database.admin("select id from pam.runs where org_id = %s and task is not null", bench.org_id)
    assert len(runs) == 1


async def test_a_due_time_makes_one_job_whoever_races_and_a_sweeper_gains_nothing(bench: Bench) -> None:
    database = bench.database
    await bench.use("celery_task", action="schedule", **GET, name="x", cron="* * * * *", time_zone="UTC")
    (row,) = await database.admin(
        "update pam.schedules set next_at = date_trunc('minute', now()) - interval '3 days' where org_id = %s returning id, next_at, ends_at",
        bench.org_id,
    )
    now = datetime.now(UTC)

    async def advance(due_at: datetime, next_at: datetime | None) -> Any:
        async with await psycopg.AsyncConnection.connect(database.sweeper_dsn, autocommit=True) as connection:
            cursor = await connection.execute(
                "select pam_worker.advance_schedule(%s, %s, %s, %s)", [bench.org_id, row["id"], due_at, next_at]
            )
            return (await cursor.fetchone() or [None])[0]

    # A stolen sweeper's login: catch up on missed times, go back, not move at all, name another time, another schedule.
    for following in (row["next_at"] + timedelta(minutes=1), row["next_at"] - timedelta(days=1), row["next_at"]):
        assert (await advance(row["next_at"], following))["refused"]["code"] == "invalid"
    assert await advance(now, now + timedelta(minutes=1)) is None
    assert await jobs(bench) == []
    made = await asyncio.gather(*(advance(row["next_at"], now + timedelta(minutes=1)) for _ in range(8)))
    assert len([job for job in made if job]) == 1
    assert await advance(now + timedelta(minutes=1), now + timedelta(minutes=2)) is None  # not due yet
    assert len(await jobs(bench)) == 1
    # Twice within a minute, though neither time is behind the clock.
    (soon,) = await database.admin(
        "update pam.schedules set next_at = now() - interval '1 s' where org_id = %s returning next_at", bench.org_id
    )
    assert (await advance(soon["next_at"], soon["next_at"] + timedelta(seconds=30)))["refused"]["code"] == "invalid"
    # The next time while the job before is open: skipped, not heaped up.
    await database.admin(
        "update pam.schedules set next_at = date_trunc('minute', now()) where org_id = %s", bench.org_id
    )
    await swept(database)
    (schedule,) = await database.admin(
        "select skipped, next_at > now() as later from pam.schedules where org_id = %s", bench.org_id
    )
    assert (schedule["skipped"], schedule["later"], len(await jobs(bench))) == (1, True, 1)


async def test_a_call_whose_outcome_is_unknown_is_never_repeated_by_itself(bench: Bench) -> None:
    outcomes = {("write", "unknown"): "failed", ("external", "succeeded"): "failed", ("irreversible", "refused"): "failed",
                ("write", "failed"): "scheduled", ("read", "failed"): "scheduled"}  # fmt: skip
    for (effect, outcome), expected in outcomes.items():
        if effect == "irreversible":
            await bench.database.rpc(
                bench.user_id,
                "set_policy",
                org_id=bench.org_id,
                role="owner",
                tool="api_call",
                effect=effect,
                consent="never",
            )
        job = await submitted(bench, max_attempts=2)
        await swept(bench.database)
        await ran(bench, job, calls=((effect, outcome),))
        (row,) = [row for row in await jobs(bench) if row["id"] == job]
        assert row["state"] == expected, (effect, outcome)
        if expected == "scheduled":
            wait = row["due_at"] - datetime.now(UTC)
            assert timedelta(seconds=5) < wait < timedelta(seconds=11)
            await bench.database.admin("update pam.jobs set due_at = now() where id = %s", job)
            await swept(bench.database)
            await ran(bench, job, calls=((effect, outcome),))
            (row,) = [row for row in await jobs(bench) if row["id"] == job]
            assert (row["state"], row["attempt"]) == ("failed", 2)
        else:  # nor by an agent: its person looks, and says so from their own screen
            status, said = await bench.use("celery_task", action="retry", job_id=str(job))
            assert (status, "a person looks, and tries it again" in said) == ("refused", True), said
            answer = await bench.database.rpc(bench.user_id, "retry_job", org_id=bench.org_id, job_id=job)
            assert answer["status"] == "scheduled"


async def test_a_lost_worker_submits_and_retries_once(bench: Bench) -> None:
    given = {"action": "submit", **GET}
    call_ = await bench.effect_without_outcome("celery_task", **given)
    assert (await bench.carry_out(call_)).status.value == "succeeded"
    (row,) = await jobs(bench)
    plan = {"action": "schedule", **GET, "name": "x", "cron": "0 7 * * *", "time_zone": "UTC"}
    call_ = await bench.effect_without_outcome("celery_task", **plan)
    assert (await bench.carry_out(call_)).status.value == "succeeded"
    assert len(await bench.database.admin("select id from pam.schedules where org_id = %s", bench.org_id)) == 1
    await bench.database.admin("update pam.jobs set status = 'failed' where id = %s", row["id"])
    call_ = await bench.effect_without_outcome("celery_task", action="retry", job_id=str(row["id"]))
    await bench.database.admin("update pam.jobs set status = 'failed' where id = %s", row["id"])
    assert (await bench.carry_out(call_)).status.value == "succeeded"
    assert (await jobs(bench))[0]["state"] == "failed"


async def test_a_verb_without_a_recorded_intent_submits_nothing(bench: Bench) -> None:
    planned = await bench.planned("celery_task", {"action": "submit", **GET})
    other = await bench.planned("redis_get", {"key": "a"})
    theirs = await (beside := await bench.beside()).planned("celery_task", {"action": "submit", **GET})
    await tool_calls.begin(bench.hold, other)  # another tool's intent, and another run's, are none of this
    await tool_calls.begin(beside.hold, theirs)
    held = {"run_id": bench.hold.run_id, "fence": bench.hold.fence}
    for one in (planned.id, other.id, theirs.id, uuid4()):
        assert await refused_state(bench.database.worker("submit_job", **held, call=one, job=GET)) == "PM002"
        assert await refused_state(bench.database.worker("retry_job", **held, call=one, job=uuid4())) == "PM002"
    old = {**held, "fence": bench.hold.fence - 1}
    assert await refused_state(bench.database.worker("submit_job", **old, call=planned.id, job=GET)) == "PM002"
    assert await jobs(bench) == []


async def test_a_part_of_the_sweep_that_breaks_holds_up_no_other(bench: Bench) -> None:
    await submitted(bench)
    await bench.database.admin("alter function pam_worker.sweep_approvals(int) rename to sweep_nothing")
    try:
        due = await swept(bench.database)
    finally:
        await bench.database.admin("alter function pam_worker.sweep_nothing(int) rename to sweep_approvals")
    runs = await bench.database.admin("select run_id::text as id from pam.jobs where org_id = %s", bench.org_id)
    assert [row["id"] for row in runs] == [row["run_id"] for row in due if row["run_id"] == runs[0]["id"]]


async def test_nobody_is_starved_by_anothers_heap(bench: Bench) -> None:
    other = await bench.elsewhere()
    first = await submitted(bench)
    await bench.database.admin(
        "insert into pam.jobs (org_id, task, arguments, due_at, user_id, agent_id, agent_version, limits, max_attempts, depth)"
        " select org_id, task, arguments, due_at - interval '1 h', user_id, agent_id, agent_version, limits, 1, 1 from pam.jobs, generate_series(1, 300)"
        " where id = %s",
        first,
    )
    theirs = await submitted(other)
    await swept(bench.database)
    assert [row["state"] for row in await jobs(other) if row["id"] == theirs] == ["queued"]
    assert len([row for row in await jobs(bench) if row["state"] == "queued"]) == 39  # and one run of their own: 40
    started = await bench.database.rpc(
        bench.user_id, "start_run", org_id=bench.org_id, agent="engineer", message="mine"
    )
    assert "run_id" in started


async def test_a_token_that_has_expired_says_nothing_in_a_job(bench: Bench) -> None:
    seen = []
    for seconds in (3600, -1):
        exp = int(datetime.now(UTC).timestamp()) + seconds
        await bench.database.admin(
            "update pam_private.run_claims set claims = jsonb_build_object('sub', %s::text, 'exp', %s::bigint, 'team', 'red') where run_id = %s",
            str(bench.user_id), exp, bench.hold.run_id,
        )  # fmt: skip
        job = await submitted(bench)
        await swept(bench.database)
        (row,) = await bench.database.admin(
            "select c.claims ->> 'team' as team from pam.jobs j join pam_private.run_claims c on c.run_id = j.run_id where j.id = %s",
            job,
        )
        seen.append(row["team"])
    assert seen == ["red", None]


async def test_a_cancelled_job_never_starts_and_a_running_one_stops(bench: Bench) -> None:
    waiting, going = await submitted(bench), await submitted(bench)
    await bench.use("celery_task", action="cancel", job_id=str(waiting))
    await swept(bench.database)
    states = {row["id"]: (row["state"], row["run_id"]) for row in await jobs(bench)}
    assert states[waiting] == ("cancelled", None)
    assert states[going][0] == "queued"
    assert "is cancelled" in (await bench.use("celery_task", action="cancel", job_id=str(going)))[1]
    (run,) = await bench.database.admin("select status::text as s from pam.runs where id = %s", states[going][1])
    assert run["s"] == "cancelled"
    assert {row["state"] for row in await jobs(bench)} == {"cancelled"}
    status, said = await bench.use("celery_task", action="cancel", job_id=str(going))
    assert (status, "has ended already" in said) == ("refused", True)


async def test_a_job_that_breaks_the_sweep_stops_nobody_else_s(bench: Bench) -> None:
    broken = await submitted(bench)
    await bench.database.admin("update pam.jobs set limits = '{\"max_steps\": 0}' where id = %s", broken)
    sound = await submitted(bench)
    await swept(bench.database)
    assert {row["id"]: (row["state"], row["reason"]) for row in await jobs(bench)} == {
        broken: ("failed", "internal"), sound: ("queued", None)
    }  # fmt: skip
