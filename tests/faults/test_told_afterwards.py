"""What killed workers leave behind can be read on call and replayed: the log and the ledger are enough."""

from typing import Any

import pytest

from infra.cli.inspection import timeline_of
from infra.cli.timeline import After, Called, Claimed, Lost, Mark
from infra.replay.replayed import replay
from infra.replay.stored import recorded
from tests.faults.conftest import Lab
from tests.faults.test_takeover import HANGS_ONCE, SLOW_STEP
from workers.tools import TOOLS

WRITES = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    say: "I write."
    call: [{file_write: {path: "NAME.txt", content: "written"}}]
  - expect: {role: tool, contains: ["NAME.txt is written, version 1"]}
    call: [{file_read: {path: "NAME.txt"}}]
  - expect: {role: tool}
    say: "Written, and read."
"""
KEEPS = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    call:
      - {code_execution: {language: shell, code: "echo line >>NAME.txt", keep: true}}
      - {file_list: {}}
  - expect: {role: tool}
    say: "I do not know what became of it."
"""


@pytest.fixture(autouse=True)
async def _staffed(lab: Lab) -> None:
    await lab.staff()


async def assert_replays(lab: Lab, run_id: str) -> Any:
    """The run is replayed from the same inputs to the same decisions; answers its claims as its timeline tells them."""
    replayed = await replay(await recorded(lab.ada.person, run_id), tools=TOOLS)
    assert (replayed.difference, replayed.changed_inputs) == (None, ())
    timeline = await timeline_of(lab.ada.person, run_id)
    return timeline, [entry for entry in timeline.entries if isinstance(entry, Claimed)]


@pytest.mark.parametrize("place", ["step", "call started", "file version", "call succeeded", "run succeeded"])
async def test_wherever_a_worker_dies_its_loss_is_told_and_the_run_replays(lab: Lab, place: str) -> None:
    async with lab.barrier(place, WRITES) as (run_id, _):
        holder = await lab.holder(run_id)
        await lab.kill_at_the_barrier(run_id)
    await lab.ended(run_id)

    timeline, claims = await assert_replays(lab, run_id)

    assert [claim.after for claim in claims] == [After.QUEUED, After.LOST]
    (lost,) = [entry for entry in timeline.entries if isinstance(entry, Lost)]
    assert Mark.LOST_WORKER in lost.marks
    assert lost.worker.endswith(f":{holder.pid}")
    expected = {"step": (0, ()), "call started": (1, ()), "run succeeded": (3, ())}
    assert (lost.steps, lost.calls) == expected.get(place, (1, ("file_write",)))
    assert (claims[1].turn, claims[1].unheld_seconds > 1) == (2, True), "the lost worker's lease, at least"
    assert timeline.summary.unheld_seconds >= claims[1].unheld_seconds
    assert timeline.summary.marks["lost worker"] == 1


async def test_an_effect_that_a_lost_worker_may_have_had_is_marked_and_replays_as_unknown(lab: Lab) -> None:
    async with lab.barrier("call succeeded", KEEPS) as (run_id, _):
        await lab.kill_at_the_barrier(run_id)
    await lab.ended(run_id)

    timeline, claims = await assert_replays(lab, run_id)

    assert claims[1].after is After.LOST
    calls = {entry.tool: entry for entry in timeline.entries if isinstance(entry, Called)}
    assert calls["file_list"].marks == ()
    assert calls["code_execution"].status == "unknown"
    assert Mark.UNKNOWN_OUTCOME in calls["code_execution"].marks


async def test_a_worker_lost_in_the_models_words_is_told(lab: Lab) -> None:
    run_id, message = await lab.start(HANGS_ONCE)
    await lab.model_is_asked(message)
    await (await lab.holder(run_id)).kill()
    await lab.ended(run_id)

    _, claims = await assert_replays(lab, run_id)

    assert [(claim.after, claim.attempt) for claim in claims] == [(After.QUEUED, None), (After.LOST, 2)]


async def test_a_worker_that_left_in_good_order_is_no_loss(lab: Lab) -> None:
    run_id, message = await lab.start(SLOW_STEP)
    await lab.model_is_asked(message)
    leaving = await lab.holder(run_id)
    leaving.terminate()
    assert await leaving.ended() == 0
    await lab.ended(run_id)

    timeline, claims = await assert_replays(lab, run_id)

    assert [claim.after for claim in claims] == [After.QUEUED, After.RELEASED]
    assert "release" in timeline.summary.counts
    assert "lost worker" not in timeline.summary.marks
