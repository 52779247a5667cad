"""Attacks on the corner of Redis: out of it, into another's, onto the queue, and by filling what all share.

Each entry of KEY_TRICKS and NO_KEYS and each test is another mechanism; none may get through.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest
import redis as client

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from workers.kernel.errors import Unavailable
from workers.tools.failures import ToolRefused
from workers.tools.redis_get import checked_key
from workers.tools.redis_space import RedisSpace, SpaceLimits

OWN_KEY = "secret:plans"

# Each tries to name a key outside the corner by another mechanism.
KEY_TRICKS = [
    pytest.param("../{other}:values:secret:plans", id="a parent"),
    pytest.param("..\\{other}", id="a parent of another system"),
    pytest.param("pam:{other}:values:secret:plans", id="the whole name of a foreign key"),
    pytest.param(":{other}:values:secret:plans", id="a name that begins with the separator"),
    pytest.param("pam:{own}:calls:{call}", id="the mark of a call"),
    pytest.param("calls:{call}", id="the mark of a call, from within"),
    pytest.param("rq:queue:pam-runs", id="the queue"),
    pytest.param("rq:workers", id="the queue's workers"),
    pytest.param("*", id="a glob for everything"),
    pytest.param("[a-z]*", id="a class of letters"),
    pytest.param("?ecret:plans", id="a glob for one letter"),
    pytest.param("{{{other}}}secret:plans", id="a cluster's hash tag"),
    pytest.param("/set/pam:{other}:values:secret:plans/x", id="a path of the REST face"),
    pytest.param("x?_token=1", id="a query of the REST face"),
    pytest.param("%2e%2e%2fx", id="percent signs"),
    pytest.param("secret:plans EX 1", id="options behind a blank"),
    pytest.param("' .. redis.call('KEYS','*') .. '", id="the script's own language"),
    pytest.param("ѕecret:plans", id="a letter that looks alike"),
]
NO_KEYS = [
    pytest.param("", id="nothing"),
    pytest.param("x" * 201, id="too long"),
    pytest.param("a\0b", id="NUL"),
    pytest.param("a\nSET b c", id="a line end and a command"),
    pytest.param("a\r\n*1", id="the protocol's line end"),
    pytest.param("a\tb", id="a tabulator"),
    pytest.param("a\x1b[2J", id="a terminal's escape"),
    pytest.param("a\u202eb", id="a change of direction"),
    pytest.param("a\u200bb", id="a blank that nobody sees"),
    pytest.param("a\ue000b", id="a private letter"),
    pytest.param("a\u2028b", id="a line end of Unicode"),
]


@pytest.mark.parametrize("trick", KEY_TRICKS)
async def test_no_key_reaches_out_of_the_organisations_corner(bench: Bench, stack: StackFacts, trick: str) -> None:
    other = await bench.elsewhere()
    await other.use("redis_set", key=OWN_KEY, value="nobody else's business")
    server = client.Redis.from_url(stack.redis_url)
    own, corner = f"pam:{bench.org_id}:values:".encode(), f"pam:{bench.org_id}:".encode()
    before = {key: server.dump(key) for key in server.scan_iter() if not key.startswith((corner, b"rq:"))}
    queue_before = set(server.keys("rq:queue*"))
    key = trick.format(other=other.org_id, own=bench.org_id, call=other.hold.run_id)

    assert "business" not in (await bench.use("redis_get", key=key))[1]
    assert "business" not in (await bench.use("redis_get", prefix=key))[1]
    assert (await bench.use("redis_set", key=key, value="taken"))[0] == "succeeded"
    assert (await bench.use("redis_set", key=f"{key}#", increment=3))[0] == "succeeded"
    assert "taken" in (await bench.use("redis_get", key=key))[1], "an odd name is a name"

    assert {key: server.dump(key) for key in before} == before
    assert set(server.keys("rq:queue*")) == queue_before
    assert server.get(own + key.encode()) == b"taken"
    server.close()


@pytest.mark.parametrize("key", NO_KEYS)
async def test_what_is_no_key_is_refused(bench: Bench, key: str) -> None:
    with pytest.raises(ToolRefused):
        checked_key(key)
    refused = "failed" if "\0" in key else "refused"  # NUL goes no further than the arguments
    for arguments in ({"key": key, "value": "x"}, {"key": key, "increment": 1}):
        assert (await bench.use("redis_set", **arguments))[0] == refused
    assert (await bench.use("redis_get", key=key))[0] == refused
    if key:
        assert (await bench.use("redis_get", prefix=key))[0] == refused


@pytest.fixture
async def narrow(bench: Bench, stack: StackFacts) -> AsyncIterator[Bench]:
    """A run whose organisation may hold ten keys and 4,000 bytes."""
    space = RedisSpace(
        url=stack.upstash_url, token=stack.upstash_token, limits=SpaceLimits(max_keys=10, max_bytes=4_000)
    )
    yield replace(bench, services=replace(bench.services, redis=space))
    await space.close()


async def first_cursor(bench: Bench, prefix: str) -> str:
    """The cursor that stands at the end of a listing's first page."""
    space = bench.services.redis
    await asyncio.gather(
        *(
            space.set(bench.org_id, uuid4(), f"{prefix}{n:03}", "x", seconds=60, only_if_absent=False)
            for n in range(101)
        )
    )
    found = re.search(r"go on with cursor (\S+)\]", (await bench.use("redis_get", prefix=prefix))[1])
    assert found
    return found[1]


