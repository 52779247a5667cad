"""`pam inspect`: one run told from its row and its log alone, for somebody who is on call."""

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest

from infra.cli.inspection import run_inspect, timeline_of
from infra.cli.person import CommandFailed
from infra.cli.timeline import After, Called, Claimed, Ended, Mark, Timeline, Waited
from infra.local.facts import StackFacts
from tests.agent.test_approvals import WRITES
from tests.cli.command import Pam
from tests.cli.terminals import ASKS, QUICK, WORKS, be_cautious, desk_of, engineer
from tests.cli.test_view import GONE
from tests.cli.test_workspace import Desk
from tests.support.house import House, assert_valid


@pytest.fixture
async def desk(stack: StackFacts, tmp_path: Path) -> Desk:
    return await desk_of(stack, tmp_path)


def kinds(timeline: Timeline) -> list[str]:
    return [entry.kind for entry in timeline.entries]


def assert_adds_up(timeline: Timeline) -> None:
    summary = timeline.summary
    parts = (summary.model_seconds, summary.tools_seconds, summary.people_seconds, summary.unheld_seconds)
    assert sum(parts) + summary.other_seconds == pytest.approx(summary.wall_seconds, abs=0.05)
    assert summary.steps_usd + summary.calls_usd + summary.unseen_usd == summary.cost_usd


async def test_a_working_run_is_told_with_what_went_wrong(desk: Desk, house: House) -> None:
    run_id, _ = await house.play(engineer(desk), WORKS)

    report = await run_inspect(desk.env, run_id, console=desk.console)

    told_words = desk.said.getvalue()
    timeline = await timeline_of(desk.person, run_id)
    assert kinds(timeline)[:2] == ["claim", "step"]
    calls = [entry for entry in timeline.entries if isinstance(entry, Called)]
    assert sorted((call.tool, call.status) for call in calls if call.step == 1) == [
        ("file_list", "succeeded"),
        ("file_read", "failed"),
        ("file_write", "succeeded"),
        ("fly", "refused"),
        ("redis_get", "succeeded"),
    ]
    marks = {(call.step, call.tool): call.marks for call in calls if call.status != "succeeded"}
    assert marks == {
        (1, "file_read"): (Mark.FAILED,),
        (1, "fly"): (Mark.REFUSED,),
        (2, "file_write"): (Mark.FAILED,),
    }
    again = next(call for call in calls if call.tool == "file_read" and call.step == 2)
    assert Mark.RETRY in again.marks
    assert next(call for call in calls if call.tool == "file_write").notes == ("pam.file_changed",)
    end = timeline.entries[-1]
    assert isinstance(end, Ended)
    assert (end.status, end.is_by_database, end.sentence) == ("succeeded", False, "That is how it is.")
    assert_adds_up(timeline)
    assert timeline.summary.counts == {"claim": 1, "step": 4, "call": 7, "taint": 1, "end": 1}
    assert timeline.summary.outcomes == {"succeeded": 4, "failed": 2, "refused": 1}

    assert report == timeline.data()
    assert json.loads(json.dumps(report))["entries"][0]["kind"] == "claim"
    assert f"run {run_id} succeeded" in told_words
    for words in (
        "steps 4 of 30",
        "of $0.500000",
        "fly (read) refused in",
        "[retry]",
        "s in all: model",
        "refused 1",
        "failed 2",
    ):
        assert words in told_words, (words, told_words)


async def test_a_question_is_told_with_how_long_it_waited_and_what_was_said(desk: Desk, house: House) -> None:
    run_id, _ = await house.play_until_question(engineer(desk), ASKS)
    await house.until(run_id, "interrupted")

    waiting = await timeline_of(desk.person, run_id)
    assert kinds(waiting) == ["claim", "step", "call", "taint", "wait", "open"]
    wait = waiting.entries[4]
    assert isinstance(wait, Waited)
    assert (wait.is_over, wait.waited_seconds > 0) == (False, True), "it waits still"
    assert waiting.entries[5].marks == (), "that it is open is no fault while people are asked"

    await house.admin("update pam.approvals set remind_at = now() - interval '1 s' where run_id = %s", run_id)
    async with asyncio.timeout(20):
        while "reminder" not in kinds(await timeline_of(desk.person, run_id)):
            await asyncio.sleep(0.2)
    await desk.person.call("answer_question", run_id=run_id, answer="teal")
    await house.until(run_id)
    assert_valid(
        [
            row["payload"]
            for row in await house.admin("select payload from pam.events where run_id = %s order by seq", run_id)
        ]
    )

    await run_inspect(desk.env, run_id, console=desk.console)
    timeline = await timeline_of(desk.person, run_id)
    assert kinds(timeline) == ["claim", "step", "call", "taint", "wait", "reminder", "claim", "call", "step", "end"]
    wait, claim, answered = timeline.entries[4], timeline.entries[6], timeline.entries[7]
    assert isinstance(wait, Waited)
    assert isinstance(claim, Claimed)
    assert isinstance(answered, Called)
    assert [(ask.reason, wait.is_over) for ask in wait.asks] == [("question", True)]
    assert claim.after is After.PEOPLE
    assert timeline.summary.people_seconds == pytest.approx(wait.waited_seconds) == claim.unheld_seconds
    assert (answered.effect, answered.result, answered.decision) == ("pause", "The person answered: teal", "answered")
    assert_adds_up(timeline)
    words = desk.said.getvalue()
    assert not GONE.search(words)
    assert "question: Which [2Jcolour?" in words
    assert "people were reminded of 1 that wait" in words


