"""A run that a person pauses in its middle stops at once, guesses nothing of its effects, and goes on where it was."""

import asyncio
from typing import Any

from infra.cli.inspection import timeline_of
from infra.cli.timeline import Claimed, Paused
from infra.replay.replayed import replay
from infra.replay.stored import recorded
from tests.support.house import Engineer, House
from tests.support.outside import Asked, Outside, reply
from workers.tools import TOOLS

THINKS = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "I think.", hang_seconds: 600, trouble_times: 1}]
"""
SENDS = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, call: [{api_call: {url: "URL/orders", method: POST, json_body: {n: 1}}}]}
  - {expect: {role: tool, result_of: api_call, contains: ["taken"]}, say: "Sent."}
"""


async def rests(house: House, ada: Engineer, run_id: str) -> None:
    """Pause the run, and wait until no worker holds it."""
    await ada.person.call("pause_run", run_id=run_id)
    await house.until(run_id, "queued")


async def goes_on(house: House, ada: Engineer, run_id: str) -> dict[str, Any]:
    """Resume the run; answers it when it has ended well."""
    await ada.person.call("resume_run", run_id=run_id)
    run = await house.until(run_id)
    assert run["status"] == "succeeded", run["reason"]
    return run


async def test_a_run_rests_in_the_middle_of_the_models_words_and_goes_on(house: House) -> None:
    ada = await house.engineer()
    message = await house.script(THINKS)
    run_id = await ada.start(message)
    async with asyncio.timeout(20):
        while await house.unused(message):
            await asyncio.sleep(0.02)
    await rests(house, ada, run_id)
    (last,) = await house.admin("select payload from pam.events where run_id = %s order by seq desc limit 1", run_id)
    assert (last["payload"]["name"], last["payload"]["value"]) == (
        "pam.paused",
        {"message": "A person has paused the run."},
    )
    run = await goes_on(house, ada, run_id)
    assert (run["steps"], run["attempt"]) == (1, 0)
    entries = (await timeline_of(ada.person, run_id)).entries
    assert [entry.is_by_person for entry in entries if isinstance(entry, Paused)] == [True]
    assert [entry.seconds for entry in entries if isinstance(entry, Claimed)][1] == 0, "nobody kept it waiting"
    assert (await replay(await recorded(ada.person, run_id), tools=TOOLS)).difference is None


async def test_an_effect_under_way_comes_to_its_end_first(house: House) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Asked, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await go.wait()
        writer.write(reply(200, "taken"))

    async with Outside.open(slow) as server:
        ada = await house.engineer(tools=["api_call"])
        await ada.person.call("allow_host", org_id=ada.org_id, host=f"localhost:{server.port}")
        run_id = await ada.start(await house.script(SENDS.replace("URL", server.url)))
        async with asyncio.timeout(20):
            await reached.wait()
        await ada.person.call("pause_run", run_id=run_id)
        await asyncio.sleep(1.5)  # some pulses
        assert (await house.until(run_id, "running"))["status"] == "running"
        go.set()
        await house.until(run_id, "queued")
        (call,) = await house.admin("select status::text from pam.tool_calls where run_id = %s", run_id)
        assert call["status"] == "succeeded", "and nobody has to guess"
        await goes_on(house, ada, run_id)
