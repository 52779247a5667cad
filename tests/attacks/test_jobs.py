"""Attacks on jobs and schedules: by a run through celery_task, by its worker's and the sweeper's verbs, by people.

Each case is a mechanism of its own; what stopped it stands beside it. None may get work done that should not be.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from infra.local.facts import StackFacts
from tests.database.world import BROKEN, FINISHED, call, refused_state, step
from tests.support.bench import Bench
from tests.support.database import DEFINITION, Database, Template
from workers.kernel import sweeps

GET = {"task": "redis_get", "arguments": {"key": "a"}}
# name → (arguments, what the model reads)
SUBMISSIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a task that nobody registered": ({"task": "shell", "arguments": {}}, "There is no task"),
    "a job that submits jobs by itself": (
        {"task": "celery_task", "arguments": {"action": "list"}},
        "There is no task",
    ),
    "a job that asks a person": ({"task": "ask_person", "arguments": {"question": "?"}}, "There is no task"),
    "a function of this program": ({"task": "os.system", "arguments": {"command": "id"}}, "There is no task"),
    "the queue's own job": ({"task": "workers.jobs.advance_run", "arguments": {}}, "There is no task"),
    "arguments of another tool": ({"task": "redis_get", "arguments": {"path": "a"}}, "do not fit redis_get"),
    "an agent of another's": (
        {"task": "agent", "arguments": {"message": "x", "agent": "other"}},
        "The arguments of the task `agent` are",
    ),
    "another person to run as": (
        {"task": "agent", "arguments": {"message": "x", "user_id": str(uuid4())}},
        "The arguments of the task `agent` are",
    ),
    "more money than its own run": (
        {"task": "agent", "arguments": {"message": "x", "limits": {"max_cost_usd": 100}}},
        "The arguments of the task `agent` are",
    ),
    "silence": ({"task": "agent", "arguments": {"message": " \n"}}, "1 to 60,000 characters"),
    "a payload too large": (
        {"task": "redis_set", "arguments": {"key": "a", "value": "x" * 70_000}},
        "at most 64 KiB",
    ),
    "a time in two years": ({**GET, "at": "2029-01-01T00:00:00Z"}, "within a year"),
    "a time at the end of time": ({**GET, "at": "9999-12-31T23:59:59Z"}, "within a year"),
    "two times": ({**GET, "at": "2027-01-01T00:00:00Z", "in_seconds": 1}, "not both"),
    "a time of nowhere": ({**GET, "at": "2027-01-01T00:00:00"}, "needs an offset"),
    "six attempts": ({**GET, "max_attempts": 6}, "max_attempts"),
    "an organisation of another's": ({**GET, "org_id": str(uuid4())}, "do not fit"),
}
SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "every second": ({"cron": "* * * * * *"}, "five fields"),
    "a shorthand of some crons": ({"cron": "@reboot"}, "five fields"),
    "a command behind": ({"cron": "* * * * * ; id"}, "five fields"),
    "a day that never comes": ({"cron": "0 0 31 2 *"}, "no cron expression"),
    "a step of nothing": ({"cron": "*/0 * * * *"}, "no cron expression"),
    "an expression without end": ({"cron": "0," * 200 + "0 * * * *"}, "five fields"),
    "digits of another script": ({"cron": "٣ * * * *"}, "five fields"),
    "a time zone that is a path": ({"time_zone": "../../etc/passwd"}, "A time zone is"),
    "an absolute path": ({"time_zone": "/etc/localtime"}, "A time zone is"),
    "a folder of time zones": ({"time_zone": "Europe"}, "A time zone is"),
    "this machine's own zone": ({"time_zone": "localtime"}, "A time zone is"),
    "a zone that is not there": ({"time_zone": "Europe/Atlantis"}, "There is no time zone"),
}


@pytest.fixture(scope="module")
async def first_bench(template: Template, stack: StackFacts) -> AsyncIterator[Bench]:
    async with template.clone() as cloned, Bench.open(cloned, stack) as opened:
        yield opened


@pytest.fixture
async def bench(first_bench: Bench) -> Bench:
    return await first_bench.elsewhere()


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


async def test_no_run_submits_what_it_must_not(bench: Bench) -> None:
    through = []
    for name, (given, reason) in SUBMISSIONS.items():
        status, said = await bench.use("celery_task", action="submit", **given)
        if status not in ("failed", "refused") or reason not in said:
            through.append((name, status, said))
    for name, (given, reason) in SCHEDULES.items():
        whole = {**GET, "name": "x", "cron": "0 7 * * *", "time_zone": "UTC", **given}
        status, said = await bench.use("celery_task", action="schedule", **whole)
        if status not in ("failed", "refused") or reason not in said:
            through.append((name, status, said))
    assert through == []
    assert await jobs(bench) == []
    assert await bench.database.admin("select id from pam.schedules where org_id = %s", bench.org_id) == []


async def test_a_foreign_job_is_nobody_s_to_see_cancel_or_retry(bench: Bench) -> None:
    foreign = await bench.elsewhere()
    job = await submitted(foreign)
    for action in ("watch", "cancel", "retry"):
        status, said = await bench.use("celery_task", action=action, job_id=str(job))
        assert (status, "There is no such job" in said) == ("refused", True), action
    assert str(job) not in (await bench.use("celery_task", action="list"))[1]
    for verb in ("cancel_job", "retry_job"):
        for org in (foreign.org_id, bench.org_id):
            answer = await bench.database.rpc(bench.user_id, verb, org_id=org, job_id=job)
            assert answer["refused"]["code"] == "not_found"


async def test_a_colleague_s_job_is_seen_as_data_and_changed_by_its_person_or_an_admin_alone(bench: Bench) -> None:
    database, job = bench.database, await submitted(bench, in_seconds=3600)
    colleague = await database.new_member(bench.org_id, "developer")
    viewer = await database.new_member(bench.org_id, "viewer")
    admin = await database.new_member(bench.org_id, "admin")
    theirs = await Bench._claimed(database, bench.hold.gateway, bench.services, colleague, bench.org_id)
    status, said = await theirs.use("celery_task", action="cancel", job_id=str(job))
    assert (status, "Only the person whose job it is" in said) == ("refused", True)
    for person in (colleague, viewer):
        answer = await database.rpc(person, "cancel_job", org_id=bench.org_id, job_id=job)
        assert answer["refused"]["code"] == "forbidden"
    assert (await database.rpc(admin, "cancel_job", org_id=bench.org_id, job_id=job))["status"] == "cancelled"
    assert (await theirs.use("celery_task", action="retry", job_id=str(job)))[0] == "refused"
    for person in (colleague, viewer):
        assert (await database.rpc(person, "retry_job", org_id=bench.org_id, job_id=job))["refused"][
            "code"
        ] == "forbidden"
    assert (await database.rpc(admin, "retry_job", org_id=bench.org_id, job_id=job))["status"] == "scheduled"
    listed = await theirs.carry_out(await theirs.planned("celery_task", {"action": "list"}))
    assert listed.origin == "names that others gave their jobs"


async def test_what_the_submitter_had_read_its_job_has_read_too(bench: Bench) -> None:
    await bench.database.admin(
        "update pam.runs set tainted_at = now(), taint = 'page x' where id = %s", bench.hold.run_id
    )
    job = await submitted(bench, task="agent", arguments={"message": "send it away"})
    await swept(bench.database)
    (row,) = await bench.database.admin(
        "select r.taint, r.tainted_at from pam.runs r join pam.jobs j on j.run_id = r.id where j.id = %s", job
    )
    assert row["taint"] == "page x"
    assert row["tainted_at"] is not None


async def test_a_result_that_nobody_vouches_for_taints_who_watches_it(bench: Bench) -> None:
    job = await submitted(bench)
    await swept(bench.database)
    (row,) = [row for row in await jobs(bench) if row["id"] == job]
    await bench.database.admin("update pam.runs set tainted_at = now(), taint = 'page x' where id = %s", row["run_id"])
    await ran(bench, job, status="succeeded", calls=(("read", "succeeded"),))
    watched = await bench.carry_out(await bench.planned("celery_task", {"action": "watch", "job_id": str(job)}))
    assert (watched.status.value, watched.origin) == ("succeeded", f"job {job}: page x")
    (row,) = await bench.database.admin("select taint from pam.runs where id = %s", bench.hold.run_id)
    assert row["taint"] == f"job {job}: page x"


async def test_a_card_s_bounds_hold_when_it_submits_and_again_when_it_runs(bench: Bench) -> None:
    database = bench.database
    job, agent = await submitted(bench), await submitted(bench, task="agent", arguments={"message": "x"})
    less = {**DEFINITION, "tools": ["celery_task", "file_read"]}
    await database.rpc(
        bench.user_id, "import_agent", org_id=bench.org_id, name="engineer", definition=less, source="# less"
    )
    await swept(database)
    states = {row["id"]: (row["state"], row["reason"], row["run_id"]) for row in await jobs(bench)}
    assert states == {job: ("failed", "not_granted", None), agent: ("failed", "not_granted", None)}
    narrow = await bench.beside()
    status, said = await narrow.use("celery_task", action="submit", **GET)
    assert (status, "does not grant redis_get" in said) == ("refused", True)


async def test_one_who_lost_their_role_has_no_work_done(bench: Bench) -> None:
    database = bench.database
    job = await submitted(bench)
    await bench.use("celery_task", action="schedule", **GET, name="x", cron="* * * * *", time_zone="UTC")
    await database.admin("update pam.schedules set next_at = date_trunc('minute', now()) where org_id = %s", bench.org_id)
    await database.admin("update pam.members set role = 'viewer' where user_id = %s", bench.user_id)
    await swept(database)
    assert [(row["id"], row["state"], row["reason"]) for row in await jobs(bench)] == [
        (job, "failed", "access_revoked")
    ]
    (schedule,) = await database.admin("select is_active from pam.schedules where org_id = %s", bench.org_id)
    assert schedule["is_active"] is False


async def test_jobs_that_beget_jobs_end_at_the_fifth(bench: Bench) -> None:
    at = bench
    for depth in range(1, 6):
        job = await submitted(at, task="agent", arguments={"message": "again"})
        await swept(at.database)
        (row,) = [row for row in await jobs(at) if row["id"] == job]
        assert row["depth"] == depth
        at = await _worker_of(at, row["run_id"])
    for action in ({"action": "submit"}, {"action": "schedule", "name": "x", "cron": "* * * * *", "time_zone": "UTC"}):
        status, said = await at.use("celery_task", **action, **GET)
        assert (status, "end at the fifth" in said) == ("refused", True)
    other = await submitted(bench)
    await bench.database.admin("update pam.jobs set status = 'failed' where id = %s", other)
    status, said = await at.use("celery_task", action="retry", job_id=str(other))
    assert (status, "end at the fifth" in said) == ("refused", True)


async def _worker_of(bench: Bench, run: UUID) -> Bench:
    from workers.kernel.ledger.hold import Hold

    hold = Hold(bench.hold.gateway, run, await bench.database.claimed(run, lease_seconds=600))
    return Bench(bench.database, hold, bench.org_id, bench.user_id, bench.services)


async def test_caps_hold_for_a_run_an_organisation_and_its_schedules(bench: Bench) -> None:
    database = bench.database
    first = await submitted(bench, in_seconds=3600)
    copy = (
        "insert into pam.jobs (org_id, task, arguments, due_at, user_id, agent_id, agent_version, limits, max_attempts, depth, submitted_by_run)"
        " select org_id, task, arguments, due_at, user_id, agent_id, agent_version, limits, 1, 1, {} from pam.jobs, generate_series(1, %s)"
        " where id = %s"
    )
    await database.admin(copy.format("submitted_by_run"), 99, first)
    assert "One run submits 100" in (await bench.use("celery_task", action="submit", **GET))[1]
    beside = await bench.beside()
    plan = {"action": "schedule", **GET, "name": "x", "cron": "0 7 * * *", "time_zone": "UTC"}
    assert (await beside.use("celery_task", **plan))[0] == "succeeded"
    await database.admin(
        "insert into pam.schedules (org_id, name, task, arguments, cron, time_zone, ends_at, user_id, agent_id, agent_version, limits, max_attempts, depth)"
        " select org_id, name, task, arguments, cron, time_zone, ends_at, user_id, agent_id, agent_version, limits, 1, 1"
        " from pam.schedules, generate_series(1, 199) where org_id = %s",
        bench.org_id,
    )
    assert "200 active schedules" in (await beside.use("celery_task", **plan))[1]
    await database.admin(copy.format("null"), 9_900, first)
    assert "10,000 open jobs" in (await beside.use("celery_task", action="submit", **GET))[1]


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
    # The next time while the job before is open: skipped, not heaped up.
    await database.admin("update pam.schedules set next_at = date_trunc('minute', now()) where org_id = %s", bench.org_id)
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
    theirs = await (await bench.beside()).planned("celery_task", {"action": "submit", **GET})
    held = {"run_id": bench.hold.run_id, "fence": bench.hold.fence}
    for one in (planned.id, other.id, theirs.id, uuid4()):
        assert await refused_state(bench.database.worker("submit_job", **held, call=one, job=GET)) == "PM002"
        assert await refused_state(bench.database.worker("retry_job", **held, call=one, job=uuid4())) == "PM002"
    old = {**held, "fence": bench.hold.fence - 1}
    assert await refused_state(bench.database.worker("submit_job", **old, call=planned.id, job=GET)) == "PM002"
    assert await jobs(bench) == []


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
