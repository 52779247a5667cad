"""A question to a person: the run waits without a worker, anybody entitled answers, and the run goes on."""

import pytest

from infra.cli.person import CommandFailed
from tests.support.house import House

ASKS = """
name: NAME
when: NAME
turns:
  - expect: {role: user, tools: [ask_person]}
    say: "I look first, and then I ask."
    call: [{file_list: {}}, {ask_person: {question: "Which colour?"}}]
  - expect: {role: tool, result_of: ask_person, contains: ["The person answered: teal"]}
    say: "Teal it is."
"""
NEXT = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "I am free."}]
"""


async def test_a_run_waits_for_an_answer_without_a_worker_and_another_member_gives_it(house: House) -> None:
    ada = await house.engineer()
    bob, eve = await house.person(), await house.person()
    await ada.person.call("set_member", org_id=ada.org_id, user_id=bob.user_id, role="admin")
    await ada.person.call("set_member", org_id=ada.org_id, user_id=eve.user_id, role="viewer")

    run_id, waiting = await house.play_until_question(ada, ASKS)

    assert waiting.types[-3:] == ["STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    asked = waiting.events[-1]["outcome"]
    assert asked["type"] == "interrupt"
    assert asked["interrupts"][0]["message"] == "Which colour?"
    call_id = asked["interrupts"][0]["toolCallId"]
    snapshot = waiting.events[-2]["messages"]
    assert call_id in [call["id"] for message in snapshot for call in message.get("toolCalls", [])]
    assert call_id not in [message.get("toolCallId") for message in snapshot], "an open call has no result yet"
    assert waiting.outcomes() == ["succeeded"], "the read beside the question is done before the run waits"
    assert (await house.until(run_id, "interrupted"))["status"] == "interrupted"

    # The one worker of this stack is free meanwhile.
    _, meanwhile = await house.play(ada, NEXT)
    assert meanwhile.answer() == "I am free."

    for person, sentence in ((eve, "started the run answers it"), (await house.person(), "no such run")):
        with pytest.raises(CommandFailed, match=sentence):
            await person.call("answer_question", run_id=run_id, answer="red")
    await bob.call("answer_question", run_id=run_id, answer="  teal  ")
    assert (await house.until(run_id))["turn"] == 2
    seen = await house.follow(bob, run_id)

    assert (await house.until(run_id))["status"] == "succeeded"
    assert seen.events == await house.events(run_id)
    assert seen.events[: len(waiting.events)] == waiting.events
    after = seen.events[len(waiting.events) :]
    assert after[0]["type"] == "RUN_STARTED"
    results = [event for event in after if event["type"] == "TOOL_CALL_RESULT"]
    assert [(event["toolCallId"], event["content"]) for event in results] == [(call_id, "The person answered: teal")]
    assert seen.answer() == "Teal it is."
    with pytest.raises(CommandFailed, match="asks nothing"):
        await bob.call("answer_question", run_id=run_id, answer="again")


async def test_a_waiting_run_can_be_cancelled(house: House) -> None:
    ada = await house.engineer()
    run_id, _ = await house.play_until_question(ada, ASKS)
    await house.until(run_id, "interrupted")
    await ada.person.call("cancel_run", run_id=run_id)
    assert (await house.until(run_id))["status"] == "cancelled"
    assert (await house.events(run_id))[-1]["outcome"] == {"type": "cancelled"}


async def test_a_question_that_nobody_answers_ends_after_a_week(house: House) -> None:
    ada = await house.engineer()
    run_id, _ = await house.play_until_question(ada, ASKS)
    await house.until(run_id, "interrupted")
    await house.admin("update pam.runs set interrupted_at = interrupted_at - interval '8 days' where id = %s", run_id)
    run = await house.until(run_id)
    assert (run["status"], run["reason"]) == ("failed", "unanswered")
    await house.events(run_id)
