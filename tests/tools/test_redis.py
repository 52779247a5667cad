"""redis_set and redis_get: an organisation's own corner, with an end to everything, written once per call."""

import asyncio
import re
from uuid import uuid4

import pytest
import redis as client

from infra.local.facts import StackFacts
from tests.support.bench import Bench


async def test_a_value_comes_back_with_the_seconds_it_has_left(bench: Bench) -> None:
    assert await bench.use("redis_set", key="a", value="one\ntwo ✓", seconds=60) == (
        "succeeded",
        "a is stored for 60 s.",
    )
    status, text = await bench.use("redis_get", key="a")
    assert status == "succeeded"
    assert (left := re.fullmatch(r"a \((\d+) s left\):\none\ntwo ✓", text)), text
    assert 55 <= int(left[1]) <= 60
    assert (await bench.use("redis_get", key="b"))[1] == "b is not there (never stored, or its time is over)."


async def test_nothing_lives_for_ever(bench: Bench, stack: StackFacts) -> None:
    await bench.use("redis_set", key="value", value="x")
    await bench.use("redis_set", key="counter", increment=1)
    await bench.use("redis_set", key="lock", value="x", only_if_absent=True)
    server = client.Redis.from_url(stack.redis_url)
    keys = server.keys(f"pam:{bench.org_id}:*")
    assert len(keys) == 10, "three values, three marks, and the four of the ledger"
    assert all(0 < server.ttl(key) <= 2_678_400 for key in keys)
    server.close()


@pytest.mark.parametrize("seconds", [0, -1, 2_592_001, "soon"])
async def test_a_time_to_live_lies_within_thirty_days(bench: Bench, seconds: object) -> None:
    status, text = await bench.use("redis_set", key="a", value="x", seconds=seconds)
    assert (status, "seconds:" in text) == ("failed", True)


async def test_only_the_first_takes_a_lock(bench: Bench) -> None:
    lock = {"key": "lock", "seconds": 30, "only_if_absent": True}
    assert (await bench.use("redis_set", value="me", **lock))[1] == "lock is stored for 30 s."
    assert (await (await bench.beside()).use("redis_set", value="you", **lock))[
        1
    ] == "lock was there already and is unchanged."
    assert "\nme" in (await bench.use("redis_get", key="lock"))[1]


async def test_counters_count_and_keep_their_time(bench: Bench) -> None:
    assert (await bench.use("redis_set", key="n", increment=5, seconds=50))[1] == "n is 5 now."
    assert (await bench.use("redis_set", key="n", increment=-7))[1] == "n is -2 now."
    seconds = int((await bench.use("redis_get", key="n"))[1].split("(")[1].split(" ")[0])
    assert 40 < seconds <= 50, "counting on does not make it live longer"
    await bench.use("redis_set", key="word", value="many")
    assert await bench.use("redis_set", key="word", increment=1) == (
        "failed", "The value is no whole number: it cannot be counted up.",
    )  # fmt: skip
    await bench.use("redis_set", key="most", value=str(2**63 - 1))
    status, text = await bench.use("redis_set", key="most", increment=1)
    assert status == "failed"
    assert "broke inside" not in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "Give either value (to store) or increment (to count)."),
        ({"value": "x", "increment": 1}, "Give either value (to store) or increment (to count)."),
        ({"increment": 1, "only_if_absent": True}, "only_if_absent belongs to value, not to increment."),
        ({"value": "é" * 32_769}, "A value may hold 64 KiB: put larger text into a workspace file."),
    ],
)
async def test_what_does_not_fit_is_said(bench: Bench, arguments: dict[str, object], told: str) -> None:
    assert await bench.use("redis_set", key="a", **arguments) == ("failed", told)


async def test_a_value_at_the_cap_is_kept(bench: Bench) -> None:
    assert (await bench.use("redis_set", key="big", value="x" * 65_536))[0] == "succeeded"
    assert (await bench.use("redis_get", key="big"))[1].endswith("x" * 65_536)
    assert (await bench.use("redis_set", key="empty", value=""))[0] == "succeeded"
    assert (await bench.use("redis_get", key="empty"))[1].endswith("left):\n")


