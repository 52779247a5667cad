"""The guarded client at work: what it sends, what it repeats, where it follows, and how it tells trouble."""

import asyncio
import gzip
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.outside import (
    IMPATIENT,
    QUICK,
    Asked,
    Outside,
    certified,
    reply,
    says,
    says_and_waits,
    sender,
)
from workers.kernel.errors import Unavailable
from workers.outbound.client import retry_after
from workers.outbound.credentials import Injection
from workers.outbound.failures import OutboundFailed, OutboundRefused
from workers.outbound.request import Request

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


async def test_a_request_arrives_as_it_was_asked() -> None:
    async with Outside.open(says(reply(201, '{"id": 7}', Content_Type="application/json"))) as server:
        answer = await sender(on_this_machine=True).send(
            "POST",
            f"{server.url}/v1/items?a=%20b&c=d",
            headers={"Content-Type": "application/json", "X-Trace": "t"},
            body=b'{"name": "x"}',
            idempotency_key="once",
        )
        (asked,) = server.asked
    assert (asked.method, asked.target, asked.body) == ("POST", "/v1/items?a=%20b&c=d", b'{"name": "x"}')
    told = {name.lower(): value for name, value in asked.headers}
    assert told == {
        "host": f"localhost:{server.port}",
        "user-agent": "PAM",
        "accept": "application/json, text/*;q=0.9, */*;q=0.5",
        "content-type": "application/json",
        "x-trace": "t",
        "idempotency-key": "once",
        "accept-encoding": "gzip, deflate",
        "connection": "close",
        "content-length": "13",
    }
    assert (answer.status, answer.body, answer.is_whole, answer.attempts) == (201, b'{"id": 7}', True, 1)
    assert answer.target.page == f"{server.url}/v1/items"


@pytest.mark.parametrize("method", ["GET", "HEAD", *UNSAFE])
async def test_only_what_may_have_an_effect_carries_a_key(method: str) -> None:
    async with Outside.open(says(reply())) as server:
        await sender(on_this_machine=True).send(method, server.url, idempotency_key="once")
        (asked,) = server.asked
    assert asked.header("idempotency-key") == ("once" if method in UNSAFE else None)
    assert asked.header("content-length") == ("0" if method in UNSAFE else None)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda content: zlib.compress(content)[2:-4]),
        ("identity", bytes),
    ],
)
async def test_packed_answers_are_unpacked(encoding: str, pack: Any) -> None:
    page = "Grüße, ".encode() * 1_000
    async with Outside.open(says(reply(200, pack(page), Content_Encoding=encoding))) as server:
        answer = await sender(on_this_machine=True).get(server.url)
    assert (answer.body, answer.is_whole) == (page, True)


async def test_a_head_of_a_packed_page_has_no_body() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 99\r\n\r\n"
    async with Outside.open(says(raw)) as server:
        answer = await sender(on_this_machine=True).send("HEAD", server.url)
    assert (answer.body, answer.is_whole, answer.header("content-length")) == (b"", True, "99")


async def test_a_body_past_the_cap_is_cut_there() -> None:
    async with Outside.open(says(reply(200, "x" * 1_001), reply(200, "x" * 1_000))) as server:
        client = sender(on_this_machine=True, limits=replace(QUICK, max_body_bytes=1_000))
        long, fits = await client.get(server.url), await client.get(server.url)
    assert ((len(long.body), long.is_whole), (len(fits.body), fits.is_whole)) == ((1_000, False), (1_000, True))


async def test_a_packed_body_is_cut_by_what_it_unpacks_to() -> None:
    page = "".join(f"line {n * 7919 % 10_007}\n" for n in range(15_000)).encode()
    async with Outside.open(says(reply(200, gzip.compress(page), Content_Encoding="gzip"))) as server:
        client = sender(on_this_machine=True, limits=replace(QUICK, max_body_bytes=100_000))
        answer = await client.get(server.url)
    assert len(gzip.compress(page)) < 100_000 < len(page)
    assert (answer.body, answer.is_whole) == (page[:100_000], False)


# Repeats


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "HEAD", *UNSAFE])
async def test_safe_methods_are_repeated_when_the_host_stumbles(method: str, status: int) -> None:
    async with Outside.open(says(reply(status), reply(status), reply(200))) as server:
        answer = await sender(on_this_machine=True).send(method, server.url)
        seen = await server.connected()
    is_safe = method not in UNSAFE
    assert (answer.status, answer.attempts, seen) == ((200, 3, 3) if is_safe else (status, 1, 1))


@pytest.mark.parametrize("status", [200, 400, 401, 404, 409, 500, 501])
async def test_an_answer_that_stands_is_not_asked_for_again(status: int) -> None:
    async with Outside.open(says(reply(status))) as server:
        answer = await sender(on_this_machine=True).get(server.url)
        assert (answer.status, await server.connected()) == (status, 1)


