"""PAM's own log files: every filter really filters, pages meet without gap, and reading keeps its bounds."""

import asyncio
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.logs.journal import MINE, NOON, THEIRS, Journal, events, line, query
from workers.kernel.errors import Unavailable
from workers.logs.local_store import LocalLogs
from workers.logs.query import Condition, CursorUnknown, LogQuery, Operator, Order, continued


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


async def test_lines_of_the_organisation_come_newest_first(journal: Journal) -> None:
    journal.write(line("one"), line("foreign", org=THEIRS, minutes=1), line("nobody's", org=None, minutes=2))
    journal.write(line("three", minutes=3), line("two", minutes=2))
    journal.write(line("of the api", minutes=2.5), name="functions.log")
    assert await journal.events() == ["three", "of the api", "two", "one"]
    assert await journal.events(order=Order.OLDEST) == ["one", "two", "of the api", "three"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"level": "warning"}, ["c", "b"]),
        ({"level": "error"}, ["c"]),
        ({"text": "TIMED out"}, ["c"]),
        ({"text": "database_query"}, ["b"]),
        ({"text": 'say "hello"'}, ["d"]),
        ({"text": "naïve"}, ["d"]),
        ({"text": "nothing like it"}, []),
        ({"correlation_id": "req-7"}, ["c"]),
        ({"correlation_id": "req"}, []),
        ({"conditions": (Condition("tool", Operator.EQ, "database_query"),)}, ["b"]),
        ({"conditions": (Condition("tool", Operator.NE, "database_query"),)}, ["d", "c", "a"]),
        ({"conditions": (Condition("seconds", Operator.GT, 1),)}, ["c"]),
        ({"conditions": (Condition("seconds", Operator.GE, 0.5),)}, ["c", "b"]),
        ({"conditions": (Condition("seconds", Operator.LT, "1"),)}, ["b"]),
        ({"conditions": (Condition("seconds", Operator.LE, 0.5),)}, ["b"]),
        ({"conditions": (Condition("seconds", Operator.EQ, "0.5"),)}, ["b"]),
        ({"conditions": (Condition("tool", Operator.CONTAINS, "BASE"),)}, ["b"]),
        ({"conditions": (Condition("http.status", Operator.EQ, 500),)}, ["c"]),
        ({"conditions": (Condition("http", Operator.EXISTS, True),)}, ["c"]),
        ({"conditions": (Condition("http", Operator.EXISTS, False),)}, ["d", "b", "a"]),
        ({"conditions": (Condition("is_repeat", Operator.EQ, True),)}, ["a"]),
        ({"conditions": (Condition("is_repeat", Operator.EQ, 1),)}, []),
        ({"conditions": (Condition("tool", Operator.EQ, "x"), Condition("seconds", Operator.GT, 0))}, []),
        ({"level": "info", "text": "a"}, ["c", "b", "a"]),
    ],
)
async def test_every_filter_filters(journal: Journal, asked: dict[str, Any], found: list[str]) -> None:
    journal.write(
        line("a", is_repeat=True),
        line("b", minutes=1, level="warning", tool="database_query", seconds=0.5),
        line("c", minutes=2, level="error", reason="it timed out", seconds=3, http={"status": 500}, request_id="req-7"),
        line("d", minutes=3, level="debug", said='say "hello" to the naïve'),
    )
    assert await journal.events(**asked) == found


async def test_a_range_begins_with_its_first_moment_and_ends_before_its_last(journal: Journal) -> None:
    journal.write(*(line(str(minute), minutes=minute) for minute in range(10)))
    asked = query()
    within = type(asked.range)(NOON.replace(minute=3), NOON.replace(minute=6))
    assert await journal.events(range=within) == ["5", "4", "3"]


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("limit", [1, 3, 7, 200])
async def test_pages_meet_without_gap_or_overlap(journal: Journal, order: Order, limit: int) -> None:
    dice = random.Random(7)
    minutes = sorted(dice.choice([1, 2, 2, 2, 3, 5, 8]) for _ in range(40))
    journal.write(*(line(f"{n:02}", minutes=minute) for n, minute in enumerate(minutes)))
    journal.write(*(line(f"f{n}", minutes=2) for n in range(5)), name="functions.log")
    asked, found = query(order=order, limit=limit), []
    whole = events(await journal.store.find(query(order=order, limit=200)))
    for _ in range(100):
        page = await journal.store.find(asked)
        found += events(page)
        journal.write(line("later", minutes=600))  # what comes meanwhile disturbs no page
        if page.cursor is None:
            break
        asked = continued(query(order=order, limit=limit), page.cursor)
    assert sorted(set(found) - {"later"}) == sorted(whole)
    assert len([event for event in found if event != "later"]) == 45


