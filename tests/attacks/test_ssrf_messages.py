"""Headers, methods and bodies that lie about a message, and answers that never end: what goes out and comes in is bounded."""

import gzip
import zlib
from dataclasses import replace
from typing import Any

import pytest

from tests.support.outside import IMPATIENT, QUICK, Outside, reply, says, says_and_waits, says_without_end, sender
from workers.outbound.failures import OutboundFailed, OutboundRefused

HEADERS: dict[str, dict[str, str]] = {
    "another host": {"Host": "metadata.google.internal"},
    "another host, in a gateway's spelling": {"x_forwarded_host": "localhost"},
    "another host for proxies": {"X-Forwarded-Host": "localhost"},
    "another host for caches": {"X-Original-Host": "localhost"},
    "another path": {"X-Original-URL": "/admin"},
    "another path for rewriters": {"X-Rewrite-URL": "/admin"},
    "another method": {"X-HTTP-Method-Override": "DELETE"},
    "another method, older": {"X-Method-Override": "DELETE"},
    "another sender": {"X-Forwarded-For": "127.0.0.1"},
    "another sender, standardised": {"Forwarded": "for=127.0.0.1"},
    "another sender, of one vendor": {"True-Client-IP": "127.0.0.1"},
    "another framing": {"Transfer-Encoding": "chunked"},
    "another framing, in a gateway's spelling": {"Transfer_Encoding": "chunked"},
    "another length": {"Content-Length": "0"},
    "another protocol": {"Upgrade": "h2c"},
    "settings of another protocol": {"HTTP2-Settings": "AAMAAABkAAQ"},
    "a header for one hop": {"Connection": "X-Secret"},
    "a promise": {"Expect": "100-continue"},
    "a packing of one's own": {"Content-Encoding": "gzip"},
    "an unpacker of one's own": {"Accept-Encoding": "br"},
    "a credential": {"Authorization": "Bearer stolen"},
    "a credential, in a gateway's spelling": {"X_Authorization": "Bearer stolen"},
    "a cookie": {"Cookie": "session=stolen"},
    "a credential for a proxy": {"Proxy-Authorization": "Basic eA=="},
    "a proxy's hop": {"Proxy-Connection": "keep-alive"},
    "metadata of Google": {"Metadata-Flavor": "Google"},
    "metadata of Google, older": {"X-Google-Metadata-Request": "True"},
    "metadata of Azure": {"Metadata": "true"},
    "metadata of AWS": {"X-aws-ec2-metadata-token-ttl-seconds": "21600"},
    "metadata of AWS, its token": {"X-AWS-EC2-Metadata-Token": "x"},
    "identity of Azure's apps": {"X-Identity-Header": "x"},
    "a repeat under a foreign key": {"Idempotency-Key": "x"},
    "a page that it does not come from": {"Referer": "https://admin.example.com/"},
    "a browser's own": {"Sec-Fetch-Site": "same-origin"},
    "a line end in a value": {"X-A": "a\r\nHost: localhost"},
    "a lonely line feed in a value": {"X-A": "a\nHost: localhost"},
    "NUL in a value": {"X-A": "a\0b"},
    "another alphabet in a value": {"X-A": "\u010a\u010d"},
    "a value without end": {"X-A": "a" * 4_097},
    "a line end in a name": {"X-A: b\r\nX-B": "c"},
    "a colon in a name": {"X-A:": "b"},
    "a blank after a name": {"Host ": "localhost"},
    "a blank before a name": {" Host": "localhost"},
    "no name": {"": "a"},
    "a name in two spellings": {"X-A": "1", "x_a": "2"},
    "too many": {f"X-{n}": "a" for n in range(31)},
}
METHODS = ["CONNECT", "TRACE", "OPTIONS", "get", "GET / HTTP/1.1\r\nX:", "", "PURGE", "PROPFIND"]


@pytest.mark.parametrize("headers", [pytest.param(given, id=name) for name, given in HEADERS.items()])
async def test_no_header_lies_about_the_message(headers: dict[str, str]) -> None:
    async with Outside.open(says(reply())) as server:
        with pytest.raises(OutboundRefused) as refused:
            await sender(on_this_machine=True).get(server.url, headers=headers)
        assert (refused.value.code, await server.connected()) == ("header", 0)


@pytest.mark.parametrize("method", METHODS)
async def test_no_other_method_is_sent(method: str) -> None:
    async with Outside.open(says(reply())) as server:
        with pytest.raises(OutboundRefused, match="The methods are"):
            await sender(on_this_machine=True).send(method, server.url)
        assert await server.connected() == 0


@pytest.mark.parametrize(("method", "body"), [("GET", b"x"), ("HEAD", b"x"), ("POST", b"x" * 1_048_577)])
async def test_no_body_goes_where_none_belongs_or_past_its_cap(method: str, body: bytes) -> None:
    async with Outside.open(says(reply())) as server:
        with pytest.raises(OutboundRefused):
            await sender(on_this_machine=True).send(method, server.url, body=body)
        assert await server.connected() == 0


def packed(content: bytes, *, wbits: int) -> bytes:
    packer = zlib.compressobj(9, wbits=wbits)
    return packer.compress(content) + packer.flush()


