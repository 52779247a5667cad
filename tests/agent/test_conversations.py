"""Messages to a thread whose run is not finished, played whole: steered, queued, interrupted, rolled back."""

from typing import Any

import pytest

from infra.replay.replayed import replay
from infra.replay.stored import recorded
from tests.agent.test_cancel import ada as ada
from tests.agent.test_cancel import played, thinking
from tests.support.house import Engineer, House
from workers.tools import TOOLS

CALLS = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, say: "one two three four five six seven eight", seconds_per_word: 0.1, call: [{file_list: {}}]}
"""
ANSWERS = CALLS.replace(", call: [{file_list: {}}]", "")
QUICK = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "That, too."}]
"""


def steered(events: list[dict[str, Any]]) -> list[str]:
    return [e["value"]["content"] for e in events if e["type"] == "CUSTOM" and e["name"] == "pam.steered"]


async def said(house: House, ada: Engineer, thread: str, script: str, **more: Any) -> str:
    message = await house.script(script)
    given = {"org_id": ada.org_id, "agent": "engineer", "message": message, "thread_id": thread, **more}
    return str((await ada.person.call("start_run", **given))["run_id"])


async def thread_of(house: House, run_id: str) -> str:
    return str((await house.admin("select thread_id from pam.runs where id = %s", run_id))[0]["thread_id"])


@pytest.mark.parametrize("first", [CALLS, ANSWERS])
async def test_a_run_hears_what_is_said_to_it_before_its_next_step_or_its_end(
    house: House, ada: Engineer, first: str
) -> None:
    message, more = await house.script(first), await house.script(QUICK)
    run_id = await ada.start(message)
    await played(house, message)
    await ada.person.call("steer_run", run_id=run_id, message=more)
    run = await house.until(run_id)
    assert (run["status"], run["steps"]) == ("succeeded", 2), run["reason"]
    events = await house.events(run_id)
    assert steered(events) == [more]
    assert events[-1]["result"]["text"] == "That, too."
    again = await replay(await recorded(ada.person, run_id), tools=TOOLS)
    assert (again.difference, again.changed_inputs) == (None, ()), "a replay hears it where the run did"


async def test_a_queued_message_begins_when_the_run_before_it_has_ended(house: House, ada: Engineer) -> None:
    first = await ada.start(await house.script(ANSWERS))
    second = await said(house, ada, await thread_of(house, first), QUICK, if_busy="queue")
    run = await house.until(second)
    assert run["status"] == "succeeded", run["reason"]
    (one, two) = await house.admin(
        "select ended_at, started_at from pam.runs where id = any (%s) order by created_at", [first, second]
    )
    assert one["ended_at"] <= two["started_at"]


async def test_an_interrupting_message_stops_the_model_in_its_words(house: House, ada: Engineer) -> None:
    async with thinking(house, ada) as run_id:
        urgent = await said(house, ada, await thread_of(house, run_id), QUICK, if_busy="interrupt")
        assert (await house.until(run_id))["status"] == "cancelled"
        assert (await house.until(urgent))["status"] == "succeeded"
        await house.events(run_id)
