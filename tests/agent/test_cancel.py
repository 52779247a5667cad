"""Cancelling, at every point of a run, by everybody; and what else ends a run from outside."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra.cli.person import CommandFailed, Person
from tests.support.house import Engineer, House

PROMPT_SECONDS = 3.5  # within a second on a machine that does nothing else; a lease lasts four
HANGS = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, say: "I think and think", hang_seconds: 60}
"""
SERIES = "generate_series(1, 100000)"
SLOW_SQL = f"""
name: NAME
when: NAME
turns:
  - expect: {{role: user}}
    call: [{{database_query: {{sql: "select count(*) from {SERIES} a, generate_series(1, 30000) b"}}}}]
"""
QUICK = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "Done."}]
"""


@pytest.fixture(scope="module")
async def ada(house: House) -> Engineer:
    """The owner of an organisation."""
    return await house.engineer()


@asynccontextmanager
async def thinking(house: House, ada: Engineer, person: Person | None = None) -> AsyncIterator[str]:
    """A run whose model hangs in mid stream; it is over at the end of the context."""
    message = await house.script(HANGS)
    run_id = await Engineer(person or ada.person, ada.org_id).start(message)
    await played(house, message)
    try:
        yield run_id
    finally:
        run = (await house.admin("select status from pam.runs where id = %s", run_id))[0]
        if run["status"] in ("queued", "running"):
            await ada.person.call("cancel_run", run_id=run_id)
        await house.until(run_id)


async def played(house: House, message: str) -> None:
    """Wait until the model has begun to answer."""
    async with asyncio.timeout(20):
        while await house.unused(message):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def unheard(house: House) -> AsyncIterator[None]:
    """Nobody hears of a queued run but the sweep, and that after ten seconds."""
    (hook,) = await house.admin("select value from pam_private.settings where name = 'webhook_url'")
    change = "update pam_private.settings set value = %s where name = 'webhook_url'"
    await house.admin(change, "http://127.0.0.1:9/")
    try:
        yield
    finally:
        await house.admin(change, hook["value"])


async def ends_as_cancelled(house: House, run_id: str, since: float) -> dict[str, Any]:
    """The run ends promptly, its last event says cancelled, and its log is whole."""
    run = await house.until(run_id)
    assert time.monotonic() - since < PROMPT_SECONDS
    assert (run["status"], run["reason"]) == ("cancelled", "cancelled")
    last = (await house.events(run_id))[-1]
    assert (last["type"], last["outcome"]) == ("RUN_FINISHED", {"type": "cancelled"})
    return run


async def refused(person: Person, run_id: str) -> str:
    """Why this person may not cancel this run."""
    with pytest.raises(CommandFailed) as caught:
        await person.call("cancel_run", run_id=run_id)
    return str(caught.value)


async def test_a_queued_run_is_cancelled_at_once_and_never_claimed(house: House, ada: Engineer) -> None:
    async with unheard(house):
        run_id = await ada.start(await house.script(QUICK))
        answer = await ada.person.call("cancel_run", run_id=run_id)
        assert answer["status"] == "cancelled"
        run = await ends_as_cancelled(house, run_id, time.monotonic())
        assert (run["steps"], run["started_at"]) == (0, None)
        assert [event["type"] for event in await house.events(run_id)] == ["RUN_STARTED", "RUN_FINISHED"]


async def test_a_run_is_cancelled_in_the_middle_of_the_models_words_and_only_once(house: House, ada: Engineer) -> None:
    async with thinking(house, ada) as run_id:
        began = time.monotonic()
        answer = await ada.person.call("cancel_run", run_id=run_id)
        assert answer["status"] == "running"
        assert "asked for already" in await refused(ada.person, run_id)
        await ends_as_cancelled(house, run_id, began)
        assert "ended already: it was cancelled" in await refused(ada.person, run_id)


async def test_a_run_is_cancelled_in_the_middle_of_slow_sql_which_stops_too(house: House, ada: Engineer) -> None:
    run_id = await ada.start(await house.script(SLOW_SQL))
    busy = "select pid from pg_stat_activity where application_name = 'pam-agent-sql' and state = 'active'"
    async with asyncio.timeout(20):
        while not await house.admin(busy):
            await asyncio.sleep(0.02)
    began = time.monotonic()
    await ada.person.call("cancel_run", run_id=run_id)
    await ends_as_cancelled(house, run_id, began)
    assert await house.admin(busy) == [], "the statement is stopped with its run"
    call = (await house.admin("select status::text from pam.tool_calls where run_id = %s", run_id))[0]
    assert call["status"] == "unknown"


async def test_another_member_may_not_cancel_but_an_admin_may(house: House, ada: Engineer) -> None:
    bob, cleo, stranger = await house.person(), await house.person(), await house.person()
    await ada.person.call("set_member", org_id=ada.org_id, user_id=bob.user_id, role="developer")
    await ada.person.call("set_member", org_id=ada.org_id, user_id=cleo.user_id, role="admin")
    async with thinking(house, ada) as run_id:
        assert "Only the person who started a run" in await refused(bob, run_id)
        assert await refused(stranger, run_id) == "There is no such run."
        began = time.monotonic()
        await cleo.call("cancel_run", run_id=run_id)
        await ends_as_cancelled(house, run_id, began)
    audit = await house.admin(
        "select actor_id::text, is_allowed from pam.audit where action = 'run.cancel' and subject ->> 'run_id' = %s",
        run_id,
    )
    assert [(row["actor_id"], row["is_allowed"]) for row in audit] == [(bob.user_id, False), (cleo.user_id, True)]


async def test_a_run_that_has_ended_is_not_cancelled(house: House, ada: Engineer) -> None:
    run_id, _ = await house.play(ada, QUICK)
    assert "ended already: it succeeded" in await refused(ada.person, run_id)
    assert (await house.until(run_id))["status"] == "succeeded"


@pytest.mark.parametrize("verb", ["remove_member", "set_member"])
async def test_a_run_stops_when_its_asker_loses_access(house: House, ada: Engineer, verb: str) -> None:
    bob = await house.person()
    await ada.person.call("set_member", org_id=ada.org_id, user_id=bob.user_id, role="developer")
    async with thinking(house, ada, bob) as run_id:
        began = time.monotonic()
        role = {"role": "viewer"} if verb == "set_member" else {}
        await ada.person.call(verb, org_id=ada.org_id, user_id=bob.user_id, **role)
        run = await house.until(run_id)
        assert time.monotonic() - began < PROMPT_SECONDS
        assert (run["status"], run["reason"]) == ("failed", "access_revoked")
        assert (await house.events(run_id))[-1]["code"] == "access_revoked"


async def test_a_removed_asker_cannot_have_a_queued_run_begin(house: House, ada: Engineer) -> None:
    bob = await house.person()
    await ada.person.call("set_member", org_id=ada.org_id, user_id=bob.user_id, role="developer")
    async with unheard(house):
        run_id = await Engineer(bob, ada.org_id).start(await house.script(QUICK))
        await ada.person.call("remove_member", org_id=ada.org_id, user_id=bob.user_id)
    await house.admin(
        "update pam_private.run_heads set rung_at = now() - interval '1 minute' where run_id = %s", run_id
    )
    run = await house.until(run_id)
    assert (run["status"], run["reason"], run["steps"]) == ("failed", "access_revoked", 0)


async def test_a_deadline_ends_a_queued_run_too(house: House, ada: Engineer) -> None:
    async with unheard(house):
        run_id = await ada.start(await house.script(QUICK), limits={"max_seconds": 1})
        run = await house.until(run_id)  # the sweep finds it
        assert (run["status"], run["reason"], run["steps"]) == ("failed", "deadline", 0)
        await house.events(run_id)