ZEROS = b"\0" * 30_000_000
SMALL = replace(QUICK, max_body_bytes=100_000)
PACKED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"


def piece(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


BOMBS: dict[str, Any] = {
    "gzip": reply(200, packed(ZEROS, wbits=31), Content_Encoding="gzip"),
    "gzip under its old name": reply(200, packed(ZEROS, wbits=31), Content_Encoding="x-gzip"),
    "zlib": reply(200, packed(ZEROS, wbits=15), Content_Encoding="deflate"),
    "bare deflate": reply(200, packed(ZEROS, wbits=-15), Content_Encoding="deflate"),
    "gzip twice": reply(200, gzip.compress(gzip.compress(ZEROS)), Content_Encoding="gzip, gzip"),
    "gzip twice, in two headers": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    ),
    "brotli, which nobody asked for": reply(200, b"\xcf\xff\xff\x7f\xf8", Content_Encoding="br"),
    "zstandard, which nobody asked for": reply(200, b"\x28\xb5\x2f\xfd", Content_Encoding="zstd"),
    "what is not packed as it says": reply(200, b"\x1f\x8bnonsense and more", Content_Encoding="gzip"),
}


@pytest.mark.parametrize("bomb", [pytest.param(raw, id=name) for name, raw in BOMBS.items()])
async def test_no_bomb_is_unpacked(bomb: bytes) -> None:
    async with Outside.open(says(bomb)) as server:
        with pytest.raises(OutboundRefused, match="it is not read") as refused:
            await sender(on_this_machine=True).get(server.url)
        assert refused.value.code in ("size", "encoding")


async def test_a_bomb_after_an_effect_does_not_hide_the_effect() -> None:
    async with Outside.open(says(reply(201, packed(ZEROS, wbits=31), Content_Encoding="gzip"))) as server:
        answer = await sender(on_this_machine=True).send("POST", server.url, body=b"{}")
    assert (answer.status, answer.body, "it is not read" in answer.note) == (201, b"", True)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(says_without_end(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536), id="until the line is cut"),
        pytest.param(
            says_without_end(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", piece(b"x" * 65_536)),
            id="in pieces",
        ),
        pytest.param(
            says_without_end(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", b"x" * 65_536),
            id="as long as it says",
        ),
        pytest.param(
            says_without_end(PACKED + piece(gzip.compress(b"x")[:10]), piece(b"\0\0\0\xff\xff" * 10_000)),
            id="packed bytes that hold nothing",
        ),
    ],
)
async def test_a_body_without_end_ends_at_the_cap(handler: Any) -> None:
    async with Outside.open(handler) as server:
        answer = await sender(on_this_machine=True, limits=SMALL).get(server.url)
    assert (answer.is_whole, len(answer.body) <= 100_000) == (False, True)


@pytest.mark.parametrize(
    "handler",
    [
        pytest.param(says_and_waits(), id="no word"),
        pytest.param(says_and_waits(b"HTTP/1.1 200 OK\r\nContent-Le"), id="half a head"),
        pytest.param(says_and_waits(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"), id="half a body"),
        pytest.param(says_without_end(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), id="hints without end"),
        pytest.param(says_without_end(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), id="headers without end"),
        pytest.param(says(reply(200, b"x", X_A="a" * 200_000)), id="a header without end"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"), id="a body that breaks off"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), id="two lengths"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), id="no length of a piece"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nX\0Y: a\r\n\r\n"), id="NUL in a header"),
        pytest.param(says(b"220 ftp.example.com ready\r\n"), id="another protocol"),
        pytest.param(
            says(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), id="a switch"
        ),
        pytest.param(says(b""), id="a line that is cut"),
    ],
)
async def test_what_is_no_whole_answer_fails_in_time(handler: Any) -> None:
    async with Outside.open(handler) as server:
        with pytest.raises(OutboundFailed):
            await sender(on_this_machine=True, limits=IMPATIENT).get(server.url)


async def test_no_answer_is_left_for_the_next_who_asks() -> None:
    """A second answer behind the first would belong to the next request on a kept connection: none is kept."""
    poisoned = reply(200, b"first") + reply(200, b"poison")
    async with Outside.open(says(poisoned, reply(200, b"second"))) as server:
        client = sender(on_this_machine=True)
        assert [(await client.get(server.url)).body for _ in range(2)] == [b"first", b"second"]
        assert await server.connected() == 2


async def test_no_cookie_is_kept() -> None:
    async with Outside.open(says(reply(302, Location="/on", Set_Cookie="a=b; Path=/"), reply())) as server:
        client = sender(on_this_machine=True)
        await client.get(server.url)
        await client.get(server.url)
        assert [asked.header("cookie") for asked in server.asked] == [None] * 3


async def test_nothing_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with Outside.open(says(reply())) as server:
        await sender(on_this_machine=True).get(f"{server.url}/x?y=z")
        (asked,) = server.asked
    assert (asked.method, asked.target, asked.body) == ("GET", "/x?y=z", b"")
    assert {name.lower() for name, _ in asked.headers} == {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
    }
