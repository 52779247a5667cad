"""A model that is away pauses a run and does not end it: no worker is held, and the run comes back by itself."""

import asyncio

import pytest

from infra.replay.replayed import replay
from infra.replay.stored import recorded
from tests.support.house import House
from workers.agent.limits import pause_seconds
from workers.kernel.ledger.runs import Run
from workers.tools import TOOLS

AWAY = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "Back.", fail: {status: 503, retry_after: 1, times: TIMES}}]
"""


async def paused(house: House, run_id: str) -> None:
    async with asyncio.timeout(30):
        while not await house.admin(
            "select 1 from pam.runs where id = %s and pauses > 0 and status = 'queued'", run_id
        ):
            rows = await house.admin("select status::text, reason from pam.runs where id = %s", run_id)
            assert rows[0]["status"] != "failed", rows
            await asyncio.sleep(0.05)


async def test_a_run_waits_for_its_model_and_goes_on_by_itself(house: House) -> None:
    ada = await house.engineer()
    message = await house.script(AWAY.replace("TIMES", "5"))  # four attempts are one call's
    run_id = await ada.start(message)
    await paused(house, run_id)
    (row,) = await house.admin(
        "select r.attempt, r.due_at > now() - interval '1 s' as waits, h.lease_until, r.deadline_at - r.created_at as clock"
        " from pam.runs r join pam_private.run_heads h on h.run_id = r.id where r.id = %s",
        run_id,
    )
    assert (row["attempt"], row["waits"], row["lease_until"]) == (0, True, None), "no worker is held"
    assert row["clock"].total_seconds() > 900, "its clock stands still"
    run = await house.until(run_id)
    assert (run["status"], run["steps"], run["pauses"]) == ("succeeded", 1, 1)
    events = await house.events(run_id)
    (told,) = [e["value"] for e in events if e["type"] == "CUSTOM" and e["name"] == "pam.paused"]
    assert "503" in told["message"]
    assert not await house.unused(message)
    again = await replay(await recorded(ada.person, run_id), tools=TOOLS)
    assert (again.difference, again.changed_inputs) == (None, ())


async def test_a_run_that_waits_for_its_model_is_cancelled_at_once(house: House) -> None:
    ada = await house.engineer()
    run_id = await ada.start(
        await house.script(AWAY.replace("TIMES", "40").replace("retry_after: 1", "retry_after: 2"))
    )
    await paused(house, run_id)
    assert (await ada.person.call("cancel_run", run_id=run_id))["status"] == "cancelled"
    await house.events(run_id)


async def test_a_run_that_has_waited_too_often_fails(house: House) -> None:
    ada = await house.engineer()
    run_id = await ada.start(await house.script(AWAY.replace("TIMES", "400")))
    await paused(house, run_id)
    await house.admin("update pam.runs set pauses = 20 where id = %s", run_id)
    run = await house.until(run_id)
    assert (run["status"], run["reason"]) == ("failed", "model_failed")


@pytest.mark.parametrize("asked", [None, 0.0, 1.0, 30.0, 3600.0])
def test_twenty_pauses_outlast_half_an_hour_whatever_the_model_asks_for(asked: float | None) -> None:
    """A breaker that says 30 s each time, or a server that always says 1 s, ended runs within minutes."""
    pauses = [pause_seconds(Run.model_construct(pauses=count), asked) for count in range(20)]
    assert sum(pauses) > 1800
    assert max(pauses) <= 300 * 1.25
    if asked:
        assert min(asked, 300) <= pauses[0] <= min(asked, 300) * 1.25