async def test_repeats_end() -> None:
    async with Outside.open(says(reply(503))) as server:
        answer = await sender(on_this_machine=True).get(server.url)
        assert (answer.status, answer.attempts, await server.connected()) == (503, 3, 3)


@pytest.mark.parametrize(
    ("method", "status", "times"), [("POST", 429, 2), ("GET", 429, 2), ("GET", 503, 2), ("POST", 503, 1)]
)
@pytest.mark.parametrize("after", ["0", "Fri, 01 Jan 2016 00:00:00 GMT"])
async def test_whoever_asks_to_be_asked_again_is_where_nothing_was_done(
    method: str, status: int, times: int, after: str
) -> None:
    async with Outside.open(says(reply(status, Retry_After=after), reply(201))) as server:
        answer = await sender(on_this_machine=True).send(method, server.url, idempotency_key="once")
        keys = [asked.header("idempotency-key") for asked in server.asked]
    assert (answer.status, len(keys)) == (201 if times == 2 else status, times)
    assert set(keys) == ({"once"} if method == "POST" else {None})


async def test_a_token_that_does_not_come_says_nothing_of_the_host_and_holds_nobody_up() -> None:
    async def never(_: str) -> Injection:
        await asyncio.Event().wait()
        raise AssertionError

    async def away(_: str) -> Injection:
        raise Unavailable("its token endpoint does not answer")

    async with Outside.open(says(reply(200))) as server:
        limits = replace(QUICK, total_seconds=0.5)
        with pytest.raises(OutboundFailed) as failed:
            await sender(on_this_machine=True, limits=limits).send("POST", server.url, inject=never)
        assert not failed.value.was_sent
        with pytest.raises(OutboundFailed, match="could not be opened") as failed:
            await sender(on_this_machine=True).send("POST", server.url, inject=away)
        assert (failed.value.was_sent, await server.connected()) == (False, 0)


@pytest.mark.parametrize("after", ["16", "99999999999", "Thu, 01 Jan 2099 00:00:00 GMT"])
async def test_whoever_asks_for_too_long_a_pause_is_left_alone(after: str) -> None:
    async with Outside.open(says(reply(503, Retry_After=after))) as server:
        answer = await sender(on_this_machine=True).get(server.url)
        assert (answer.status, await server.connected()) == (503, 1)


async def test_whoever_asks_for_a_pause_past_the_limit_is_answered_at_once() -> None:
    async with Outside.open(says(reply(503, Retry_After="1"))) as server:
        answer = await sender(on_this_machine=True, limits=replace(QUICK, total_seconds=0.5)).get(server.url)
        assert (answer.status, await server.connected()) == (503, 1)


def test_retry_after_is_a_number_or_a_date_or_nothing() -> None:
    soon = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True))
    assert soon is not None
    assert 55 < soon < 61
    assert (retry_after("7"), retry_after("0"), retry_after(None)) == (7, 0, None)
    assert [retry_after(odd) for odd in ("", "-1", "1.5", "soon", "٣", "Mon, 99 Nov 2026 00:00:00 GMT")] == [None] * 6


async def test_what_was_never_sent_is_tried_again_and_was_surely_not_done() -> None:
    async with Outside.open() as gone:
        pass
    client = sender(on_this_machine=True, names={"localhost": ["127.0.0.1"]})
    with pytest.raises(OutboundFailed, match="could not be reached") as failed:
        await client.send("POST", f"http://localhost:{gone.port}/", body=b"{}")
    assert (failed.value.was_sent, len(client.dialling.dialled)) == (False, 3)


@pytest.mark.parametrize("handler", [says_and_waits(), says_and_waits(b"HTTP/1.1 2"), says(b"")])
async def test_an_effect_that_nobody_answered_is_not_repeated_and_may_have_happened(handler: Any) -> None:
    async with Outside.open(handler) as server:
        with pytest.raises(OutboundFailed) as failed:
            await sender(on_this_machine=True, limits=IMPATIENT).send("POST", server.url, body=b"{}")
        assert (failed.value.was_sent, await server.connected()) == (True, 1)


async def test_a_safe_question_that_nobody_answered_is_asked_again() -> None:
    async with Outside.open(says(b"", reply(200, "here"))) as server:
        answer = await sender(on_this_machine=True).get(server.url)
        assert (answer.body, answer.attempts, await server.connected()) == (b"here", 2, 2)