def names(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.endswith("s left")]


async def test_a_cursor_of_another_organisation_opens_nothing(bench: Bench) -> None:
    other = await bench.elsewhere()
    cursor = await first_cursor(other, "p:")
    await first_cursor(bench, "p:")
    assert await bench.use("redis_get", prefix="p:", cursor=cursor) == (
        "failed", "This cursor belongs to no listing of this prefix: begin without one.",
    )  # fmt: skip


async def test_a_cursor_of_another_prefix_opens_nothing(bench: Bench) -> None:
    cursor = await first_cursor(bench, "p:")
    assert (await bench.use("redis_get", prefix="", cursor=cursor))[0] == "failed"


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param("0", id="the first cursor of SCAN"),
        pytest.param("18446744073709551615", id="the last cursor of SCAN"),
        pytest.param("AAAAAAAAAAAAAAAA", id="a seal of zeros"),
        pytest.param("ÄÖÜ", id="letters outside the alphabet"),
        pytest.param("*", id="no base64 at all"),
    ],
)
async def test_a_forged_cursor_opens_nothing(bench: Bench, forged: str) -> None:
    assert (await bench.use("redis_get", prefix="p:", cursor=forged))[0] == "failed"


async def test_a_cursor_turned_by_one_bit_opens_nothing(bench: Bench) -> None:
    cursor = await first_cursor(bench, "p:")
    told = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    told[-1] ^= 1
    turned = base64.urlsafe_b64encode(told).decode().rstrip("=")
    assert (await bench.use("redis_get", prefix="p:", cursor=turned))[0] == "failed"


async def test_a_prefix_that_ends_above_every_letter_lists_its_own_keys_alone(bench: Bench) -> None:
    await bench.use("redis_set", key="a\U0010fffd", value="x")
    await bench.use("redis_set", key="b", value="x")
    assert (await bench.use("redis_get", prefix="\U0010fffd"))[0] == "refused", "no printable letter"
    assert len(names((await bench.use("redis_get", prefix="a"))[1])) == 0, "neither was that key ever stored"
    assert len(names((await bench.use("redis_get", prefix="+"))[1])) == 0, "the end of all ranges is a letter here"
    assert len(names((await bench.use("redis_get", prefix="["))[1])) == 0, "and so is an open bracket"


async def test_a_script_as_value_is_a_text(bench: Bench) -> None:
    script = "\"] end redis.call('FLUSHALL') --"
    assert (await bench.use("redis_set", key="s", value=script))[0] == "succeeded"
    assert (await bench.use("redis_get", key="s"))[1].endswith(script)


async def test_a_protocol_in_a_value_is_a_text(bench: Bench) -> None:
    told = "x\r\n*1\r\n$8\r\nFLUSHALL\r\n"
    assert (await bench.use("redis_set", key="s", value=told))[0] == "succeeded"
    assert (await bench.use("redis_get", key="s"))[1].endswith(told)