async def test_keys_are_listed_by_the_letters_of_their_prefix(bench: Bench) -> None:
    for key in ("a*1", "a*2", "ab1", "a[b]c", "a?x", "a\\y", "b", "*"):
        await bench.use("redis_set", key=key, value="x")

    async def listed(prefix: str) -> list[str]:
        status, text = await bench.use("redis_get", prefix=prefix)
        assert status == "succeeded", text
        return [line.rsplit("  ", 1)[0] for line in text.splitlines()[1:]]

    assert await listed("a*") == ["a*1", "a*2"]
    assert await listed("a[b]") == ["a[b]c"]
    assert await listed("a?") == ["a?x"]
    assert await listed("a\\") == ["a\\y"]
    assert await listed("*") == ["*"]
    assert await listed("[a-z]") == []
    assert len(await listed("")) == 8
    assert (await bench.use("redis_get"))[1] == "Give either key (to read) or prefix (to list)."
    assert (await bench.use("redis_get", key="a", prefix="a"))[0] == "failed"


async def everything(bench: Bench, prefix: str) -> list[str]:
    """All keys of a listing, page by page as the model reads it."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        status, text = await bench.use("redis_get", prefix=prefix, **cursor)
        assert status == "succeeded", text
        found += [line.rsplit("  ", 1)[0] for line in text.splitlines() if line.endswith("s left")]
        more = re.search(r"go on with cursor (\S+)\]", text)
        if not more:
            return found
        cursor = {"cursor": more[1]}


async def test_a_long_listing_goes_on_where_it_stopped(bench: Bench) -> None:
    space = bench.services.redis

    async def put(key: str, seconds: int = 60) -> None:
        await space.set(bench.org_id, uuid4(), key, "x", seconds=seconds, only_if_absent=False)

    await asyncio.gather(*(put(f"many:{number}") for number in range(250)))
    assert await everything(bench, "many:") == sorted(f"many:{number}" for number in range(250))
    assert await everything(bench, "many:2") == sorted(f"many:{n}" for n in range(250) if str(n).startswith("2"))


async def test_a_listing_under_writes_names_each_lasting_key_once(bench: Bench) -> None:
    space, writing = bench.services.redis, True

    async def put(key: str) -> None:
        await space.set(bench.org_id, uuid4(), key, "x", seconds=60, only_if_absent=False)

    async def disturb(of: int) -> None:
        number = 0
        while writing:
            number += 1
            await put(f"m:{of}:{number % 7}:new{number}")
            await put(f"m:{number % 250:03}:lasting")

    lasting = [f"m:{number:03}:lasting" for number in range(250)]
    await asyncio.gather(*map(put, lasting))
    disturbing = [asyncio.create_task(disturb(of)) for of in range(3)]
    for _ in range(5):
        found = await everything(bench, "m:")
        assert len(found) == len(set(found))
        assert [key for key in found if key.endswith("lasting")] == lasting
    writing = False
    await asyncio.gather(*disturbing)


@pytest.mark.parametrize(
    ("arguments", "stands"),
    [
        ({"key": "a", "increment": 1}, "1"),
        ({"key": "a", "value": "mine", "only_if_absent": True}, "mine"),
        ({"key": "a", "value": "mine"}, "mine"),
    ],
)
async def test_a_call_repeated_after_its_worker_was_lost_answers_its_first_outcome(
    bench: Bench, arguments: dict[str, object], stands: str
) -> None:
    call = await bench.effect_without_outcome("redis_set", **arguments)
    done = await bench.carry_out(call)
    assert done.status.value == "succeeded"
    assert "was there already" not in (done.result or ""), "its own value is no foreign one"
    assert (await bench.use("redis_get", key="a"))[1].endswith(f":\n{stands}")


async def test_a_repeat_does_not_write_over_what_came_after_it(bench: Bench) -> None:
    call = await bench.effect_without_outcome("redis_set", key="a", value="old")
    await bench.use("redis_set", key="a", value="new")
    assert (await bench.carry_out(call)).status.value == "succeeded"
    assert (await bench.use("redis_get", key="a"))[1].endswith(":\nnew")