async def test_approvals_are_told_with_what_was_decided(desk: Desk, house: House) -> None:
    await be_cautious(desk)
    run_id, _ = await house.play_until_question(engineer(desk), WRITES)
    await house.until(run_id, "interrupted")
    rows = {row["arguments"]["path"]: row["id"] for row in await desk.person.select("approvals", run_id=run_id)}
    edited = {"path": "b.txt", "content": "two, changed"}
    decisions = [
        {"approval_id": rows["a.txt"], "verdict": "reject", "note": "not this one"},
        {"approval_id": rows["b.txt"], "verdict": "approve", "arguments": edited},
    ]
    await desk.person.call("decide", decisions=decisions)
    await house.until(run_id)

    await run_inspect(desk.env, run_id, console=desk.console)
    timeline = await timeline_of(desk.person, run_id)
    (wait,) = [entry for entry in timeline.entries if isinstance(entry, Waited)]
    assert [ask.reason for ask in wait.asks] == ["approval", "approval"]
    assert [(call.tool, call.status, call.decision) for call in timeline.entries if isinstance(call, Called)] == [
        ("file_write", "refused", "rejected"),
        ("file_list", "succeeded", None),
        ("file_write", "succeeded", "approved, with other arguments"),
    ]
    assert "approved, with other arguments" in desk.said.getvalue()
    assert "not this one" in desk.said.getvalue()


async def test_what_a_call_cost_stands_in_the_log(desk: Desk, house: House) -> None:
    inner = await house.script('name: NAME\nwhen: NAME\nturns:\n  - {expect: {role: user}, say: "Forty-two."}\n')
    asks = f"{{openai_api_call: {{action: chat, messages: [{{role: user, content: '{inner}'}}]}}}}"
    script = f'name: NAME\nwhen: "^Please play NAME"\nturns:\n  - {{expect: {{role: user}}, call: [{asks}]}}\n  - {{expect: {{role: tool}}, say: "So."}}\n'
    run_id, _ = await house.play(engineer(desk), script)

    timeline = await timeline_of(desk.person, run_id)
    (call,) = [entry for entry in timeline.entries if isinstance(entry, Called)]
    (row,) = await house.admin("select cost_usd from pam.tool_calls where run_id = %s", run_id)
    assert call.cost_usd == row["cost_usd"] > 0
    assert timeline.summary.calls_usd == call.cost_usd
    assert timeline.summary.unseen_usd == 0
    assert_adds_up(timeline)


async def test_a_cancelled_run_and_its_open_calls_are_told(desk: Desk, house: House) -> None:
    await be_cautious(desk)
    run_id, _ = await house.play_until_question(engineer(desk), WRITES)
    await house.until(run_id, "interrupted")
    await desk.person.call("cancel_run", run_id=run_id)

    timeline = await timeline_of(desk.person, run_id)
    assert kinds(timeline) == ["claim", "step", "wait", "end", "open", "open", "open"], (
        "no worker claimed it to cancel it"
    )
    end = timeline.entries[3]
    assert isinstance(end, Ended)
    assert (end.status, end.is_by_database, end.marks) == ("cancelled", True, ())
    assert timeline.entries[4].marks == (Mark.UNKNOWN_OUTCOME,)
    assert timeline.summary.people_seconds > 0
    assert_adds_up(timeline)


async def test_others_see_nothing_and_odd_ids_are_named(
    desk: Desk, house: House, stack: StackFacts, tmp_path: Path
) -> None:
    run_id, _ = await house.play(engineer(desk), QUICK)
    stranger = await Desk.sit(stack, tmp_path)
    for env, run, words in (
        (stranger.env, run_id, "there is no run"),
        (desk.env, str(uuid4()), "there is no run"),
        (desk.env, "rm -rf", "no run id"),
    ):
        with pytest.raises(CommandFailed, match=words):
            await run_inspect(env, run, console=desk.console)


async def test_the_command_prints_words_or_one_line_of_json(pam: Pam) -> None:
    odd = await pam.run("inspect", str(uuid4()))
    assert (odd.status, odd.stdout) == (1, "")
    assert odd.stderr.strip().splitlines()[-1].startswith("pam: there is no run")