async def test_a_value_that_looks_like_an_outcome_is_a_value(bench: Bench) -> None:
    told = json.dumps({"written": True, "value": "9", "full": "keys"})
    await bench.use("redis_set", key="s", value=told)
    assert (await bench.use("redis_set", key="s", increment=1))[0] == "failed"
    assert (await bench.use("redis_get", key="s"))[1].endswith(told)


@pytest.mark.parametrize("held", ["0x10", "1e3", " 1", "1.5", "١", "--1", "1" * 30])
async def test_a_counter_counts_whole_numbers_alone(bench: Bench, held: str) -> None:
    await bench.use("redis_set", key="n", value=held)
    status, text = await bench.use("redis_set", key="n", increment=1)
    assert (status, "broke inside" in text) == ("failed", False)
    assert (await bench.use("redis_get", key="n"))[1].endswith(f"\n{held}")


async def test_a_counter_does_not_turn_over(bench: Bench) -> None:
    for held, by in ((2**63 - 1, 1), (-(2**63), -1)):
        await bench.use("redis_set", key="n", value=str(held))
        assert (await bench.use("redis_set", key="n", increment=by))[0] == "failed"
        assert (await bench.use("redis_get", key="n"))[1].endswith(f"\n{held}")


@pytest.mark.parametrize("by", [2**53 + 1, 1.5, "1; FLUSHALL", 10**400])
async def test_a_step_is_a_whole_number_of_a_bearable_size(bench: Bench, by: object) -> None:
    assert (await bench.use("redis_set", key="n", increment=by))[0] == "failed"


@pytest.mark.parametrize("seconds", [0, -1, 2_592_001, 10**30, 0.5, "60; PERSIST", None])
async def test_no_value_is_stored_for_ever(bench: Bench, stack: StackFacts, seconds: object) -> None:
    await bench.use("redis_set", key="a", value="x", seconds=seconds)
    server = client.Redis.from_url(stack.redis_url)
    assert -2 <= server.ttl(f"pam:{bench.org_id}:values:a") <= 604_800
    assert server.ttl(f"pam:{bench.org_id}:values:a") != -1
    server.close()


@pytest.mark.parametrize("value", ["x" * 65_537, "é" * 32_769, "\U0001f600" * 16_385])
async def test_a_huge_value_is_refused_by_its_bytes(bench: Bench, value: str) -> None:
    assert (await bench.use("redis_set", key="a", value=value))[0] == "failed"
    assert "not there" in (await bench.use("redis_get", key="a"))[1]


async def test_one_name_in_two_spellings_is_one_key(bench: Bench) -> None:
    assert (await bench.use("redis_set", key="caf\u00e9", value="x"))[0] == "succeeded"
    assert (await bench.use("redis_set", key="cafe\u0301", value="y"))[0] == "refused"


async def test_many_tiny_keys_end_at_the_cap_however_many_ask_at_once(bench: Bench, stack: StackFacts) -> None:
    limits = SpaceLimits(max_keys=10)
    wide = RedisSpace(url=stack.upstash_url, token=stack.upstash_token, limits=limits)
    answers = await asyncio.gather(
        *(wide.set(bench.org_id, uuid4(), f"k{n}", "x", seconds=60, only_if_absent=False) for n in range(60))
    )
    assert sum(answer.written for answer in answers) == 10
    refused = next(answer.refused for answer in answers if answer.refused)
    assert "it holds 10 keys, the most there may be" in refused
    assert (await wide.set(bench.org_id, uuid4(), "k-new", "x", seconds=60, only_if_absent=True)).refused
    await wide.close()


async def test_many_bytes_end_at_the_cap(narrow: Bench) -> None:
    assert (await narrow.use("redis_set", key="a", value="x" * 2_000))[0] == "succeeded"
    status, text = await narrow.use("redis_set", key="b", value="x" * 2_000)
    assert (status, "of 4,000 bytes are taken, and this would not fit" in text) == ("failed", True)
    assert "not there" in (await narrow.use("redis_get", key="b"))[1], "what is refused leaves no trace"


