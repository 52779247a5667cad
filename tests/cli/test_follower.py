"""The follower of a run: whatever the connection does, each event comes once and in order."""

import asyncio
import json
from typing import Any

import pytest

from infra.cli import live
from infra.cli.live import Cut, LoggedEvent, RunFollower
from tests.support.house import House, assert_valid

SLOW = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, say: "I look around without any haste.", call: [{file_list: {}}], seconds_per_word: 0.05}
  - {expect: {role: tool}, say: "Once more, as slowly as before.", call: [{file_list: {}}], seconds_per_word: 0.05}
  - {expect: {role: tool}, say: "That is all that there was to be seen.", seconds_per_word: 0.05}
"""


async def started(house: House, script: str = SLOW) -> RunFollower:
    ada = await house.engineer()
    return ada.person.follow(await ada.start(await house.script(script)))


async def announce(house: House, run_id: str, message: dict[str, Any]) -> None:
    """Send a live message, as the database does for a batch of events."""
    await house.admin("select realtime.send(%s::jsonb, 'events', %s, true)", json.dumps(message), f"run:{run_id}")


async def followed(follower: RunFollower, *, on_result: Any) -> list[LoggedEvent]:
    """Every event to the end; `on_result` is done once, at the first tool result."""
    seen: list[LoggedEvent] = []
    is_done = False
    async with asyncio.timeout(40):
        async for item in follower.follow():
            if not isinstance(item, LoggedEvent):
                continue
            seen.append(item)
            if item.payload["type"] == "TOOL_CALL_RESULT" and not is_done:
                is_done = True
                await on_result()
    assert is_done
    return seen


async def assert_whole(house: House, follower: RunFollower, seen: list[LoggedEvent]) -> None:
    stored = await house.events(follower.run_id)
    assert [event.seq for event in seen] == list(range(1, len(stored) + 1))
    assert [event.payload for event in seen] == stored
    assert (follower.tally.gaps, follower.tally.duplicates) == (0, 0)
    assert_valid([event.payload for event in seen])


async def test_a_live_message_that_comes_twice_is_told_once(house: House) -> None:
    follower = await started(house)

    async def again() -> None:
        rows = await house.admin("select seq, payload from pam.events where run_id = %s order by seq", follower.run_id)
        batch = {"first": 1, "last": len(rows), "events": [row["payload"] for row in rows]}
        await announce(house, follower.run_id, batch)

    await assert_whole(house, follower, await followed(follower, on_result=again))


async def test_a_gap_is_read_from_the_log_and_not_jumped_over(house: House) -> None:
    follower = await started(house)

    async def early() -> None:
        ahead = {"type": "CUSTOM", "name": "pam.test", "value": "from a message whose forerunners were lost"}
        await announce(house, follower.run_id, {"first": 900, "last": 900, "events": [ahead]})

    await assert_whole(house, follower, await followed(follower, on_result=early))


async def test_a_torn_connection_is_read_on_from_the_log(house: House) -> None:
    follower = await started(house, SLOW.replace("0.05", "0.15"))

    async def logged() -> int:
        rows = await house.admin("select count(*) from pam.events where run_id = %s", follower.run_id)
        return int(rows[0]["count"])

    async def tear() -> None:
        follower.cut(seconds=0.3)
        known = await logged()  # all of these may have come live
        while await logged() == known:
            await asyncio.sleep(0.05)

    seen = await followed(follower, on_result=tear)

    await assert_whole(house, follower, seen)
    first = next(event.seq for event in seen if event.payload["type"] == "TOOL_CALL_RESULT")
    assert [event for event in seen if event.seq > first and not event.is_live], "some came by the log"
    assert [event for event in seen if event.seq > first and event.is_live], "the rest came live again"


async def test_a_cut_is_told_to_whoever_watches(house: House) -> None:
    follower = await started(house)
    told = []
    async with asyncio.timeout(40):
        async for item in follower.follow():
            if isinstance(item, LoggedEvent) and item.payload["type"] == "TOOL_CALL_RESULT" and not told:
                follower.cut(seconds=0.1)
            if isinstance(item, Cut):
                told.append(item)
    assert len(told) == 1


async def test_a_run_that_is_over_is_read_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await house.engineer()
    run_id = await ada.start(await house.script(SLOW.replace("0.05", "0")))
    await house.until(run_id)
    monkeypatch.setattr(live, "SILENCE_SECONDS", 1000.0)
    follower = ada.person.follow(run_id)
    async with asyncio.timeout(20):
        seen = [item async for item in follower.follow() if isinstance(item, LoggedEvent)]
    await assert_whole(house, follower, seen)
