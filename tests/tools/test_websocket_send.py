"""websocket_send on the real stack: who hears it through realtime-py, who does not, and what browsers may send."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from realtime import AsyncRealtimeChannel, AsyncRealtimeClient
from realtime.types import RealtimeSubscribeStates as State

from infra.cli.person import Person
from tests.support.house import Engineer, House

SEND = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    call: [{websocket_send: {topic: "TOPIC", event: import.finished, payload: {rows: 42}}}]
  - expect: {role: tool, result_of: websocket_send}
    say: "Told them."
"""
TOOLS = ["websocket_send"]


@dataclass
class Ear:
    """One channel of one person: what it heard."""

    channel: AsyncRealtimeChannel
    heard: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    async def hear(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.heard.get(), 8)


Listen = Callable[[Person, str], Awaitable[Ear | None]]


@pytest.fixture
async def listen(house: House) -> AsyncIterator[Listen]:
    """Join a private topic as a person; None when Realtime does not let them in."""
    sockets: list[AsyncRealtimeClient] = []

    async def join(person: Person, topic: str) -> Ear | None:
        session = await person.client.auth.get_session()
        assert session is not None
        socket = AsyncRealtimeClient(f"{house.facts.url}/realtime/v1", house.facts.publishable_key)
        sockets.append(socket)
        await socket.connect()
        await socket.set_auth(session.access_token)
        config: Any = {"config": {"private": True, "broadcast": {"self": False, "ack": True}}}
        ear, joined = Ear(socket.channel(topic, config)), asyncio.Queue[State]()
        ear.channel.on_broadcast("*", lambda message: ear.heard.put_nowait(dict(message)))
        await ear.channel.subscribe(lambda state, error: joined.put_nowait(state))
        return ear if await asyncio.wait_for(joined.get(), 8) is State.SUBSCRIBED else None

    yield join
    for socket in sockets:
        await socket.close()


@dataclass(frozen=True)
class Team:
    """An owner with an agent that may send, a viewer, and somebody of another organisation."""

    owner: Engineer
    viewer: Person
    stranger: Person


@pytest.fixture
async def team(house: House) -> Team:
    owner, viewer, other = await house.engineer(tools=TOOLS), await house.person(), await house.engineer()
    await owner.person.call("set_member", org_id=owner.org_id, user_id=viewer.user_id, role="viewer")
    return Team(owner, viewer, other.person)


async def test_a_run_tells_its_organisation_and_nobody_else(house: House, team: Team, listen: Listen) -> None:
    topic = f"org:{team.owner.org_id}"
    hers, theirs = await listen(team.owner.person, topic), await listen(team.viewer, topic)
    assert hers is not None
    assert theirs is not None
    assert await listen(team.stranger, topic) is None

    run_id, seen = await house.play(team.owner, SEND.replace("TOPIC", "org:mine"))

    for ear in (hers, theirs):
        message = await ear.hear()
        assert message["event"] == "import.finished"
        assert message["payload"]["payload"] == {"rows": 42}
        assert message["payload"]["from"] == {
            "run_id": run_id, "agent": "engineer", "user_id": team.owner.person.user_id
        }  # fmt: skip
        assert ear.heard.empty()
    (note,) = [e["value"] for e in seen.events if e.get("name") == "pam.message_sent"]
    assert note == {"topic": topic, "event": "import.finished", "bytes": 12}
    (row,) = await team.viewer.select("sent_messages", run_id=run_id)
    assert (row["topic"], row["size_bytes"]) == (topic, 12)


async def test_a_persons_topic_is_theirs_alone_and_a_threads_is_the_organisations(
    house: House, team: Team, listen: Listen
) -> None:
    to_viewer = f"user:{team.viewer.user_id}"
    theirs = await listen(team.viewer, to_viewer)
    assert theirs is not None
    assert await listen(team.owner.person, to_viewer) is None
    await house.play(team.owner, SEND.replace("TOPIC", to_viewer))
    assert (await theirs.hear())["payload"]["payload"] == {"rows": 42}
    thread = str((await team.owner.person.call("create_thread", org_id=team.owner.org_id))["thread_id"])
    there = await listen(team.viewer, f"thread:{thread}")
    assert there is not None
    assert await listen(team.stranger, f"thread:{thread}") is None
    await house.play(team.owner, SEND.replace("TOPIC", "thread:mine"), thread_id=thread)
    assert (await there.hear())["event"] == "import.finished"


async def test_a_browsers_own_send_is_heard_from_a_developer_and_dropped_from_a_viewer(
    house: House, team: Team, listen: Listen
) -> None:
    topic = f"org:{team.owner.org_id}"
    hers, theirs = await listen(team.owner.person, topic), await listen(team.viewer, topic)
    assert hers is not None
    assert theirs is not None
    await theirs.channel.send_broadcast("typed.by.viewer", {})
    await hers.channel.send_broadcast("typed.by.owner", {"n": 1})
    assert (await theirs.hear())["event"] == "typed.by.owner"
    await house.play(team.owner, SEND.replace("TOPIC", "org:mine"))
    assert (await hers.hear())["event"] == "import.finished"  # and no word of the viewer's before it


async def test_nobody_sends_on_a_runs_topic_by_websocket_or_by_http(house: House, team: Team, listen: Listen) -> None:
    run_id, _ = await house.play(team.owner, SEND.replace("TOPIC", "org:mine"))
    topic = f"run:{run_id}"
    hers, theirs = await listen(team.owner.person, topic), await listen(team.viewer, topic)
    assert hers is not None
    assert theirs is not None
    await hers.channel.send_broadcast("events", {"first": 1, "last": 1, "events": [{"type": "RUN_ERROR"}]})
    session = await team.owner.person.client.auth.get_session()
    assert session is not None
    headers = {"apikey": house.facts.publishable_key, "authorization": f"Bearer {session.access_token}"}
    forged = {"topic": topic, "event": "events", "payload": {"events": []}, "private": True}
    greeting = {"topic": f"user:{team.viewer.user_id}", "event": "hello", "payload": {}, "private": True}
    mailbox = await listen(team.viewer, greeting["topic"])
    assert mailbox is not None
    async with httpx.AsyncClient(base_url=house.facts.url, headers=headers, trust_env=False) as http:
        answer = await http.post("/realtime/v1/api/broadcast", json={"messages": [forged, greeting]})
    assert answer.status_code == 202
    assert (await mailbox.hear())["event"] == "hello"  # a colleague's own topic may be sent to, unheard by the sender
    assert theirs.heard.empty()
