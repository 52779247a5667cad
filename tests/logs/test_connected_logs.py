"""The team's application logs by connection: from the sealed secret to the lines, at CloudWatch and at Supabase.

moto stands for CloudWatch, a TLS server under its real name for Supabase; the clients are the real ones.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from infra.local.facts import StackFacts
from tests.logs.conftest import KEY
from tests.support.database import Template
from tests.support.outside import Dialling, Outside, certified, reply, says, sender
from tests.support.strongroom import Strongroom
from workers.logs.cloudwatch import CloudWatchPlace, client_of

REF, TOKEN, SECRET = "abcdefghijklmnopqrst", "sbp_canary0123456789abcdef", "canary/of/the/secret/access/key000000000"
API, LOGS = "api.supabase.com", "logs.eu-central-1.amazonaws.com"
PUBLIC = {API: ["93.184.216.34"], LOGS: ["93.184.216.36"], "evil.example.net": ["93.184.216.35"]}


@pytest.fixture(scope="module")
async def first_room(
    template: Template, stack: StackFacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Strongroom]:
    async with Strongroom.in_a_database(template, stack, tmp_path_factory.mktemp("keys")) as room:
        yield room


@pytest.fixture
async def room(first_room: Strongroom) -> Strongroom:
    room = await first_room.elsewhere()
    room.bench.services = replace(room.bench.services, credentials=room.connections)
    return room


@pytest.fixture
async def group(cloudwatch_url: str, monkeypatch: pytest.MonkeyPatch) -> CloudWatchPlace:
    """A log group with two lines of just now, where every client of this process finds it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", cloudwatch_url)
    place = CloudWatchPlace(f"/app/{uuid4()}", "eu-central-1", access_key_id=KEY, secret_access_key=SECRET)
    client = client_of(place)
    client.create_log_group(logGroupName=place.log_group)
    client.create_log_stream(logGroupName=place.log_group, logStreamName="api")
    now = int(datetime.now(UTC).timestamp() * 1000)
    lines = (f'{{"level": "error", "event": "charge failed", "key": "{SECRET}"}}', '{"event": "charged"}')
    told = [{"timestamp": now - 60_000 + n, "message": text} for n, text in enumerate(lines)]
    client.put_log_events(logGroupName=place.log_group, logStreamName="api", logEvents=told)
    return place


async def add_group(room: Strongroom, place: CloudWatchPlace, name: str = "production") -> None:
    settings = {"access_key_id": KEY, "region": place.region, "log_group": place.log_group}
    assert "refused" not in await room.add(name, SECRET, kind="aws_access_key", hosts=(LOGS,), settings=settings)


async def add_project(room: Strongroom) -> None:
    assert "refused" not in await room.add("project", TOKEN, hosts=(API,), settings={"project_ref": REF})


@asynccontextmanager
async def supabase(room: Strongroom, folder: Path, *answers: bytes) -> AsyncIterator[Outside]:
    """A server that the guarded client of this run takes for api.supabase.com."""
    server, trust = certified(folder, API)
    async with Outside.open(says(*answers), tls=server) as outside:
        client = sender(names=PUBLIC, dialling=Dialling(really=("127.0.0.1", outside.port), as_asked=True), trust=trust)
        room.bench.services = replace(room.bench.services, outbound=client.outbound)
        yield outside


def rows(*messages: str) -> bytes:
    at = int(datetime.now(UTC).timestamp() * 1_000_000) - 1_000_000
    told = [{"id": "a", "timestamp": at, "event_message": message, "metadata": []} for message in messages]
    return reply(body=json.dumps({"result": told}), Content_Type="application/json")


async def test_a_log_group_is_searched_with_the_keys_of_the_connection(
    room: Strongroom, group: CloudWatchPlace
) -> None:
    await add_group(room, group)
    status, text = await room.bench.use("log_search", store="application", connection="production", level="error")
    assert (status, text.split(" lines")[0]) == ("succeeded", "1"), text
    assert "charge failed" in text
    assert SECRET not in text
    (used,) = await room.audits("connection.use")
    assert (used["is_allowed"], used["subject"]["host"]) == (True, LOGS)
    status, told = await room.bench.use("log_search", store="application", connection="production", source="edge_logs")
    assert (status, "source belongs to a connection to Supabase" in told) == ("failed", True), told