async def test_a_growing_value_ends_at_the_cap(narrow: Bench) -> None:
    assert (await narrow.use("redis_set", key="a", value="x"))[0] == "succeeded"
    assert (await narrow.use("redis_set", key="a", value="x" * 4_000))[0] == "failed"
    assert (await narrow.use("redis_get", key="a"))[1].endswith(":\nx")


async def test_marks_of_calls_count_as_what_is_held(narrow: Bench) -> None:
    outcomes = [(await narrow.use("redis_set", key="n", increment=1))[0] for _ in range(30)]
    assert outcomes.count("failed") > 5, "one counter of two digits, and yet the corner fills"
    assert outcomes == sorted(outcomes, reverse=True), "full stays full"


async def until_over(bench: Bench, key: str) -> None:
    """Return when the key's time is over; the clock is Redis' own: there is no event of ours to await."""
    async with asyncio.timeout(5):
        while await bench.services.redis.get(bench.org_id, key):
            await asyncio.sleep(0.02)


async def test_a_full_corner_is_emptied_by_its_own_organisation(narrow: Bench) -> None:
    await narrow.use("redis_set", key="a", value="x" * 3_000)
    assert (await narrow.use("redis_set", key="b", value="x" * 1_000))[0] == "failed"
    assert (await narrow.use("redis_set", key="a", value="", seconds=1))[0] == "succeeded", "smaller always fits"
    assert (await narrow.use("redis_set", key="b", value="x" * 1_000))[0] == "succeeded"


async def test_what_is_over_gives_its_room_back_and_is_not_listed(narrow: Bench) -> None:
    await narrow.use("redis_set", key="a", value="x" * 3_000, seconds=1)
    assert len(names((await narrow.use("redis_get", prefix=""))[1])) == 1
    await until_over(narrow, "a")
    assert names((await narrow.use("redis_get", prefix=""))[1]) == []
    assert (await narrow.use("redis_set", key="b", value="x" * 3_000))[0] == "succeeded"


async def test_a_full_corner_is_nobody_elses_corner(narrow: Bench) -> None:
    await narrow.use("redis_set", key="a", value="x" * 3_000)
    other = await narrow.elsewhere()
    assert (await other.use("redis_set", key="a", value="x" * 3_000))[0] == "succeeded"


async def test_a_full_server_keeps_its_rest_for_the_queue(bench: Bench, stack: StackFacts) -> None:
    await bench.use("redis_set", key="a", value="x")
    space = RedisSpace(url=stack.upstash_url, token=stack.upstash_token, limits=SpaceLimits(max_server_percent=0))
    full = replace(bench, services=replace(bench.services, redis=space))
    assert await full.use("redis_set", key="b", value="x") == (
        "failed",
        "Redis as a whole is nearly full, and the rest is kept for the queue: put the text into a file.",
    )
    assert (await full.use("redis_get", key="a"))[1].endswith("\nx"), "reading goes on"
    await space.close()


async def test_the_mark_of_another_organisations_call_tells_nothing(bench: Bench) -> None:
    other, call = await bench.elsewhere(), uuid4()
    await other.services.redis.increment(other.org_id, call, "n", 41, seconds=60)
    counted = await bench.services.redis.increment(bench.org_id, call, "n", 1, seconds=60)
    assert counted.value == "1"


async def test_keys_beneath_the_value_are_out_of_reach(bench: Bench, stack: StackFacts) -> None:
    await bench.use("redis_set", key="a", value="x")
    server = client.Redis.from_url(stack.redis_url)
    used = server.get(f"pam:{bench.org_id}:used")
    for name in ("used", "../used", f"pam:{bench.org_id}:used", ":used"):
        assert "not there" in (await bench.use("redis_get", key=name))[1]
    await bench.use("redis_set", key="used", value="0")
    assert int(server.get(f"pam:{bench.org_id}:used") or 0) > int(used or 0)
    server.close()


async def test_a_wrong_token_of_the_rest_face_is_told_without_the_token(stack: StackFacts) -> None:
    space = RedisSpace(url=stack.upstash_url, token="canary-token")
    with pytest.raises(Unavailable) as told:
        await space.get(uuid4(), "a")
    assert "canary" not in str(told.value)
    await space.close()
