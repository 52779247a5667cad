"""`pam replay`: any stored run is carried out again offline, and the first decision that is another one is named."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import Field

from infra.cli.person import CommandFailed
from infra.cli.replay import run_replay
from infra.local.facts import StackFacts
from infra.replay import recording as recordings
from infra.replay.recording import Recording, RecordingRefused, built, load
from infra.replay.replayed import Replayed, replay
from infra.replay.stand_ins import _whole
from infra.replay.stored import recorded
from tests.agent.test_approvals import WRITES
from tests.agent.test_cancel import HANGS, SLOW_SQL, played
from tests.agent.test_jobs import SUBMIT, job_of
from tests.cli.command import Pam
from tests.cli.terminals import ASKS, QUICK, WORKS, be_cautious, desk_of, engineer
from tests.cli.test_view import GONE
from tests.cli.test_workspace import Desk
from tests.support.house import House
from workers.agent import decisions, planning
from workers.agent.decisions import Reply
from workers.agent.execution import MAX_RESULT_CHARACTERS, Execution, _for_the_model
from workers.kernel.ledger.tool_calls import CallEffect, RecordedCall
from workers.tools import TOOLS
from workers.tools.tool import Arguments, Tool

CARD = """---
name: engineer
type: assistant
version: 1.0.0
description: Reads files.
tools: [file_read, file_list, redis_get]
---

