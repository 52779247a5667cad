"""A worker whose clock is an hour off: leases, takeovers and ends go by the database's."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.chaos.workers import WorkerProcess
from infra.local.stack import ROOT
from tests.faults.conftest import Lab
from tests.faults.test_takeover import SLOW_STEP

WRONG = """
import datetime, time
_real, _shift = time.time, {shift}
time.time = lambda: _real() + _shift
class Wrong(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=_shift)
    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds=_shift)
datetime.datetime = Wrong
"""


Start = Callable[[str], Awaitable[WorkerProcess]]


@pytest.fixture
async def start(lab: Lab) -> AsyncIterator[Start]:
    """Starts a worker with a PYTHONPATH of its own, when no other is there but those that the test has started."""
    for worker in lab.workers:
        await worker.kill()
    started: list[WorkerProcess] = []

    async def at(path: str) -> WorkerProcess:
        started.append(await WorkerProcess.start(lab.facts, PYTHONPATH=path))
        await started[-1].ready()
        return started[-1]

    yield at
    for worker in started:
        if worker.is_alive:
            await worker.kill()


@pytest.mark.parametrize("shift", [3600, -3600])
async def test_a_worker_an_hour_off_is_taken_over_and_takes_over_like_any_other(
    lab: Lab, start: Start, tmp_path: Path, shift: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG.format(shift=shift))
    wrong = f"{tmp_path}:{ROOT}"

    first = await start(wrong)
    told = json.loads(next(line for line in first.log.splitlines() if line[0] == "{"))
    off = datetime.fromisoformat(told["timestamp"]) - datetime.now(UTC)
    assert abs(off.total_seconds() - shift) < 60, "it really is off"
    run_id, message = await lab.start(SLOW_STEP)
    await lab.house.until(run_id, "running")
    await first.kill()
    second = await start(str(ROOT))
    again, _ = await lab.start(SLOW_STEP)
    await lab.ended(run_id)
    await second.kill()
    await start(wrong)
    run = await lab.ended(again)
    assert (run["started_at"] - run["created_at"]).total_seconds() < 60
    events = await lab.house.admin("select created_at from pam.events where run_id = %s order by seq", run_id)
    assert (events[-1]["created_at"] - events[0]["created_at"]).total_seconds() < 60
    assert not await lab.house.unused(message)
