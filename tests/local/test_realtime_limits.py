"""What a hostile, greedy or sleepy client of the Realtime stand-in can do: nothing to the others."""

import asyncio
import json
import uuid
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


def raw(platform: Any, version: str, **options: Any) -> connect:
    query = f"apikey={platform.publishable_key}&vsn={version}"
    return connect(f"{platform.url.replace('http', 'ws')}/realtime/v1/websocket?{query}", **options)


async def ask(socket: ClientConnection, version: str, topic: str, event: str, payload: Any) -> Any:
    """Send one frame, and answer the reply to it."""
    ref = uuid.uuid4().hex
    frame = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": ref}
    data = frame if version == "1.0.0" else [ref, ref, topic, event, payload]
    await socket.send(json.dumps(data))
    async with asyncio.timeout(5):
        while True:
            answer = json.loads(await socket.recv())
            if (answer["ref"] if version == "1.0.0" else answer[1]) == ref:
                return answer["payload"] if version == "1.0.0" else answer[4]


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
async def test_no_frame_kills_the_server_or_the_socket(platform: Any, version: str) -> None:
    hostile: list[str | bytes] = [
        "", "{", "null", "[]", "{}", "1", "NaN", '"x"', "[" * 100_000, "[1,2,3,4,5]", b"", b"\x03",
        b"\x03\xff\xff\xff\xff\xff\x01", b"\x04" * 40, b"\x03\x00\x00\x01\x01\x00\x01te{", b"\xff" * 1000,
        b"\x03\x00\x00\x02\x01\x00\x01\xff\xfee{}", '{"topic":"a","event":"b","payload":[],"ref":{}}',
    ]  # fmt: skip
    topics = ["realtime:", "realtime:a", "phoenix", "", "realtime:\\ud800", "realtime:\\u0000", "nothing"]
    events = ["phx_join", "phx_leave", "broadcast", "presence", "access_token", "heartbeat", "phx_x", ""]
    payloads = [
        "null", "[]", "{}", '{"config":1}', '{"config":{"private":true,"presence":[],"broadcast":7}}',
        '{"access_token":7}', '{"access_token":"\\ud800"}', '{"event":{},"payload":[]}', '{"x":NaN}',
        '{"config":{"postgres_changes":[{"event":"*"}]}}', '{"event":"track","payload":5}',
        '{"config":{"private":true},"access_token":"a.b.c"}',
    ]  # fmt: skip
    for topic in topics:
        for event in events:
            for payload in payloads:
                name = f'"{topic}","{event}",{payload}'
                parts = f'"topic":"{topic}","event":"{event}","payload":{payload},"ref":"1"'
                hostile.append(f"{{{parts}}}" if version == "1.0.0" else f'["1","1",{name}]')
    async with raw(platform, version) as socket:
        for frame in hostile:
            await socket.send(frame)
        assert (await ask(socket, version, "phoenix", "heartbeat", {}))["status"] == "ok"
        reply = await ask(socket, version, "realtime:b", "phx_join", {"config": {}})
        assert reply["status"] == "ok"


async def test_a_socket_without_a_key_is_not_opened(platform: Any) -> None:
    with pytest.raises(Exception, match="403"):
        async with connect(f"{platform.url.replace('http', 'ws')}/realtime/v1/websocket?apikey=wrong"):
            pass


async def test_too_many_messages_close_the_channel_and_too_many_channels_are_refused(platform: Any) -> None:
    async with raw(platform, "1.0.0", max_queue=None) as socket:
        name = f"realtime:{uuid.uuid4()}"
        assert (await ask(socket, "1.0.0", name, "phx_join", {}))["status"] == "ok"
        frame = {"topic": name, "event": "broadcast", "payload": {"event": "e", "payload": {}}, "ref": None}
        for _ in range(2_000):
            await socket.send(json.dumps(frame))
        async with asyncio.timeout(5):
            async for text in socket:
                if json.loads(text)["event"] == "phx_close":
                    break
    async with raw(platform, "1.0.0") as socket:
        for number in range(100):
            await ask(socket, "1.0.0", f"realtime:{number}", "phx_join", {})
        refused = await ask(socket, "1.0.0", "realtime:100", "phx_join", {})
        assert "RateLimitReached" in refused["response"]["reason"]


async def test_a_reader_that_does_not_read_is_dropped_and_delays_nobody(platform: Any) -> None:
    name = f"room:{uuid.uuid4()}"
    slow_options = {"max_queue": 1, "close_timeout": 0.1, "max_size": None}
    async with raw(platform, "1.0.0", **slow_options) as slow, raw(platform, "1.0.0") as quick:
        for socket in (slow, quick):
            await ask(socket, "1.0.0", f"realtime:{name}", "phx_join", {})
        message = {"topic": name, "event": "much", "payload": {"text": "x" * 50_000}}
        headers = {"apikey": platform.secret_key}
        url = f"{platform.url}/realtime/v1/api/broadcast"
        async with httpx.AsyncClient(headers=headers, timeout=20) as http:
            for _ in range(40):
                assert (await http.post(url, json={"messages": [message] * 50})).status_code == 202
                for _ in range(50):
                    assert json.loads(await asyncio.wait_for(quick.recv(), 5))["event"] == "broadcast"
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionClosed):
                await _read_to_the_end(slow)


async def _read_to_the_end(socket: ClientConnection) -> None:
    while True:
        await socket.recv()
