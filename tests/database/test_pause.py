"""Runs that people let rest: who may, that nobody takes them, that their clocks stand still, and that their jobs rest with them."""

from typing import Any
from uuid import UUID

import pytest

from tests.database.test_budgets import job_of, under_way
from tests.database.test_organizations import code
from tests.database.world import call, custom, step
from tests.support.database import Database


async def resting(database: Database, run: UUID) -> bool:
    (row,) = await database.admin("select paused_at is not null as rests from pam.runs where id = %s", run)
    return bool(row["rests"])


async def taken(database: Database) -> Any:
    """The run that a worker is given, or nothing."""
    claim = await database.worker("claim_next", worker="w", lease_seconds=30)
    return claim and UUID(claim["run"]["id"])


async def test_nobody_takes_a_run_that_rests_and_it_rings_when_it_goes_on(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    for _ in range(2):
        paused = await database.rpc(owner, "pause_run", run_id=run)
        assert (paused["status"], paused["message"]) == ("queued", "The run rests until it is resumed.")
    await database.admin("update pam_private.run_heads set rung_at = now() - interval '1 h'")
    await database.admin("update pam.runs set deadline_at = now() - interval '1 s'")
    assert await taken(database) is None
    assert code(await database.worker("claim_run", run_id=run, turn=1, worker="w", lease_seconds=30)) == "paused"
    assert await database.worker("sweep_runs") == [], "no bell, and no deadline"
    await database.admin(
        "update pam.runs set paused_at = paused_at - interval '1 h', deadline_at = now() - interval '30 min'"
    )
    assert (await database.rpc(owner, "resume_run", run_id=run))["status"] == "queued"
    (row,) = await database.admin("select turn, deadline_at > now() + interval '29 min' as is_kept from pam.runs")
    assert (row["turn"], row["is_kept"]) == (2, True), "the hour of rest is no part of its time"
    assert await taken(database) == run
    assert code(await database.rpc(owner, "resume_run", run_id=run)) == "conflict"


async def test_its_worker_hears_it_and_gives_it_back(database: Database) -> None:
    owner, org = await database.new_organization()
    held = await under_way(database, owner, org)
    assert (await database.rpc(owner, "pause_run", run_id=held["run_id"]))["status"] == "running"
    pulse = {"runs": (held["run_id"],), "fences": (held["fence"],), "lease_seconds": 30}
    assert await database.worker("pulse_runs", **pulse) == [{"run_id": str(held["run_id"]), "reason": "paused"}]
    await database.worker("release_run", **held)
    assert await taken(database) is None
    await database.rpc(owner, "resume_run", run_id=held["run_id"])
    assert await taken(database) == held["run_id"]


async def test_one_that_has_not_stopped_yet_goes_on_as_if_nothing_had_been_said(database: Database) -> None:
    owner, org = await database.new_organization()
    held = await under_way(database, owner, org)
    await database.rpc(owner, "pause_run", run_id=held["run_id"])
    assert (await database.rpc(owner, "resume_run", run_id=held["run_id"]))["status"] == "running"
    pulse = {"runs": (held["run_id"],), "fences": (held["fence"],), "lease_seconds": 30}
    assert await database.worker("pulse_runs", **pulse) == []
    (row,) = await database.admin("select turn from pam.runs")
    assert row["turn"] == 1


async def test_who_cancels_while_it_is_given_back_has_cancelled_it(database: Database) -> None:
    owner, org = await database.new_organization()
    held = await under_way(database, owner, org)
    await database.rpc(owner, "pause_run", run_id=held["run_id"])
    assert (await database.rpc(owner, "cancel_run", run_id=held["run_id"]))["status"] == "running"
    await database.worker("release_run", **held)
    (row,) = await database.admin("select status::text from pam.runs")
    assert row["status"] == "cancelled"
    assert code(await database.rpc(owner, "pause_run", run_id=held["run_id"])) == "conflict"


async def test_one_that_waits_for_an_answer_takes_it_and_rests_on(database: Database) -> None:
    owner, org = await database.new_organization()
    held = await under_way(database, owner, org)
    asking = call("ask_person", "pause", question="Which?")
    await database.worker("record_step", **held, step=step(1), calls=[asking], events=[custom()])
    interrupted = {"type": "RUN_FINISHED", "outcome": {"type": "interrupt", "interrupts": []}}
    await database.worker("interrupt_run", **held, asks=[{"id": asking["id"]}], events=[interrupted])
    await database.rpc(owner, "pause_run", run_id=held["run_id"])
    assert (await database.rpc(owner, "answer_question", run_id=held["run_id"], answer="That."))["status"] == "queued"
    assert await taken(database) is None
    await database.rpc(owner, "resume_run", run_id=held["run_id"])
    assert await taken(database) == held["run_id"]


@pytest.mark.parametrize("verb", ["pause_run", "resume_run"])
async def test_its_asker_and_admins_may_and_it_is_written_down(database: Database, verb: str) -> None:
    _, org = await database.new_organization()
    ada, bob = [await database.new_member(org, "developer") for _ in range(2)]
    admin = await database.new_member(org, "admin")
    run = await database.new_run(ada, org)
    if verb == "resume_run":
        await database.rpc(ada, "pause_run", run_id=run)
    assert code(await database.rpc(bob, verb, run_id=run)) == "forbidden"
    assert code(await database.rpc(await database.new_person(), verb, run_id=run)) == "not_found"
    await database.admin("update pam.members set role = 'viewer' where user_id = %s", ada)
    assert code(await database.rpc(ada, verb, run_id=run)) == "forbidden"
    assert "refused" not in await database.rpc(admin, verb, run_id=run)
    action = f"run.{verb.removesuffix('_run')}"
    rows = await database.admin("select is_allowed from pam.audit where action = %s and org_id = %s", action, org)
    assert sorted(row["is_allowed"] for row in rows)[-3:] in ([False, False, True], [False, True, True])
    await database.rpc(admin, "cancel_run", run_id=run)
    assert code(await database.rpc(admin, verb, run_id=run)) == "conflict"


async def test_its_jobs_rest_with_it_and_those_that_begin_meanwhile(database: Database) -> None:
    owner, org = await database.new_organization()
    first = await under_way(database, owner, org)
    second = await job_of(database, first)
    submitting = call("celery_task")
    await database.worker("record_step", **second, step=step(1), calls=[submitting], events=[custom()])
    await database.worker("begin_call", **second, id=submitting["id"])
    work = {"task": "agent", "arguments": {"message": "Look."}}
    await database.worker("submit_job", **second, call=submitting["id"], job=work)
    await database.rpc(owner, "pause_run", run_id=first["run_id"])
    assert await resting(database, second["run_id"])
    (due,) = await database.worker("sweep_jobs")
    assert await resting(database, UUID(due["run_id"])), "it begins to rest"
    await database.rpc(owner, "resume_run", run_id=first["run_id"])
    for run in (first["run_id"], second["run_id"], UUID(due["run_id"])):
        assert not await resting(database, run)
