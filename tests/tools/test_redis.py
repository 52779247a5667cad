"""redis_set and redis_get: an organisation's own corner, with an end to everything, written once per call."""

import re

import pytest
import redis as client

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from workers.tools.failures import ToolRefused
from workers.tools.redis_get import checked_key

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
    assert len(keys) == 6, "three values, three marks"
    assert all(0 < server.ttl(key) <= 604_800 for key in keys)
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


async def test_a_long_listing_goes_on_where_it_stopped(bench: Bench, stack: StackFacts) -> None:
    server = client.Redis.from_url(stack.redis_url)
    for number in range(250):
        server.set(f"pam:{bench.org_id}:values:many:{number}", "x", ex=60)
    server.close()
    found: set[str] = set()
    cursor = 0
    for _ in range(100):
        _, text = await bench.use("redis_get", prefix="many:", cursor=cursor)
        found |= {line.split(" ")[0] for line in text.splitlines() if line.startswith("many:")}
        more = re.search(r"go on with cursor (\d+)\]", text)
        if not more:
            break
        cursor = int(more[1])
    assert len(found) == 250


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