async def test_a_cursor_opens_its_own_listing_alone(journal: Journal) -> None:
    journal.write(*(line(str(n), minutes=n) for n in range(5)))
    cursor = (await journal.find(limit=2)).cursor
    assert cursor
    others: list[LogQuery] = [query(org_id=THEIRS), query(text="x"), query(level="error"), query(order=Order.OLDEST)]
    for other in others:
        with pytest.raises(CursorUnknown):
            continued(other, cursor)


async def test_rotated_files_are_read_too_and_those_of_others_never(journal: Journal) -> None:
    journal.write(line("old"), name="worker-1.log.1")
    journal.write(line("new", minutes=1), name="worker-1.log")
    for name in ("postgres.log", "redis.log", "gateway.log", "worker-1.log.gz", "xworker-1.log", "worker-1.log.bak"):
        journal.write(line(name), name=name)
    assert await journal.events() == ["new", "old"]


async def test_a_line_that_is_still_being_written_is_not_there_yet(journal: Journal) -> None:
    journal.write(line("whole"))
    with (journal.folder / "worker-1.log").open("a") as file:
        file.write(line("half", minutes=1))
    assert await journal.events() == ["whole"]


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 70_000, 99_000])
async def test_lines_across_blocks_are_read_whole(journal: Journal, size: int) -> None:
    for minute in range(4):
        journal.write(line(f"{minute}", minutes=minute, filler="é" * (size // 6)))
    assert await journal.events() == ["3", "2", "1", "0"]


async def test_a_huge_line_is_passed_over_and_its_neighbours_stand(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_line_bytes=1_000_000)
    journal.write(line("before"), line("huge", minutes=1, filler="x" * 3_000_000), line("after", minutes=2))
    assert await journal.events() == ["after", "before"]


async def test_a_huge_line_takes_no_memory(journal: Journal) -> None:
    journal.write(line("before"), line("huge", minutes=1, filler="x" * 30_000_000), line("after", minutes=2))
    tracemalloc.start()
    assert await journal.events() == ["after", "before"]
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 5_000_000


async def test_reading_ends_at_its_bound_and_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=200_000)
    journal.write(*(line(f"{n}", minutes=n / 100, filler="x" * 1_000) for n in range(600)))
    page = await journal.find(text="no such text")
    assert page.lines == ()
    assert page.caveat == "Not everything was read: narrow the range of time to see what is older."
    assert (await Journal(tmp_path, max_seconds=0).find()).caveat


async def test_a_search_reads_no_further_back_than_its_range(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=140_000)
    journal.write(*(line(f"{n}", minutes=n, filler="x" * 1_000) for n in range(600)))
    late = type(query().range)(NOON.replace(hour=21), NOON.replace(hour=23))
    page = await journal.find(range=late, limit=200)
    assert len(page.lines) == 60
    assert page.caveat is None


async def test_an_empty_folder_has_no_lines_and_a_missing_one_is_told(tmp_path: Path) -> None:
    assert (await Journal(tmp_path).find()).lines == ()
    with pytest.raises(Unavailable, match="the folder of logs cannot be read"):
        await LocalLogs(folder=tmp_path / "absent").find(query())


async def test_searches_beside_writers_see_whole_lines(journal: Journal) -> None:
    async def write() -> None:
        for number in range(300):
            await asyncio.to_thread(journal.write, line(f"{number}", minutes=number / 10, filler="é" * 500))

    writing = asyncio.create_task(write())
    while not writing.done():
        found = [int(event) for event in await journal.events(limit=200)]
        assert found == sorted(found, reverse=True)
        assert len(found) == len(set(found))
    await writing
    assert str(MINE) in (await journal.find()).lines[0].text
