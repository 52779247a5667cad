"""Runs that cost one worker after another: parked with what each attempt died of, and asked again by whoever may."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

from tests.database.test_conversations import Talk
from tests.database.test_organizations import audit, code
from tests.database.world import BROKEN, FINISHED, call, step
from tests.support.database import Database


async def lost(database: Database, run: UUID, worker: str) -> Any:
    """One more worker takes the run and falls silent; answers what the sweep says."""
    await database.claimed(run, worker=worker, lease_seconds=0)
    return await database.worker("sweep_runs")


async def told(database: Database, run: UUID, name: str = "pam.lost") -> list[dict[str, Any]]:
    rows = await database.admin(
        "select payload -> 'value' as value from pam.events where run_id = %s and payload ->> 'name' = %s order by seq",
        run,
        name,
    )
    return [row["value"] for row in rows]


async def failed(database: Database, status: str = "failed", *calls: dict[str, Any], **given: Any) -> Talk:
    """A thread whose one run has ended so, after a step with these calls."""
    talk = await Talk.begun(database)
    held = {"run_id": talk.run, "fence": talk.fence}
    if calls:
        await database.worker("record_step", **held, step=step(), calls=list(calls), events=[])
    for one in calls:
        await database.worker("begin_call", **held, id=one["id"])
        if "outcome" in one:
            await database.worker("finish_call", **held, id=one["id"], status=one["outcome"], result="so", events=[])
    end = BROKEN if status == "failed" else FINISHED
    await database.worker("finish_run", **held, status=status, reason="x", events=[end])
    return talk


async def test_a_lost_worker_is_told_with_the_step_and_the_calls_that_were_under_way(database: Database) -> None:
    talk = await Talk.begun(database)
    begun, planned = call("api_call", "read"), call()
    held = {"run_id": talk.run, "fence": talk.fence}
    await database.worker("record_step", **held, step=step(), calls=[begun, planned], events=[])
    await database.worker("begin_call", **held, id=begun["id"])
    await database.admin("update pam_private.run_heads set lease_until = now() - interval '1 s'")
    await database.worker("sweep_runs")
    (value,) = await told(database, talk.run)
    assert value.pop("lease_until") < (await database.admin("select now()::text as n"))[0]["n"].replace(" ", "T")
    assert value == {"worker": "w1", "turn": 1, "attempt": 0, "steps": 1, "calls": ["api_call"]}
    assert await database.worker("sweep_runs") == []
    assert len(await told(database, talk.run)) == 1, "once, however often it is swept"


async def test_nothing_is_told_of_a_worker_that_lives_or_left_in_good_order(database: Database) -> None:
    talk = await Talk.begun(database)
    await database.worker("sweep_runs")
    await database.worker("release_run", run_id=talk.run, fence=talk.fence)
    await database.admin("update pam_private.run_heads set rung_at = now() - interval '1 h'")
    assert len(await database.worker("sweep_runs")) == 1
    assert await told(database, talk.run) == []


async def test_five_lost_at_one_step_park_the_run_and_the_end_names_each(database: Database) -> None:
    talk = await Talk.begun(database, is_held=False)
    for number in range(2):
        await lost(database, talk.run, f"before-{number}")
    fence = await database.claimed(talk.run, worker="lived")
    begun = call("code_execution", "write")
    held = {"run_id": talk.run, "fence": fence}
    await database.worker("record_step", **held, step=step(), calls=[begun], events=[])
    await database.worker("begin_call", **held, id=begun["id"])
    await database.admin("update pam_private.run_heads set lease_until = now() - interval '1 s'")
    await database.worker("sweep_runs")  # after its step: it costs no attempt
    for number in range(5):
        assert len(await lost(database, talk.run, f"poisoned-{number}")) == 1
    assert await database.worker("claim_next", worker="w", lease_seconds=30) is None
    assert (await database.admin("select status::text, reason from pam.runs"))[0] == {
        "status": "failed", "reason": "attempts"
    }  # fmt: skip
    (end,) = await database.admin("select payload from pam.events order by seq desc limit 1")
    sentence = end["payload"]["message"]
    assert sentence.startswith("The run is parked: five workers in a row were lost after step 1 (poisoned-0 at ")
    assert sentence.count(" in code_execution") == 5
    assert [name for name in ("before-0", "lived") if name in sentence] == []
    assert [f"poisoned-{n} at" in sentence for n in range(5)] == [True] * 5
    assert [value["attempt"] for value in await told(database, talk.run)] == [1, 2, 0, 1, 2, 3, 4, 5]


async def test_what_the_log_does_not_tell_the_end_leaves_out(database: Database) -> None:
    talk = await Talk.begun(database, is_held=False)
    await database.admin("update pam.runs set attempt = 5")
    await database.worker("claim_next", worker="w", lease_seconds=30)
    (end,) = await database.admin("select payload ->> 'message' as m from pam.events order by seq desc limit 1")
    assert end["m"] == (
        "The run is parked: five workers in a row were lost after step 0. Once the cause is mended it can be tried again."
    )
    assert await talk.next() is None


async def test_a_failed_run_is_asked_again_in_its_thread_within_its_limits(database: Database) -> None:
    owner, org = await database.new_organization()
    limits = {"max_steps": 7, "max_tokens": 70, "max_cost_usd": 0.07, "max_seconds": 77}
    run = await database.new_run(owner, org, "Do it.", limits=limits, priority=3)
    held = {"run_id": run, "fence": await database.claimed(run)}
    await database.rpc(owner, "steer_run", run_id=run, message="Gently.")
    await database.worker("take_messages", **held)
    await database.admin("update pam.runs set deadline_at = deadline_at + interval '3 days', tainted_at = now()")
    await database.worker("finish_run", **held, status="failed", reason="x", events=[BROKEN])
    newer = {"instructions": "You are mended.", "tools": ["file_read"]}
    await database.rpc(owner, "import_agent", org_id=org, name="engineer", definition=newer, source="# card")
    answer = await database.rpc(owner, "retry_run", run_id=run)
    again = UUID(answer["run_id"])
    (row,) = await database.admin(
        "select thread_id::text, status::text, user_id, agent_version, max_steps, max_tokens, max_cost_usd::float, max_seconds, priority,"
        " deadline_at - created_at as left, tainted_at is not null as is_tainted from pam.runs where id = %s",
        again,
    )
    assert row.pop("left").total_seconds() == 77, "what waiting had added is not given again"
    assert row == {**limits, "thread_id": answer["thread_id"], "status": "queued", "user_id": owner, "agent_version": 2,
                   "priority": 3, "is_tainted": True}  # fmt: skip
    assert (await database.admin("select retried_by from pam.runs where id = %s", run))[0]["retried_by"] == again
    seen = await database.worker("read_conversation", run_id=again, fence=await database.claimed(again))
    assert [message["content"] for message in seen["messages"]] == ["Do it.", "Gently.", "Do it."]
    assert await audit(database, org, "run.retry") == [True]


async def test_only_the_asker_and_admins_try_again_and_it_stays_the_askers(database: Database) -> None:
    owner, org = await database.new_organization()
    people = {role: await database.new_member(org, role) for role in ("admin", "developer", "viewer")}
    asker = await database.new_member(org, "developer")
    async with database.person(asker, session_id="s") as asking:
        row = await (
            await asking.execute("select pam.start_run(%s, 'engineer', 'Do it.') ->> 'run_id' as id", [org])
        ).fetchone()
    assert row is not None
    run = UUID(row["id"])
    await database.rpc(asker, "cancel_run", run_id=run)
    for person, expected in (
        (None, "not_found"), (await database.new_person(), "not_found"), (people["viewer"], "forbidden"), (people["developer"], "forbidden"),
    ):  # fmt: skip
        assert code(await database.rpc(person, "retry_run", run_id=run)) == expected
    assert code(await database.rpc(owner, "retry_run", run_id=uuid4())) == "not_found"
    again = UUID((await database.rpc(people["admin"], "retry_run", run_id=run))["run_id"])
    claims = (
        "select r.user_id, c.claims from pam.runs r join pam_private.run_claims c on c.run_id = r.id where r.id = %s"
    )
    assert await database.admin(claims, again) == [{"user_id": asker, "claims": {}}], "nothing of an admin's token"
    await database.rpc(asker, "cancel_run", run_id=again)
    mine = UUID((await database.rpc(asker, "retry_run", run_id=again))["run_id"])
    assert (await database.admin(claims, mine))[0]["claims"]["sub"] == str(asker)
    await database.rpc(asker, "cancel_run", run_id=mine)
    await database.admin("update pam.members set role = 'viewer' where user_id = %s", asker)
    for person in (asker, owner):
        assert code(await database.rpc(person, "retry_run", run_id=mine)) == "forbidden"
    assert await audit(database, org, "run.retry") == [False, False, True, True, False, False]


async def test_only_a_run_that_failed_or_was_cancelled_is_tried_again_and_only_in_a_free_thread(
    database: Database,
) -> None:
    talk = await Talk.begun(database)
    assert code(await database.rpc(talk.owner, "retry_run", run_id=talk.run)) == "conflict"
    await talk.end()
    refused = await database.rpc(talk.owner, "retry_run", run_id=talk.run)
    assert (code(refused), "this one is succeeded" in refused["refused"]["message"]) == ("conflict", True)
    for status in ("failed", "cancelled"):
        ended = await failed(database, status)
        answers = await asyncio.gather(*(database.rpc(ended.owner, "retry_run", run_id=ended.run) for _ in range(6)))
        assert sorted(map(code, answers)) == ["", *["busy"] * 5]
        (first,) = [answer for answer in answers if "run_id" in answer]
        assert code(await database.rpc(ended.owner, "retry_run", run_id=ended.run)) == "busy", "one live run a thread"
        await database.rpc(ended.owner, "cancel_run", run_id=UUID(first["run_id"]))
        assert code(await database.rpc(ended.owner, "retry_run", run_id=ended.run)) == ""


async def test_what_has_or_may_have_taken_effect_is_repeated_by_word_alone(database: Database) -> None:
    outcomes = {"succeeded": "conflict", "unknown": "conflict", "failed": "", "refused": ""}
    for outcome, expected in outcomes.items():
        talk = await failed(database, "failed", {**call(), "outcome": outcome})
        assert code(await database.rpc(talk.owner, "retry_run", run_id=talk.run)) == expected, outcome
    for given, expected in ((False, "conflict"), (None, "conflict"), (True, "")):
        talk = await failed(database, "cancelled", call("api_call", "read"), call(), call("celery_task"))
        answer = await database.rpc(talk.owner, "retry_run", run_id=talk.run, despite_effects=given)
        assert code(answer) == expected, given
        if expected:
            effects = "file_write in step 1 (unknown), celery_task in step 1 (unknown)"
            assert f"the same once more: {effects}. Look at" in answer["refused"]["message"]
    agreed = await Talk.begun(database)
    asked = call("api_call", "irreversible")
    held = {"run_id": agreed.run, "fence": agreed.fence}
    await database.worker("record_step", **held, step=step(), calls=[asked], events=[])
    await database.worker("interrupt_run", **held, asks=[{"id": asked["id"]}], events=[])
    decision = {"approval_id": asked["id"], "verdict": "approve"}
    await database.rpc(agreed.owner, "decide", decisions=[decision])
    await database.rpc(agreed.owner, "cancel_run", run_id=agreed.run)
    assert code(await database.rpc(agreed.owner, "retry_run", run_id=agreed.run)) == "", "agreed to, and never begun"
    reads = await failed(database, "failed", {**call("file_read", "read"), "outcome": "succeeded"})
    assert code(await database.rpc(reads.owner, "retry_run", run_id=reads.run)) == ""


async def test_a_jobs_run_is_tried_again_by_its_job(database: Database) -> None:
    for task, is_of_a_job in (('{"tool": "redis_get"}', False), (None, True)):
        talk = await failed(database)
        await database.admin("update pam.runs set task = %s where id = %s", task, talk.run)
        if is_of_a_job:
            submitting = await Talk.begun(database)
            held = {"run_id": submitting.run, "fence": submitting.fence}
            planned = call("celery_task")
            await database.worker("record_step", **held, step=step(), calls=[planned], events=[])
            await database.worker("begin_call", **held, id=planned["id"])
            work = {"task": "redis_get", "arguments": {"key": "a"}, "due_at": "2027-01-01T00:00:00Z"}
            job = await database.worker("submit_job", **held, call=planned["id"], job=work)
            await database.admin(
                f"set session_replication_role = replica; update pam.jobs set org_id = '{talk.org}', run_id = '{talk.run}'"
                f" where id = '{job['job_id']}'"
            )
        refused = await database.rpc(talk.owner, "retry_run", run_id=talk.run)
        assert (code(refused), "run of a job" in refused["refused"]["message"]) == ("conflict", True)


async def test_a_retry_counts_among_its_askers_unfinished_runs(database: Database) -> None:
    talk = await failed(database)
    for _ in range(50):
        await database.new_run(talk.owner, talk.org)
    assert code(await database.rpc(talk.owner, "retry_run", run_id=talk.run)) == "limit"