async def test_an_effect_that_was_answered_counts_though_its_body_broke_off() -> None:
    async with Outside.open(says(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nhal")) as server:
        answer = await sender(on_this_machine=True).send("POST", server.url, body=b"{}")
    assert (answer.status, answer.body, answer.is_whole, answer.note) == (201, b"hal", False, "The body broke off.")


async def test_all_attempts_together_end_at_the_limit() -> None:
    async with Outside.open(says_and_waits()) as server:
        limits = replace(IMPATIENT, total_seconds=0.3, read_seconds=30)
        with pytest.raises(OutboundFailed, match="in time"):
            await sender(on_this_machine=True, limits=limits).get(server.url)
        assert await server.connected() == 1


# Redirects


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [
        *(("GET", status, "GET") for status in (301, 302, 303, 307, 308)),
        *(("HEAD", status, "HEAD") for status in (301, 302, 303, 307, 308)),
        *(("POST", status, "GET") for status in (301, 302, 303)),
        *(("POST", status, "POST") for status in (307, 308)),
        *((method, 303, "GET") for method in ("PUT", "PATCH", "DELETE")),
        *((method, status, method) for method in ("PUT", "PATCH", "DELETE") for status in (307, 308)),
        *((method, status, None) for method in ("PUT", "PATCH", "DELETE") for status in (301, 302)),
    ],
)
async def test_a_redirect_changes_the_method_as_it_should(method: str, status: int, then: str | None) -> None:
    body = None if method in ("GET", "HEAD") else b"{}"
    async with Outside.open(says(reply(status, Location="../on?x=y#top"), reply(200))) as server:
        answer = await sender(on_this_machine=True).send(
            method,
            f"{server.url}/a/b",
            body=body,
            headers={"Content-Type": "text/x"} if body else {},
            idempotency_key="k",
        )
        asked: list[Asked] = server.asked
    assert [one.method for one in asked] == [method, *([then] if then else [])]
    if then is None:
        assert answer.status == status
        return
    assert (answer.status, asked[1].target, asked[1].body) == (200, "/on?x=y", body if then == method and body else b"")
    assert asked[1].header("content-type") == ("text/x" if then == method and body else None)


async def test_five_redirects_are_followed() -> None:
    steps = [reply(302, Location=f"/{n}") for n in range(5)]
    async with Outside.open(says(*steps, reply(200, "end"))) as server:
        answer = await sender(on_this_machine=True).get(server.url)
    assert (answer.body, answer.target.path, answer.attempts) == (b"end", "/4", 6)


async def test_a_redirect_that_contradicts_itself_or_says_nothing_stands() -> None:
    twice = b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"
    async with Outside.open(says(twice, reply(302), reply(304, Location="/a"))) as server:
        client = sender(on_this_machine=True)
        assert [(await client.get(server.url)).status for _ in range(3)] == [302, 302, 304]
        assert await server.connected() == 3


async def test_what_took_effect_before_a_redirect_is_told_though_the_rest_failed() -> None:
    async with Outside.open(says(b"")) as broken, Outside.open(says(reply(303, Location=broken.url))) as server:
        answer = await sender(on_this_machine=True).send("POST", server.url, body=b"{}")
        assert (answer.status, "was not followed" in answer.note) == (303, True)
        assert len(server.asked) == 1
    async with Outside.open(says(reply(307, Location="/on"), b"")) as server:
        with pytest.raises(OutboundFailed) as failed:
            await sender(on_this_machine=True).send("POST", server.url, body=b"{}")
        assert failed.value.was_sent


# TLS


async def test_a_certificate_for_the_name_is_accepted_and_no_other(tmp_path: Path) -> None:
    tls, trust = certified(tmp_path, "localhost")
    other, trust_in_other = certified(tmp_path, "other.example.com")
    async with Outside.open(says(reply(200, "sealed")), tls=tls) as server:
        url = f"https://localhost:{server.port}/"
        answer = await sender(on_this_machine=True, trust=trust).get(url)
        assert (answer.body, answer.target.origin) == (b"sealed", url[:-1])
        for stranger in (sender(on_this_machine=True), sender(on_this_machine=True, trust=trust_in_other)):
            with pytest.raises(OutboundFailed, match="certificate was not accepted") as failed:
                await stranger.send("POST", url, body=b"{}")
            assert not failed.value.was_sent
        assert len(server.asked) == 1
    async with Outside.open(says(reply()), tls=other) as wrong:
        with pytest.raises(OutboundFailed, match="certificate was not accepted"):
            await sender(on_this_machine=True, trust=trust_in_other).get(f"https://localhost:{wrong.port}/")
        assert wrong.asked == []


async def test_tls_is_not_left_by_a_redirect(tmp_path: Path) -> None:
    tls, trust = certified(tmp_path, "localhost")
    async with Outside.open() as plain, Outside.open(says(reply(302, Location=plain.url)), tls=tls) as server:
        with pytest.raises(OutboundRefused, match="from https to http"):
            await sender(on_this_machine=True, trust=trust).get(f"https://localhost:{server.port}/")
        assert await plain.connected() == 0


async def test_no_secret_stands_in_what_a_log_would_show() -> None:
    from workers.outbound.credentials import Injection

    assert "hidden" not in repr(Injection(headers={"A": "hidden"}, query={"b": "hidden"}, secrets=("hidden",)))
    assert Request("GET", "https://example.com").is_safe
