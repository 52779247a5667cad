"""What viewers see of a text that is still being written: soon, seldom, to its last word, and in nobody's way."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal
from uuid import UUID, uuid4

import pytest

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from tests.support.database import Template
from workers.agent import preview as module
from workers.agent.preview import INTERVAL_SECONDS, Preview, PreviewMeter
from workers.kernel.errors import FenceLost
from workers.kernel.ledger import events
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WorkerGateway


@pytest.fixture(scope="module")
async def first_bench(template: Template, stack: StackFacts) -> AsyncIterator[Bench]:
    async with template.clone() as cloned, Bench.open(cloned, stack) as opened:
        yield opened


@pytest.fixture
async def bench(first_bench: Bench) -> Bench:
    return await first_bench.elsewhere()


def shown_by(
    bench: Bench,
    of: Literal["message_id", "call_id"] = "message_id",
    id: UUID | None = None,
    meter: PreviewMeter | None = None,
) -> Preview:
    return Preview(hold=bench.hold, of=of, id=id or uuid4(), meter=meter or PreviewMeter())


async def frames(bench: Bench) -> list[tuple[int, str]]:
    """What went out to this run's viewers, as offset and text."""
    rows = await bench.database.admin(
        "select payload from realtime.messages where event = 'preview' and topic = %s order by inserted_at",
        f"run:{bench.hold.run_id}",
    )
    return [(row["payload"]["offset"], row["payload"]["text"]) for row in rows]


async def until(bench: Bench, *wanted: tuple[int, str]) -> None:
    async with asyncio.timeout(10):
        while (seen := await frames(bench)) != list(wanted):
            assert len(seen) <= len(wanted), seen
            await asyncio.sleep(0.02)


async def test_the_last_word_before_a_silence_is_shown(bench: Bench) -> None:
    async with shown_by(bench) as preview:
        await preview.write("start")
        await until(bench, (0, "start"))
        await preview.write(", wor")
        await preview.write("king")
        await until(bench, (0, "start"), (5, ", working"))


async def test_frames_are_an_interval_apart_and_nothing_goes_out_when_nothing_is_new(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[float] = []
    real = events.preview

    async def timed(hold: Hold, frame: dict[str, Any]) -> bool:
        sent.append(time.monotonic())
        return await real(hold, frame)

    monkeypatch.setattr(events, "preview", timed)
    async with shown_by(bench) as preview:
        for _ in range(80):
            await preview.write("word ")
            await asyncio.sleep(0.01)
        while "".join(text for _, text in await frames(bench)) != "word " * 80:
            await asyncio.sleep(0.02)
        count = len(sent)
        await preview.write("")
        await asyncio.sleep(3 * INTERVAL_SECONDS)
        assert len(sent) == count
    pauses = [after - before for before, after in pairwise(sent)]
    assert pauses
    assert min(pauses) >= INTERVAL_SECONDS


async def test_no_task_outlives_the_text(bench: Bench) -> None:
    before = asyncio.all_tasks()
    async with shown_by(bench) as preview:
        await preview.write("one")
        await until(bench, (0, "one"))
        await preview.write(" two")
        await asyncio.sleep(0)  # until it waits for its turn
    assert await frames(bench) == [(0, "one")], "the run waited for a frame"
    assert asyncio.all_tasks() == before
    await preview.write("late")
    assert asyncio.all_tasks() == before
    assert await frames(bench) == [(0, "one")]


async def test_no_task_outlives_a_text_that_is_broken_off(bench: Bench) -> None:
    before = asyncio.all_tasks()

    async def hanging() -> None:
        async with shown_by(bench) as preview:
            await preview.write("one")
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hanging(), 0.01)
    assert asyncio.all_tasks() == before


async def test_a_message_is_shown_whole_and_of_a_programs_output_the_newest(bench: Bench) -> None:
    text = "".join(f"{n:05}" for n in range(3_000))
    async with shown_by(bench) as preview:
        await preview.write(text)
        await until(bench, (0, text[:8_000]), (8_000, text[8_000:]))
    other = await bench.beside()
    async with shown_by(other, "call_id") as preview:
        await preview.write("0")
        await until(other, (0, "0"))
        await preview.write(text)
        await preview.write("\0 end")
        await until(other, (0, "0"), (1, f"{text}\ufffd end"[-8_000:]))


async def test_a_model_that_begins_again_is_shown_from_its_beginning(bench: Bench) -> None:
    async with shown_by(bench) as preview:
        await preview.write("wrong")
        await until(bench, (0, "wrong"))
        await preview.write(" way")
        await preview.restart()
        await preview.write("right")
        await until(bench, (0, "wrong"), (0, ""), (0, "right"))


async def test_a_database_that_is_away_is_in_nobodys_way_and_is_asked_ever_more_seldom(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = WorkerGateway(dsn=bench.database.worker_dsn)  # its pool is closed: no verb is carried out
    asked: list[float] = []
    real = events.preview

    async def timed(hold: Hold, frame: dict[str, Any]) -> bool:
        asked.append(time.monotonic())
        return await real(hold if len(asked) > 3 else replace(hold, gateway=gateway), frame)

    monkeypatch.setattr(module.events, "preview", timed)
    async with shown_by(bench) as preview:
        for n in range(10):
            await preview.write(str(n))
        await until(bench, (0, "0123456789"))
    assert asked[2] - asked[1] >= 2 * (asked[1] - asked[0]) * 0.9 >= 3 * INTERVAL_SECONDS
    assert len(asked) == 4


async def test_a_writer_hears_that_the_run_is_lost(bench: Bench) -> None:
    hold = replace(bench.hold, fence=bench.hold.fence + 1)

    async def writing() -> None:
        async with Preview(hold=hold, of="call_id", id=uuid4(), meter=PreviewMeter()) as preview:
            while True:
                await preview.write("x")
                await asyncio.sleep(0.02)

    with pytest.raises(FenceLost):
        await asyncio.wait_for(writing(), 10)


async def test_a_thousand_previews_ask_the_database_no_more_than_it_lets_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    under_way = most = 0

    async def slow(hold: Hold, frame: dict[str, Any]) -> bool:
        nonlocal under_way, most
        asked.append(time.monotonic())
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return True

    monkeypatch.setattr(events, "preview", slow)
    meter = PreviewMeter()

    async def written() -> None:
        async with shown_by(bench, meter=meter) as preview:
            for _ in range(8):
                await preview.write("word ")
                await asyncio.sleep(0.25)

    await asyncio.gather(*(written() for _ in range(1_000)))
    seconds = [int(at) for at in asked]
    most_in_a_second = max(seconds.count(second) for second in set(seconds))
    assert most_in_a_second <= 50 + 1, "the one more was counted in the second before"
    assert most <= 2
    assert len(asked) > 50, "and yet something is shown"