You read files.
"""
FAILS = """
name: NAME
when: NAME
turns: [{expect: {role: user}, fail: {status: 400, code: context_length_exceeded}}]
"""


class Stricter(Arguments):
    """file_write with an argument more."""

    path: str
    content: str = Field(min_length=10)
    why: str = ""


@pytest.fixture
async def desk(stack: StackFacts, tmp_path: Path) -> Desk:
    return await desk_of(stack, tmp_path)


async def told(desk: Desk, what: object, **more: Any) -> dict[str, Any]:
    """What `pam replay` reports; its words are in desk.said."""
    options = {"card": None, "save": None, "is_strict": False, **more}
    return await run_replay(desk.env, str(what), console=desk.console, **options)


def changed(name: str, **parts: Any) -> tuple[Tool, ...]:
    """The tools with one of them changed."""
    return tuple(replace(tool, **parts) if tool.name == name else tool for tool in TOOLS)


def words_of(replayed: Replayed) -> str:
    assert replayed.difference is not None
    return f"{replayed.difference.where}: {replayed.difference.recorded} | {replayed.difference.now}"


@pytest.fixture
async def worked(desk: Desk, house: House) -> Recording:
    """The recording of a run that read, wrote, failed, was refused, and was silent once."""
    run_id, _ = await house.play(engineer(desk), WORKS)
    return await recorded(desk.person, run_id)


async def test_a_run_is_replayed_from_its_project_and_from_a_file_without_any(
    desk: Desk, house: House, newcomer: Pam
) -> None:
    run_id, _ = await house.play(engineer(desk), WORKS)
    file = desk.folder / "a run.json"

    report = await told(desk, run_id, save=file, is_strict=True)

    assert (report["same"], report["difference"], report["changed_inputs"]) == (True, None, [])
    assert (report["steps"], report["calls"], report["pauses"]) == (4, 7, 0)
    assert "same decisions, 4 steps, 7 calls, 0 pauses; succeeded" in desk.said.getvalue()
    assert file.stat().st_mode & 0o077 == 0, "a run's words are for whoever recorded it"
    offline = await newcomer.run("replay", str(file), "--json", "--strict")
    assert (offline.status, offline.json()["same"], offline.json()["calls"]) == (0, True, 7), offline
    assert "Traceback" not in offline.stderr
    assert not newcomer.state.exists(), "a file needs no stack"

    card = desk.folder / "card.md"
    card.write_text(CARD)
    other = await newcomer.run("replay", str(file), "--json", "--card", str(card))
    assert (other.status, other.json()["same"]) == (1, False)
    assert other.json()["difference"]["where"].startswith("step 1, file_write")
    assert other.json()["difference"]["now"].startswith("refused: There is no tool 'file_write' here.")
    shown = await newcomer.run("replay", str(file), "--card", str(card))
    assert (shown.status, "another decision" in shown.stdout, "recorded:" in shown.stdout) == (1, True, True), shown
    assert not GONE.search(shown.stdout)
    for what, words in ((str(file), "recording already"), (run_id, "is there already")):
        with pytest.raises((CommandFailed, RecordingRefused), match=words):
            await told(desk, what, save=file)


async def test_a_card_that_only_says_more_is_a_warning_and_strictly_a_difference(desk: Desk, worked: Recording) -> None:
    agent = worked.agent.model_copy(update={"instructions": worked.agent.instructions + " Be brief."})
    replayed = await replay(worked.model_copy(update={"agent": agent}), tools=TOOLS)
    assert (replayed.difference, replayed.changed_inputs) == (None, (1, 2, 3, 4))
    assert replayed.is_same()
    assert not replayed.is_same(is_strict=True)
    file = desk.folder / "run.json"
    worked.model_copy(update={"agent": agent}).save(file)
    assert (await told(desk, file))["same"]
    assert "warning: the model would now be asked something else at step 1, 2, 3, 4" in desk.said.getvalue()
    assert not (await told(desk, file, is_strict=True))["same"]


async def test_a_changed_tool_is_noticed_where_it_first_decides_otherwise(worked: Recording) -> None:
    stricter = await replay(worked, tools=changed("file_write", arguments=Stricter))
    assert "step 1, file_write (3)" in words_of(stricter)
    assert "| failed: The arguments of file_write do not fit: content: String should have" in words_of(stricter)
    looser = await replay(
        worked, tools=changed("file_write", arguments=type("Any_", (Arguments,), {"model_config": {"extra": "allow"}}))
    )
    assert "step 2, file_write (2): failed, not run: The arguments of file_write do not fit" in words_of(looser)
    assert words_of(looser).endswith("| it would run")
    stronger = await replay(worked, tools=changed("file_list", effect=CallEffect.EXTERNAL))
    assert words_of(stronger) == "step 1, file_list (1), its effect: read | external"
    gone = await replay(worked, tools=[tool for tool in TOOLS if tool.name != "redis_get"])
    assert "step 1, redis_get (2)" in words_of(gone)
    named = await replay(worked, tools=(*TOOLS, replace(TOOLS[0], name="fly")))
    assert named.difference is None, "the card grants no such tool: nothing changes"


async def test_a_changed_loop_is_noticed(worked: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    real = decisions.decide

    def gives_up(finish: Any, text: str, calls: Any, *, empty_answers: int) -> Any:
        decision = real(finish, text, calls, empty_answers=empty_answers)
        return Reply("Nothing.") if isinstance(decision, decisions.AskAgain) else decision

    monkeypatch.setattr(decisions, "decide", gives_up)
    replayed = await replay(worked, tools=TOOLS)
    assert words_of(replayed) == "the end: the run went on with step 4 | it ends as succeeded: Nothing."

    def shouts(finish: Any, text: str, calls: Any, *, empty_answers: int) -> Any:
        decision = real(finish, text, calls, empty_answers=empty_answers)
        return Reply(text.upper()) if isinstance(decision, Reply) else decision

    monkeypatch.setattr(decisions, "decide", shouts)
    shouted = await replay(worked, tools=TOOLS)
    assert words_of(shouted) == "the end: succeeded: That is how it is. | succeeded: THAT IS HOW IT IS."

    monkeypatch.setattr(decisions, "decide", lambda *_, **__: decisions.AskAgain())
    goes_on = await replay(worked, tools=TOOLS)
    assert words_of(goes_on) == "step 5: succeeded: That is how it is. | the model is asked again"

    def breaks(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a defect")

    monkeypatch.setattr(decisions, "decide", breaks)
    assert words_of(await replay(worked, tools=TOOLS)).endswith("it breaks: RuntimeError: a defect")


async def test_questions_and_approvals_are_replayed_as_they_were_decided(
    desk: Desk, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_id, _ = await house.play_until_question(engineer(desk), ASKS)
    await house.until(asked_id, "interrupted")
    waiting = await told(desk, asked_id, is_strict=True)
    assert (waiting["same"], waiting["end"], waiting["pauses"]) == (True, None, 1), waiting
    assert "waits for people" in desk.said.getvalue()
    await desk.person.call("answer_question", run_id=asked_id, answer=" teal ")
    await house.until(asked_id)
    report = await told(desk, asked_id, is_strict=True)
    assert (report["same"], report["pauses"], report["steps"]) == (True, 1, 2), report

    await be_cautious(desk)
    run_id, _ = await house.play_until_question(engineer(desk), WRITES)
    await house.until(run_id, "interrupted")
    rows = {row["arguments"]["path"]: row["id"] for row in await desk.person.select("approvals", run_id=run_id)}
    edited = {"path": "b.txt", "content": "two, changed"}
    said = [
        {"approval_id": rows["a.txt"], "verdict": "reject", "note": "not this one"},
        {"approval_id": rows["b.txt"], "verdict": "approve", "arguments": edited},
    ]
    await desk.person.call("decide", decisions=said)
    await house.until(run_id)
    report = await told(desk, run_id, is_strict=True)
    assert (report["same"], report["pauses"], report["calls"]) == (True, 1, 3), report

    kept = await recorded(desk.person, run_id)
    asked = await replay(kept, tools=changed("file_write", arguments=Stricter))
    assert asked.difference is not None, "what could not run is not asked about"
    with monkeypatch.context() as hasty:

        async def sees_nothing(*_: Any) -> None:
            return None

        hasty.setattr(Execution, "_look_ahead", sees_nothing)
        one_by_one = words_of(await replay(kept, tools=TOOLS))
        assert one_by_one.startswith("pause 1: people are asked about step 1, file_write (1), step 1, file_write (3) |")
    monkeypatch.setattr(planning, "given", lambda call: call.arguments)
    unedited = words_of(await replay(kept, tools=TOOLS))
    assert "step 1, file_write (3), what is carried out: " in unedited
    assert "'two, changed'" in unedited
    monkeypatch.setattr(RecordedCall, "is_declined", property(lambda _: False))
    assert "step 1, file_write (1)" in words_of(await replay(kept, tools=TOOLS)), "a no is a no"


async def test_ends_from_outside_are_replayed_as_far_as_the_loop_came(desk: Desk, house: House) -> None:
    await be_cautious(desk)
    waiting, _ = await house.play_until_question(engineer(desk), WRITES)
    await house.until(waiting, "interrupted")
    await desk.person.call("cancel_run", run_id=waiting)
    await be_cautious(desk, on=False)
    ended = [waiting]
    slow_beside_quick = SLOW_SQL.replace("call: [", "call: [{file_list: {}}, ").replace(
        "]\n", ", {redis_get: {key: x}}]\n"
    )
    for script, begun in ((HANGS, 0), (slow_beside_quick, 2)):
        message = await house.script(script)
        run_id = await engineer(desk).start(message)
        await played(house, message)
        calls = "select id from pam.tool_calls where run_id = %s and status = 'succeeded'"
        async with asyncio.timeout(20):
            while len(await house.admin(calls, run_id)) < begun:
                await asyncio.sleep(0.02)
        if not begun:
            with pytest.raises(RecordingRefused, match="the run is running: `pam watch"):
                await told(desk, run_id)
        await desk.person.call("cancel_run", run_id=run_id)
        await house.until(run_id)
        ended.append(run_id)
    for run_id, counts in zip(ended, ((1, 3, 1), (0, 0, 0), (1, 3, 0)), strict=True):
        report = await told(desk, run_id, is_strict=True)
        assert (report["same"], report["end"]["status"]) == (True, "cancelled"), (counts, report)
        assert (report["steps"], report["calls"], report["pauses"]) == counts
        assert "from outside the loop" in desk.said.getvalue()
    kept = await recorded(desk.person, ended[-1])
    calls = tuple(call.model_copy(update={"is_started": call.result is not None}) for call in kept.calls)
    never_begun = kept.model_copy(update={"calls": calls})
    assert (await replay(never_begun, tools=TOOLS)).difference is None, "what ran beside it came to its end"


async def test_failures_of_the_model_limits_jobs_and_later_runs_of_a_thread_are_replayed(
    desk: Desk, house: House
) -> None:
    failed, _ = await house.play(engineer(desk), FAILS)
    limited, _ = await house.play(
        engineer(desk), QUICK.replace('"Done."', '"Done.", call: [{file_list: {}}]'), limits={"max_steps": 1}
    )
    first, _ = await house.play(engineer(desk), WORKS)
    (thread,) = await house.admin("select thread_id from pam.runs where id = %s", first)
    second, _ = await house.play(engineer(desk), QUICK, thread_id=str(thread["thread_id"]))
    await house.play(engineer(desk), QUICK, thread_id=str(thread["thread_id"]))
    script = SUBMIT.replace("TASK", "redis_set").replace("ARGUMENTS", "{key: visits, increment: 2}")
    await house.play(engineer(desk), script)
    job = str((await job_of(house, engineer(desk), "succeeded"))["run_id"])
    await house.until(job)
    ends = {failed: "context_too_long", limited: "max_steps", second: None, job: None}
    for run_id, reason in ends.items():
        report = await told(desk, run_id, is_strict=True)
        assert (report["same"], report["end"]["reason"]) == (True, reason), report
    kept = await recorded(desk.person, second)
    assert [one.role for one in kept.said] == ["user", "assistant", "assistant", "user"], "what it found, nothing later"
    assert kept.said[1].content == ""


async def test_what_nobody_may_see_is_not_replayed(desk: Desk, worked: Recording, stack: StackFacts) -> None:
    stranger = await Desk.sit(stack, desk.folder)
    for env, what, words in (
        (stranger.env, str(worked.run.id), "there is no run"),
        (desk.env, str(uuid4()), "there is no run"),
        (desk.env, "nowhere.json", "neither a run's id nor a file"),
    ):
        with pytest.raises(CommandFailed, match=words):
            await run_replay(env, what, card=None, save=None, is_strict=False, console=desk.console)


def without(told: dict[str, Any], name: str, place: int) -> None:
    del told[name][place]


TAMPERED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a step is missing": (lambda told: without(told, "steps", 1), "has 4 steps"),
    "a step is another's": (lambda told: told["steps"][1].update(message_id=str(uuid4())), "step 2 bears an id"),
    "a call is missing": (lambda told: without(told, "calls", 1), "the calls of step 1 are not whole"),
    "a call is another's": (lambda told: told["calls"][0].update(id=str(uuid4())), "call 1 of step 1 bears an id"),
    "another run": (lambda told: told["run"].update(id=str(uuid4())), "step 1 bears an id"),
    "no such status": (lambda told: told["calls"][0].update(status="fine"), "calls.0.status"),
    "a word more": (lambda told: told["steps"][0].update(secret="x"), "steps.0.secret"),
    "another end": (lambda told: told["end"].update(status="failed"), "the run and its end do not agree"),
    "a pause of nothing": (lambda told: told.update(pauses=[[str(uuid4())]]), "belongs to nothing"),
}


async def test_a_recording_that_was_changed_is_refused_in_a_sentence(worked: Recording, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    worked.save(file)
    assert load(file) == worked
    whole = json.loads(file.read_text())

    for title, (change, words) in TAMPERED.items():
        told = json.loads(json.dumps(whole))
        change(told["recording"])
        file.write_text(json.dumps(told))
        with pytest.raises(RecordingRefused, match="was changed after it was recorded"):
            load(file)
        told["sha256"] = recordings._digest(told["recording"])  # by somebody who takes pains
        file.write_text(json.dumps(told))
        with pytest.raises(RecordingRefused) as refused:
            load(file)
        assert words in str(refused.value), title
        assert "\n" not in str(refused.value)

    for text, words in (
        ("no json", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "is no recording"),
        (json.dumps({**whole, "pam_recording": 2}), "another version of pam"),
    ):
        file.write_text(text)
        with pytest.raises(RecordingRefused, match=words):
            load(file)
    for place in (tmp_path / "nowhere" / "run.json", tmp_path):
        with pytest.raises(RecordingRefused, match=r"cannot be written|is there already"):
            worked.save(place)
    with pytest.raises(RecordingRefused, match="what is stored of this run cannot be replayed"):
        built(**{**worked.model_dump(), "steps": ()})


def test_a_result_that_was_cut_is_cut_again_at_the_same_place() -> None:
    call = uuid4()
    shown, whole = _for_the_model(call, "x" * (MAX_RESULT_CHARACTERS + 12_345))
    assert whole is not None
    assert _for_the_model(call, _whole(shown))[0] == shown
    assert _whole("short\n[cut: 5 characters more; no]") == "short\n[cut: 5 characters more; no]"
