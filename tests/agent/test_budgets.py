"""Budgets in a real run: a run that meets one ends with the reason, one that others hold up waits, broken answers are paid."""

import asyncio

from infra.replay.replayed import replay
from infra.replay.stored import recorded
from tests.support.house import House
from workers.tools import TOOLS

TALK = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "Ten words are said here and not one more today.", seconds_per_word: 0.2}]
"""
LOOKS = """
name: NAME
when: NAME
turns: [{expect: {role: user}, call: [{file_list: {}}]}, {expect: {role: tool}, say: "Nothing."}]
"""
BREAKS = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "One two three four five six.", cut: text, trouble_times: 1}]
"""


async def test_a_run_ends_where_the_budget_does_and_says_so(house: House) -> None:
    ada = await house.engineer()
    await ada.person.call("set_budget", org_id=ada.org_id, period="day", max_tokens=100)
    run_id = await ada.start(await house.script(TALK))
    run = await house.until(run_id)
    assert (run["status"], run["reason"], run["steps"]) == ("failed", "budget", 0)
    last = (await house.events(run_id))[-1]
    assert last["message"].startswith("The organisation's budget for this day (100 tokens) is used up")
    again = await replay(await recorded(ada.person, run_id), tools=TOOLS)
    assert again.difference is None


async def test_a_step_after_a_call_asks_the_budget_again(house: House) -> None:
    ada = await house.engineer()
    await ada.person.call("set_budget", org_id=ada.org_id, period="day", max_steps=1)
    run = await house.until(await ada.start(await house.script(LOOKS)))
    assert (run["status"], run["reason"], run["steps"]) == ("failed", "budget", 1)


async def test_a_run_waits_for_what_another_holds_and_then_goes_on(house: House) -> None:
    ada = await house.engineer()
    await ada.person.call("set_budget", org_id=ada.org_id, period="day", max_steps=2)
    runs = [await ada.start(await house.script(TALK)) for _ in range(3)]
    ends = [await house.until(run_id) for run_id in runs]
    assert sorted((run["status"], run["reason"] or "") for run in ends) == [
        ("failed", "budget"),
        ("succeeded", ""),
        ("succeeded", ""),
    ]
    (late,) = [run for run in ends if run["status"] == "failed"]
    told = [e["value"]["message"] for e in await house.events(str(late["id"])) if e.get("name") == "pam.paused"]
    assert told, "it has waited"
    assert "is held for work under way" in told[0]
    again = await replay(await recorded(ada.person, str(late["id"])), tools=TOOLS)
    assert again.difference is None


async def test_what_broken_answers_cost_is_taken_from_what_was_reserved(house: House) -> None:
    ada = await house.engineer()
    await ada.person.call("set_budget", org_id=ada.org_id, period="day", max_tokens=1_000_000)
    run_id = await ada.start(await house.script(BREAKS))
    async with asyncio.timeout(60):
        run = await house.until(run_id)
    assert (run["status"], run["steps"]) == ("succeeded", 2), "the broken answer was paid, and once more was reserved"
    (used,) = (await ada.person.call("read_budgets", org_id=ada.org_id))["budgets"]
    assert used["used_tokens"] == run["input_tokens"] + run["output_tokens"]
    assert used["held_tokens"] == 0


async def test_a_run_is_stopped_in_the_middle_of_an_answer_when_its_budget_has_no_time_left(house: House) -> None:
    ada = await house.engineer()
    await ada.person.call("set_budget", org_id=ada.org_id, period="day", max_seconds=1)
    slow = TALK.replace("seconds_per_word: 0.2", "seconds_per_word: 5")
    run_id = await ada.start(await house.script(slow))
    async with asyncio.timeout(45):
        run = await house.until(run_id)
    assert (run["status"], run["reason"], run["steps"]) == ("failed", "budget", 0)
    assert "pam.resumed" not in [e.get("name") for e in await house.events(run_id)], "its worker ended it"
    (used,) = (await ada.person.call("read_budgets", org_id=ada.org_id))["budgets"]
    assert used["used_seconds"] >= 1
    again = await replay(await recorded(ada.person, run_id), tools=TOOLS)
    assert again.difference is None
