"""Jobs end to end on the real stack: submitted by an agent, swept up by the worker, carried out as runs."""

import asyncio
from typing import Any

from tests.support.house import Engineer, House

SUBMIT = """
name: NAME
when: "^Please play NAME"
turns:
  - expect: {role: user}
    call: [{celery_task: {action: submit, name: count, task: TASK, arguments: ARGUMENTS}}]
  - expect: {role: tool, result_of: celery_task}
    say: "It is on its way."
"""
TOOLS = ["celery_task", "redis_set", "redis_get", "file_read", "api_call", "websocket_send", "database_query"]


async def job_of(house: House, engineer: Engineer, *statuses: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            rows = await house.admin("select *, status::text as state from pam.jobs where org_id = %s", engineer.org_id)
            if rows and rows[0]["state"] in statuses:
                return rows[0]
            await asyncio.sleep(0.05)


async def test_a_tools_job_is_carried_out_without_a_model_by_the_same_path(house: House) -> None:
    ada = await house.engineer(tools=TOOLS)
    script = SUBMIT.replace("TASK", "redis_set").replace("ARGUMENTS", "{key: visits, increment: 2}")
    submitter, _ = await house.play(ada, script)

    job = await job_of(house, ada, "succeeded", "failed")

    assert (job["state"], job["attempt"], job["result"]) == ("succeeded", 1, "visits is 2 now.")
    run = await house.until(str(job["run_id"]))
    assert (run["steps"], run["input_tokens"], run["cost_usd"], run["user_id"]) == (1, 0, 0, job["user_id"])
    events = await house.events(str(job["run_id"]))
    assert events[0]["type"] == "RUN_STARTED"
    assert events[-1]["result"]["text"] == "visits is 2 now."
    assert [e["value"]["status"] for e in events if e.get("name") == "pam.tool_outcome"] == ["succeeded"]
    (step,) = await house.admin("select model from pam.steps where run_id = %s", job["run_id"])
    assert step["model"] == "none"
    acts = await house.admin(
        "select action from pam.audit where subject ->> 'run_id' = %s order by id", str(job["run_id"])
    )
    assert [act["action"] for act in acts] == ["job.start", "tool.redis_set", "run.succeeded"]
    assert str(job["submitted_by_run"]) == submitter


async def test_an_agents_job_is_an_ordinary_run_with_its_message(house: House) -> None:
    ada = await house.engineer(tools=TOOLS)
    inner = await house.script('name: NAME\nwhen: NAME\nturns:\n  - {expect: {role: user}, say: "All is well."}\n')
    script = SUBMIT.replace("TASK", "agent").replace("ARGUMENTS", f'{{message: "{inner}"}}')
    await house.play(ada, script)

    job = await job_of(house, ada, "succeeded", "failed")

    assert (job["state"], job["result"]) == ("succeeded", "All is well.")
    assert not await house.unused(inner)


async def test_a_job_that_needs_a_persons_word_waits_for_it_and_a_no_is_final(house: House) -> None:
    ada = await house.engineer(tools=TOOLS)
    await ada.person.call(
        "set_policy", org_id=ada.org_id, role="owner", tool="redis_set", effect="write", consent="ask"
    )
    script = SUBMIT.replace("TASK", "redis_set").replace("ARGUMENTS", "{key: visits, increment: 2}")
    await house.play(ada, script)
    job = await job_of(house, ada, "running", "succeeded", "failed")
    await house.until(str(job["run_id"]), "interrupted")
    (waiting,) = await ada.person.select("approvals", run_id=str(job["run_id"]))
    await ada.person.call("decide", decisions=[{"approval_id": waiting["id"], "verdict": "reject", "note": "not now"}])

    job = await job_of(house, ada, "succeeded", "failed")

    assert (job["state"], job["reason"]) == ("failed", "call_refused")
    assert "not now" in job["result"]


async def test_a_job_whose_call_fails_says_why(house: House) -> None:
    ada = await house.engineer(tools=TOOLS)
    script = SUBMIT.replace("TASK", "file_read").replace("ARGUMENTS", "{path: nowhere.md}")
    await house.play(ada, script)

    job = await job_of(house, ada, "succeeded", "failed")

    assert job["state"] == "failed"
    assert "nowhere.md" in job["result"]
    await house.events(str(job["run_id"]))


async def test_a_schedule_fires_and_moves_on(house: House) -> None:
    ada = await house.engineer(tools=TOOLS)
    script = (
        SUBMIT.replace("action: submit", "action: schedule, cron: '* * * * *', time_zone: Europe/Berlin")
        .replace("TASK", "redis_set").replace("ARGUMENTS", "{key: visits, increment: 1}")
    )  # fmt: skip
    await house.play(ada, script)
    (row,) = await house.admin(
        "update pam.schedules set next_at = date_trunc('minute', now()) - interval '1 hour' where org_id = %s returning next_at",
        ada.org_id,
    )

    job = await job_of(house, ada, "succeeded", "failed")

    assert (job["state"], job["result"], job["schedule_due_at"]) == ("succeeded", "visits is 1 now.", row["next_at"])
    (schedule,) = await house.admin(
        "select last_job_id, next_at > now() - interval '1 minute' as is_on_time from pam.schedules where org_id = %s",
        ada.org_id,
    )
    assert schedule["is_on_time"]  # an hour was missed, and made up for once


SLOW = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, say: "One two three four five six seven eight nine ten eleven twelve.", seconds_per_word: 1}
"""


async def test_a_cancelled_run_stops_the_work_that_it_began(house: House) -> None:
    ada = await house.engineer(tools=TOOLS)
    inner = await house.script(SLOW)
    script = SUBMIT.replace("TASK", "agent").replace("ARGUMENTS", f'{{message: "{inner}"}}')
    run_id = await ada.start(
        await house.script(
            script.replace('on its way."', 'on its way now, let us wait and see."') + "    seconds_per_word: 1\n"
        )
    )
    job = await job_of(house, ada, "running")

    await ada.person.call("cancel_run", run_id=run_id)

    async with asyncio.timeout(5):
        ends = [await house.until(str(one)) for one in (run_id, job["run_id"])]
    assert [run["status"] for run in ends] == ["cancelled", "cancelled"]
    assert (await job_of(house, ada, "cancelled"))["state"] == "cancelled"
