"""Attacks on jobs and schedules: by a run through celery_task, and by people; the sweep has its own file.

Each case is a mechanism of its own; what stopped it stands beside it. None may get work done that should not be.
"""

from typing import Any
from uuid import UUID, uuid4

from tests.support.bench import Bench
from tests.support.database import DEFINITION
from tests.support.jobs import GET, jobs, ran, submitted, swept
from workers.kernel.ledger.hold import Hold

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
    await database.admin(
        "update pam.schedules set next_at = date_trunc('minute', now()) where org_id = %s", bench.org_id
    )
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
