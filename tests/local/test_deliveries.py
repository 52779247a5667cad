"""Deliveries of net.http_post against real receivers: once, or not at all, and the outcome is recorded."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """A server on a free port that counts requests; `answer` is what it does with each."""

    answer: Answer
    url: str = ""
    requests: list[tuple[str, bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
        )
        self.requests.append((head, await reader.readexactly(length)))
        try:
            await self.answer(reader, writer)
        finally:
            writer.close()


async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
    await writer.drain()


async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await accepted(reader, writer)
    assert await reader.read(1) == b"", "a second request came on a used connection"


async def hung_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the other side gives up


@pytest.fixture
async def receive() -> AsyncIterator[Callable[..., Awaitable[Receiver]]]:
    servers: list[asyncio.Server] = []

    async def start(answer: Answer) -> Receiver:
        receiver = Receiver(answer)
        server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
        servers.append(server)
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        return receiver

    yield start
    for server in servers:
        server.close()


@pytest.fixture
async def database(platform: Any) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
    connection = await psycopg.AsyncConnection.connect(platform.owner_dsn, autocommit=True, row_factory=dict_row)
    async with connection:
        yield connection


async def post(database: psycopg.AsyncConnection[dict[str, Any]], url: str, **options: Any) -> int:
    names = "".join(f", {name} => %s" for name in options)
    cursor = await database.execute(
        f"select net.http_post(%s, %s{names}) as id".encode(),
        (url, json.dumps({"run": 1}), *options.values()),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row["id"])


async def outcome(database: psycopg.AsyncConnection[dict[str, Any]], request: int) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            cursor = await database.execute("select * from net._http_response where id = %s", (request,))
            rows = await cursor.fetchall()
            if rows:
                assert len(rows) == 1
                return rows[0]
            await database.execute("select pg_sleep(0.02)")


async def test_a_request_arrives_with_body_and_headers_and_its_answer_is_recorded(database: Any, receive: Any) -> None:
    receiver = await receive(accepted)
    headers = json.dumps({"X-Pam-Signature": "abc"})
    request = await post(database, receiver.url, headers=headers, params=json.dumps({"a b": "ü&"}))
    row = await outcome(database, request)
    assert (row["status_code"], row["content"], row["timed_out"], row["error_msg"]) == (
        202,
        "ok",
        False,
        None,
    )
    assert row["content_type"] == "text/plain"
    [(head, body)] = receiver.requests
    assert head.startswith("POST /hook?a%20b=%C3%BC%26 HTTP/1.1")
    assert "x-pam-signature: abc" in head.lower()
    assert "content-type: application/json" in head.lower()
    assert body == b'{"run": 1}'


async def test_a_receiver_that_is_down_gets_one_try_and_leaves_one_error(database: Any, receive: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    row = await outcome(database, await post(database, f"http://127.0.0.1:{port}/"))
    assert row["status_code"] is None
    assert "ConnectError" in row["error_msg"]


async def test_a_receiver_that_dies_in_mid_request_is_not_asked_again(database: Any, receive: Any) -> None:
    dying, living = await receive(hung_up), await receive(accepted)
    first = await post(database, dying.url)
    assert (await outcome(database, first))["error_msg"]
    assert (await outcome(database, await post(database, living.url)))["status_code"] == 202
    assert (await outcome(database, first))["status_code"] is None
    assert len(dying.requests) == 1
    cursor = await database.execute("select count(*) as n from net.http_request_queue")
    assert await cursor.fetchone() == {"n": 0}


async def test_no_connection_is_used_twice_for_its_receiver_may_close_it_meanwhile(database: Any, receive: Any) -> None:
    receiver = await receive(patient)
    for _ in range(2):
        request = await post(database, receiver.url, timeout_milliseconds=3000)
        assert (await outcome(database, request))["status_code"] == 202


async def test_a_slow_receiver_times_out_and_holds_up_nobody(database: Any, receive: Any) -> None:
    slow, quick = await receive(silent), await receive(accepted)
    waiting = await post(database, slow.url, timeout_milliseconds=1500)
    answered = await outcome(database, await post(database, quick.url))
    row = await outcome(database, waiting)
    assert (row["timed_out"], row["error_msg"]) == (True, "Timeout of 1500 ms reached")
    assert answered["created"] < row["created"]
    assert len(slow.requests) == 1


@pytest.mark.parametrize("url", ["", "not a url", "ftp://127.0.0.1/", "http://127.0.0.1:99999/", "http://[::1/"])
async def test_an_impossible_address_leaves_an_error_and_the_next_request_is_sent(
    database: Any, receive: Any, url: str
) -> None:
    receiver = await receive(accepted)
    assert (await outcome(database, await post(database, url)))["error_msg"]
    assert (await outcome(database, await post(database, receiver.url)))["status_code"] == 202


async def test_a_request_of_a_rolled_back_transaction_is_never_sent(database: Any, receive: Any) -> None:
    receiver = await receive(accepted)
    async with database.transaction(force_rollback=True):
        await post(database, receiver.url)
    assert (await outcome(database, await post(database, receiver.url)))["status_code"] == 202
    assert len(receiver.requests) == 1


async def test_a_burst_is_sent_once_each(database: Any, receive: Any) -> None:
    receiver = await receive(accepted)
    cursor = await database.execute(
        "select net.http_post(%s, jsonb_build_object('n', n)) as id from generate_series(1, 200) as n",
        (receiver.url,),
    )
    requests = [row["id"] for row in await cursor.fetchall()]
    for request in requests:
        assert (await outcome(database, request))["status_code"] == 202
    assert sorted(json.loads(body)["n"] for _, body in receiver.requests) == list(range(1, 201))


async def test_only_json_is_posted_as_by_the_real_one(database: Any) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="Content-Type"):
        await post(database, "http://127.0.0.1/", headers=json.dumps({"content-type": "text/plain"}))
