"""Jobs as rows: a call submits once, a run carries out one, a due time comes once, and a job follows its run aloud."""

from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.database.world import FINISHED, call, step
from tests.support.database import Database

ONCE = {"task": "redis_get", "arguments": {"key": "a"}, "max_attempts": 1}


async def submitted(database: Database, **more: Any) -> tuple[UUID, dict[str, Any]]:
    """(the organisation, what submit_job answered) of a run's one call."""
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    held = {"run_id": run, "fence": await database.claimed(run)}
    planned = call("celery_task", "write")
    await database.worker("record_step", **held, step=step(), calls=[planned], events=[])
    await database.worker("begin_call", **held, id=UUID(planned["id"]))
    answer = await database.worker("submit_job", **held, call=UUID(planned["id"]), job={**ONCE, **more})
    assert "refused" not in answer, answer
    return org, answer


async def copied(database: Database, table: str, **changes: str) -> None:
    """The same row with another id, and these columns as said in SQL."""
    columns = [
        row["attname"]
        for row in await database.admin(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped", table
        )
    ]
    values = ", ".join({"id": "gen_random_uuid()", **changes}.get(name, name) for name in columns)
    await database.admin(f"insert into {table} ({', '.join(columns)}) select {values} from {table}")


JOB = {"submitted_by_call": "null", "run_id": "null", "schedule_due_at": "null"}


async def test_a_call_submits_one_job(database: Database) -> None:
    await submitted(database)
    await copied(database, "pam.jobs", **JOB)
    await database.admin("delete from pam.jobs where submitted_by_call is null")
    with pytest.raises(psycopg.errors.UniqueViolation, match="jobs_once_per_call"):
        await copied(database, "pam.jobs", **{**JOB, "submitted_by_call": "submitted_by_call"})


async def test_a_run_carries_out_one_job(database: Database) -> None:
    await submitted(database)
    await database.admin("select pam_worker.sweep_jobs()")
    with pytest.raises(psycopg.errors.UniqueViolation, match="jobs_one_per_run"):
        await copied(database, "pam.jobs", **{**JOB, "run_id": "run_id"})


async def test_a_call_submits_one_schedule_and_a_due_time_comes_once(database: Database) -> None:
    await submitted(database, name="hourly", cron="0 * * * *", time_zone="UTC", in_seconds=3600)
    with pytest.raises(psycopg.errors.UniqueViolation, match="schedules_once_per_call"):
        await copied(database, "pam.schedules")
    await database.admin(
        "insert into pam.jobs (org_id, task, arguments, due_at, schedule_id, schedule_due_at, user_id, agent_id, agent_version,"
        " limits, max_attempts, depth) select org_id, task, arguments, next_at, id, next_at, user_id, agent_id, agent_version,"
        " limits, max_attempts, depth from pam.schedules"
    )
    with pytest.raises(psycopg.errors.UniqueViolation, match="jobs_once_per_due_time"):
        await copied(database, "pam.jobs", **{**JOB, "schedule_due_at": "schedule_due_at"})


async def test_a_job_follows_its_run_and_each_status_is_announced(database: Database) -> None:
    org, _ = await submitted(database)
    await database.admin("select pam_worker.sweep_jobs()")
    (job,) = await database.admin("select * from pam.jobs")
    held = {"run_id": job["run_id"], "fence": await database.claimed(job["run_id"])}
    assert [row["status"] for row in await database.admin("select status::text from pam.jobs")] == ["running"]
    await database.worker("finish_run", **held, status="succeeded", reason=None, events=[FINISHED])
    (job,) = await database.admin("select status::text, ended_at from pam.jobs")
    assert (job["status"], job["ended_at"] is None) == ("succeeded", False)
    told = await database.admin(
        "select payload ->> 'status' as status from realtime.messages where topic = %s and event = 'job' order by inserted_at",
        f"org:{org}",
    )
    assert [row["status"] for row in told] == ["queued", "running", "succeeded"]


async def begotten(database: Database, owner: UUID, held: dict[str, Any], **more: Any) -> UUID:
    """The run of a job that this run's next step submits, claimed by nobody."""
    (run,) = await database.admin("select steps from pam.runs where id = %s", held["run_id"])
    planned = call("celery_task", "write")
    await database.worker("record_step", **held, step=step(run["steps"] + 1), calls=[planned], events=[])
    await database.worker("begin_call", **held, id=UUID(planned["id"]))
    work = {"task": "agent", "arguments": {"message": "Look."}, **more}
    answer = await database.worker("submit_job", **held, call=UUID(planned["id"]), job=work)
    await database.admin("select pam_worker.sweep_jobs()")
    (job,) = await database.admin("select run_id from pam.jobs where id = %s", answer["job_id"])
    return job["run_id"]


async def test_a_cancelled_run_takes_its_jobs_with_it_down_to_the_last(database: Database) -> None:
    owner, org = await database.new_organization()
    first = {"run_id": await database.new_run(owner, org)}
    first["fence"] = await database.claimed(first["run_id"])
    second = {"run_id": await begotten(database, owner, first)}
    second["fence"] = await database.claimed(second["run_id"])
    third = await begotten(database, owner, second)
    later = await begotten(database, owner, first, in_seconds=3600)
    beside = await database.new_run(owner, org)
    assert later is None

    await database.rpc(owner, "cancel_run", run_id=first["run_id"])

    told = await database.admin("select id, status::text, cancel_requested_at is not null as asked from pam.runs")
    assert {row["id"]: (row["status"], row["asked"]) for row in told} == {
        first["run_id"]: ("running", True),
        second["run_id"]: ("running", True),  # its worker hears of it at its next pulse
        third: ("cancelled", True),
        beside: ("queued", False),
    }
    jobs = await database.admin("select status::text from pam.jobs order by created_at")
    assert [job["status"] for job in jobs] == ["running", "cancelled", "cancelled"]
    planned = call("celery_task", "write")
    await database.worker("record_step", **second, step=step(2), calls=[planned], events=[])
    await database.worker("begin_call", **second, id=UUID(planned["id"]))
    late = await database.worker("submit_job", **second, call=UUID(planned["id"]), job=ONCE)
    assert late["refused"]["code"] == "conflict", "what is being cancelled begins nothing more"


async def test_a_schedule_outlasts_the_run_that_made_it(database: Database) -> None:
    await submitted(database, name="hourly", cron="0 * * * *", time_zone="UTC", in_seconds=3600)
    (run,) = await database.admin("select id, user_id from pam.runs")
    await database.rpc(run["user_id"], "cancel_run", run_id=run["id"])
    assert (await database.admin("select is_active from pam.schedules"))[0]["is_active"]