async def test_a_projects_logs_are_searched_with_the_token_of_the_connection(room: Strongroom, tmp_path: Path) -> None:
    await add_project(room)
    async with supabase(room, tmp_path, rows(f"GET 500 {TOKEN}", "GET 200")) as server:
        status, text = await room.bench.use(
            "log_search", store="application", connection="project", source="edge_logs", text="500"
        )
        assert (status, text.split(" lines")[0]) == ("succeeded", "1"), text
        assert TOKEN not in text
        (asked,) = server.asked
        assert asked.header("authorization") == f"Bearer {TOKEN}"
        assert asked.target.startswith(f"/v1/projects/{REF}/analytics/endpoints/logs.all?sql=")
        status, told = await room.bench.use("log_search", store="application", connection="project")
        assert (status, "Name the source" in told) == ("failed", True), told
    audit = str(await room.audits("connection.use"))
    assert TOKEN not in audit


async def test_a_redirect_takes_the_token_nowhere(room: Strongroom, tmp_path: Path) -> None:
    await add_project(room)
    away = reply(302, Location="https://evil.example.net/")
    async with supabase(room, tmp_path, away) as server:
        status, told = await room.bench.use("log_search", store="application", connection="project", source="edge_logs")
        assert (status, "leads to a host that is not on" in told) == ("refused", True), told
        assert len(server.asked) == 1


async def test_logs_that_do_not_answer_are_told_in_one_sentence(room: Strongroom, tmp_path: Path) -> None:
    await add_project(room)
    async with supabase(room, tmp_path, reply(401)):
        told = await room.bench.use("log_search", store="application", connection="project", source="edge_logs")
        assert told[0] == "failed"
        assert "its owner must renew it" in told[1]
    client = sender(names=PUBLIC)  # nobody listens there
    room.bench.services = replace(room.bench.services, outbound=client.outbound)
    told = await room.bench.use("log_search", store="application", connection="project", source="edge_logs")
    assert told[0] == "failed"
    assert API in told[1]


async def test_what_leads_to_logs_is_given_to_no_other_tool(room: Strongroom, group: CloudWatchPlace) -> None:
    """A token that reads logs may often do more: api_call does not get it, even where the host is on the list."""
    await add_group(room, group)
    await add_project(room)
    client = sender(names=PUBLIC)
    room.bench.services = replace(room.bench.services, outbound=client.outbound)
    for host, name in ((LOGS, "production"), (API, "project")):
        await room.rpc(None, "allow_host", org_id=room.bench.org_id, host=host)
        told = await room.bench.use("api_call", url=f"https://{host}/", connection=name)
        assert told == ("refused", f"The connection {name} leads to logs: log_search uses it, no other tool."), told
    assert client.dialling.dialled == [], "nothing was sent"
    uses = await room.audits("connection.use")
    assert [use["is_allowed"] for use in uses if use["subject"].get("code") == "forbidden"] == [False, False]


async def test_what_leads_to_no_logs_is_not_opened_for_them(room: Strongroom) -> None:
    await room.add("billing", TOKEN)
    status, told = await room.bench.use("log_search", store="application", connection="billing")
    assert (status, told) == ("refused", "The connection billing leads to no logs: an admin adds one that does.")
    assert await room.audits("connection.use") != []


async def test_another_organisations_logs_are_not_found(room: Strongroom, group: CloudWatchPlace) -> None:
    there = await room.elsewhere()
    await add_group(there, group)
    status, told = await room.bench.use("log_search", store="application", connection="production")
    assert (status, "There is no connection of this name" in told) == ("refused", True), told
    assert await there.audits("connection.use") == []
