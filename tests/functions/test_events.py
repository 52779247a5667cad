"""The log of a run over HTTP: pages, finite streams, and streams that a real uvicorn holds open."""

import asyncio
import contextlib
import dataclasses
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from functions import events
from functions.main import create_app
from tests.functions.conftest import Pam, Person
from tests.functions.processes import Cable, Server

STREAM = {"accept": "text/event-stream"}


def token_of(pam: Pam, person: Person, *, url: str, seconds: float = 300) -> dict[str, str]:
    """A session of this person as a project at that URL would have given it."""
    claims = {
        "sub": person.user_id, "aud": "authenticated", "role": "authenticated", "iss": f"{url}/auth/v1",
        "exp": int(time.time() + seconds),
    }  # fmt: skip
    return {"authorization": f"Bearer {jwt.encode(claims, pam.platform.jwt_secret, 'HS256')}"}


@contextlib.asynccontextmanager
async def watch(url: str, headers: dict[str, str]) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a held stream."""
    async with (
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
        client.stream("GET", url, headers=headers | STREAM) as stream,
    ):
        yield stream.aiter_lines()


@pytest.fixture(scope="session")
async def server(pam: Pam) -> AsyncIterator[Server]:
    async with Server.start(pam.settings) as server:
        yield server


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
        yield client


async def test_the_log_is_read_page_by_page_to_its_end(
    pam: Pam, api: httpx.AsyncClient, ann: Person, run_id: str
) -> None:
    url = f"/v1/runs/{run_id}/events"
    empty = (await api.get(url, headers=ann.headers)).json()
    assert empty == {"items": [], "last_seq": 0, "is_complete": False}
    fence = await pam.claim(run_id)
    await pam.append(run_id, fence, "one", "two")
    first = (await api.get(f"{url}?limit=2", headers=ann.headers)).json()
    assert [event["seq"] for event in first["items"]] == [1, 2]
    assert first["items"][0]["payload"]["type"] == "RUN_STARTED"
    await pam.finish(run_id, fence)
    rest = (await api.get(f"{url}?after={first['last_seq']}", headers=ann.headers)).json()
    assert [event["seq"] for event in rest["items"]] == [3, 4]
    assert (first["is_complete"], rest["is_complete"]) == (False, True)
    full = (await api.get(f"{url}?limit=2", headers=ann.headers)).json()
    assert full["is_complete"] is False  # the run has ended, the page is full: there may be more


async def test_on_lambda_a_stream_ends_at_once_and_resumes_by_its_last_id(
    pam: Pam, api: httpx.AsyncClient, ann: Person, run_id: str
) -> None:
    url = f"/v1/runs/{run_id}/events"
    fence = await pam.claim(run_id)
    await pam.append(run_id, fence, "one", "two")
    answer = await api.get(f"{url}?after=1", headers=ann.headers | STREAM | {"last-event-id": "2"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    retry, frame, rest = answer.text.split("\n\n")
    assert (retry, rest) == ("retry: 2000", "")
    number, payload = frame.split("\n")
    assert number == "id: 3"
    assert json.loads(payload.removeprefix("data: "))["value"] == {"text": "zwei\nZeilen ✓"}

    await pam.finish(run_id, fence)
    over = await api.get(url, headers=ann.headers | STREAM | {"last-event-id": "4"})
    assert (over.status_code, over.content) == (204, b"")
    for odd in ("-1", "x", "9" * 30):
        assert (await api.get(url, headers=ann.headers | STREAM | {"last-event-id": odd})).status_code == 422


async def test_a_held_stream_shows_events_as_they_come_and_closes_with_the_run(
    pam: Pam, http: httpx.AsyncClient, ann: Person, bob: Person, run_id: str
) -> None:
    url = f"/v1/runs/{run_id}/events"
    assert (await http.get(url, headers=bob.headers | STREAM)).status_code == 404
    fence = await pam.claim(run_id)
    ids: list[int] = []
    async with http.stream("GET", url, headers=ann.headers | STREAM) as stream:
        lines = stream.aiter_lines()
        async for line in lines:
            if line.startswith(":"):
                break  # it has nothing new to say and stays
            if line.startswith("id: "):
                ids.append(int(line[4:]))
        assert ids == [1]
        await pam.append(run_id, fence, "two", "three")
        await pam.finish(run_id, fence)
        ids += [int(line[4:]) async for line in lines if line.startswith("id: ")]
    assert ids == [1, 2, 3, 4]


async def test_an_interrupt_pauses_a_held_stream_and_does_not_end_it(
    pam: Pam, http: httpx.AsyncClient, ann: Person, run_id: str
) -> None:
    fence = await pam.claim(run_id)
    pause: dict[str, Any] = {"type": "RUN_FINISHED", "runId": run_id, "outcome": {"type": "interrupt"}}
    await pam.sql(
        "select pam_worker.append_events(%s, %s, %s::text::jsonb)",
        run_id, fence, json.dumps([pause]), login="pam_worker",
    )  # fmt: skip
    async with http.stream("GET", f"/v1/runs/{run_id}/events", headers=ann.headers | STREAM) as stream:
        ids: list[int] = []
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                ids.append(int(line[4:]))
            if line.startswith(":") and ids == [1, 2]:
                await pam.append(run_id, fence, "resumed")
                await pam.finish(run_id, fence)
    assert ids == [1, 2, 3, 4]


async def test_nothing_is_lost_when_the_server_is_killed_in_the_middle(pam: Pam, ann: Person, run_id: str) -> None:
    url = f"/v1/runs/{run_id}/events"
    fence = await pam.claim(run_id)
    await pam.append(run_id, fence, "two", "three")
    ids: list[int] = []
    is_cut_off = False
    async with Server.start(pam.settings) as first, watch(first.url + url, ann.headers) as lines:
        try:
            async for line in lines:
                ids += [int(line[4:])] if line.startswith("id: ") else []
                if line == "id: 2":
                    await first.kill()
        except httpx.HTTPError:
            is_cut_off = True
    assert is_cut_off
    await pam.append(run_id, fence, "four")
    await pam.finish(run_id, fence)
    again = ann.headers | {"last-event-id": str(ids[-1])}
    async with Server.start(pam.settings) as second, watch(second.url + url, again) as lines:
        ids += [int(line[4:]) async for line in lines if line.startswith("id: ")]
    assert ids == [1, 2, 3, 4, 5]


async def test_a_watcher_who_leaves_ends_the_stream(pam: Pam, ann: Person, run_id: str) -> None:
    app = create_app(dataclasses.replace(pam.settings, hold_events=True))
    is_quiet, has_left = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if b"nothing new" in message.get("body", b""):
            is_quiet.set()

    headers = [(name.encode(), value.encode()) for name, value in (ann.headers | STREAM).items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "GET", "scheme": "http", "path": f"/v1/runs/{run_id}/events", "raw_path": b"",
        "query_string": b"", "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
        "server": ("pam", 80), "state": {},
    }  # fmt: skip
    watching = asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await is_quiet.wait()
        assert not watching.done()
        has_left.set()
        await watching
    await app.state.house.http.aclose()


async def test_a_held_stream_outlives_an_outage_of_postgrest(pam: Pam, ann: Person, run_id: str) -> None:
    fence = await pam.claim(run_id)
    async with Cable.lay(pam.platform.url) as cable:
        settings = dataclasses.replace(pam.settings, supabase_url=cable.url)
        url = f"/v1/runs/{run_id}/events"
        headers = token_of(pam, ann, url=cable.url)
        async with Server.start(settings) as server, watch(server.url + url, headers) as lines:
            async for line in lines:
                if line.startswith(":"):
                    break
            cable.cut()
            async with asyncio.timeout(10):
                await cable.refused.wait()
            await pam.append(run_id, fence, "two")
            await pam.finish(run_id, fence)
            cable.mend()
            ids = [int(line[4:]) async for line in lines if line.startswith("id: ")]
    assert ids == [2, 3]


async def test_a_stream_ends_when_its_token_does(pam: Pam, http: httpx.AsyncClient, ann: Person, run_id: str) -> None:
    headers = token_of(pam, ann, url=pam.platform.url, seconds=2) | STREAM
    async with http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers) as stream:
        last = [line async for line in stream.aiter_lines() if line][-1]
    assert last == ": your token is no longer accepted; come back with a new one"


async def test_a_stream_gives_up_when_its_patience_ends(
    pam: Pam, api: httpx.AsyncClient, ann: Person, monkeypatch: pytest.MonkeyPatch, run_id: str
) -> None:
    monkeypatch.setattr(events, "HOLD_SECONDS", 0.6)
    app = create_app(dataclasses.replace(pam.settings, hold_events=True))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://pam") as held, asyncio.timeout(10):
        answer = await held.get(f"/v1/runs/{run_id}/events", headers=ann.headers | STREAM)
    assert answer.text == "retry: 2000\n\n: nothing new\n\n"
    missing = await api.get(f"/v1/runs/{uuid.uuid4()}/events", headers=ann.headers | STREAM)
    assert missing.status_code == 404
    await app.state.house.http.aclose()
