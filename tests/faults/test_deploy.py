"""A deploy in the middle of a run, forwards and back: workers of three versions of the code against one database."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from infra.chaos.workers import WorkerProcess
from infra.local.stack import ROOT
from infra.mutations.mutation import Edit
from tests.faults.conftest import Lab

STEPS = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, call: [{redis_set: {key: "NAME", increment: 1}}]}
  - {expect: {role: tool, contains: ["NAME is 1 now"]}, say: "a b c d e f", seconds_per_word: 0.2, call: [{file_list: {}}]}
  - {expect: {role: tool}, call: [{redis_set: {key: "NAME", increment: 1}}]}
  - {expect: {role: tool, contains: ["NAME is 2 now"]}, say: "Counted twice."}
"""
# The version before runs recorded a format, and the one after this.
BEFORE = Edit("workers/kernel/ledger/runs.py", ", code_format=CODE_FORMAT)", ")")
AFTER = Edit("workers/kernel/code_format.py", "CODE_FORMAT = 1", "CODE_FORMAT = 2")

Start = Callable[[Edit | None], Awaitable[WorkerProcess]]


@pytest.fixture
async def start(lab: Lab, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a worker of a version, when no other is there but those that the test has started."""
    for worker in lab.workers:
        await worker.kill()
    started: list[WorkerProcess] = []

    async def of(version: Edit | None) -> WorkerProcess:
        tree = ROOT
        if version is not None:
            tree = tmp_path / version.new.strip().replace(" ", "")
            if not tree.exists():
                shutil.copytree(ROOT / "workers", tree / "workers", ignore=shutil.ignore_patterns("__pycache__"))
                version.apply(tree)
        worker = await WorkerProcess.start(lab.facts, PYTHONPATH=str(tree))
        await worker.ready()
        started.append(worker)
        return worker

    yield of
    for worker in started:
        if worker.is_alive:
            await worker.kill()


async def at_step(lab: Lab, run_id: str, step: int) -> None:
    """Wait until so many steps are recorded."""
    async with asyncio.timeout(20):
        while not await lab.house.admin("select 1 from pam.runs where id = %s and steps >= %s", run_id, step):
            await asyncio.sleep(0.02)


async def format_of(lab: Lab, run_id: str) -> int:
    return int((await lab.house.admin("select code_format from pam.runs where id = %s", run_id))[0]["code_format"])


@pytest.mark.parametrize("end", ["leaves", "is killed"])
@pytest.mark.parametrize(("old", "new"), [(BEFORE, None), (None, AFTER)], ids=["to this version", "to the next"])
async def test_a_run_goes_on_under_the_next_version(
    lab: Lab, start: Start, old: Edit | None, new: Edit | None, end: str
) -> None:
    leaving = await start(old)
    run_id, message = await lab.start(STEPS)
    await at_step(lab, run_id, 1)
    if end == "leaves":
        leaving.terminate()
        await leaving.ended()
    else:
        await leaving.kill()
    following = await start(new)

    run = await lab.house.until(run_id)

    assert (run["status"], run["steps"]) == ("succeeded", 4)
    assert (await lab.house.events(run_id))[-1]["result"]["text"] == "Counted twice."
    assert not await lab.house.unused(message), "the model was asked each step once"
    assert run_id in following.log
    assert await format_of(lab, run_id) == (2 if new is AFTER else 1)


async def test_after_a_deploy_was_taken_back_newer_runs_wait_for_newer_code_and_older_ones_do_not(
    lab: Lab, start: Start
) -> None:
    newer = await start(AFTER)
    run_id, message = await lab.start(STEPS)
    await at_step(lab, run_id, 1)
    newer.terminate()
    await newer.ended()
    older = await start(None)
    beside, _ = await lab.start(STEPS)

    assert (await lab.house.until(beside))["status"] == "succeeded", "what newer code has not seen goes on"
    await asyncio.sleep(3)  # three sweeps
    (run,) = await lab.house.admin("select status::text from pam.runs where id = %s", run_id)
    assert (run["status"], run_id in older.log) == ("queued", False)

    await start(AFTER)
    assert (await lab.house.until(run_id))["status"] == "succeeded"
    assert not await lab.house.unused(message)


async def test_two_versions_work_side_by_side_and_no_run_goes_back(lab: Lab, start: Start) -> None:
    older, newer = await start(None), await start(AFTER)
    runs = [(await lab.start(STEPS))[0] for _ in range(8)]
    await asyncio.gather(*(at_step(lab, run_id, 1) for run_id in runs))
    await older.kill()
    ends = [await lab.house.until(run_id) for run_id in runs]
    assert [run["status"] for run in ends] == ["succeeded"] * 8
    told = await lab.house.admin(
        "select worker, code_format from pam_private.run_heads h join pam.runs r on r.id = h.run_id"
    )
    assert all(row["code_format"] == 2 for row in told if row["worker"].endswith(f":{newer.pid}"))
