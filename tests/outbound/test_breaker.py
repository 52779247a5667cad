"""The breaker: shared by all workers, one per organisation and host, and no reason to fail when Redis is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import redis as client

from infra.local.facts import StackFacts
from tests.support.outside import Outside, reply, says, sender
from workers.kernel.errors import Unavailable
from workers.outbound.breaker import FAILURES, PAUSE_SECONDS, Breaker
from workers.outbound.credentials import Injection
from workers.outbound.failures import OutboundFailed, OutboundRefused

HOST = "api.example.com"


@pytest.fixture
async def breaker(stack: StackFacts) -> AsyncIterator[Breaker]:
    opened = Breaker(url=stack.upstash_url, token=stack.upstash_token)
    yield opened
    await opened.close()


def rewound(stack: StackFacts, key: str) -> None:
    """The pause is over: what would take half a minute of waiting."""
    server = client.Redis.from_url(stack.redis_url)
    assert server.hexists(key, "shut_until")
    server.hset(key, "shut_until", "1")
    server.close()


async def test_five_failures_in_a_row_shut_the_way_and_four_do_not(breaker: Breaker) -> None:
    org = uuid4()
    for _ in range(FAILURES - 1):
        await breaker.failed(org, HOST)
        assert await breaker.enter(org, HOST) == 0
    await breaker.failed(org, HOST)
    assert PAUSE_SECONDS - 5 < await breaker.enter(org, HOST) <= PAUSE_SECONDS


async def test_a_success_in_between_forgives(breaker: Breaker) -> None:
    org = uuid4()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            await breaker.failed(org, HOST)
        await breaker.succeeded(org, HOST)
    assert await breaker.enter(org, HOST) == 0


async def test_after_the_pause_one_may_try_and_the_others_wait(breaker: Breaker, stack: StackFacts) -> None:
    org = uuid4()
    for _ in range(FAILURES):
        await breaker.failed(org, HOST)
    rewound(stack, f"pam:{org}:breaker:{HOST}")
    pauses = await asyncio.gather(*(breaker.enter(org, HOST) for _ in range(12)))
    assert sorted(pause == 0 for pause in pauses) == [False] * 11 + [True]
    await breaker.failed(org, HOST)  # the one that tried
    assert await breaker.enter(org, HOST) > 0
    rewound(stack, f"pam:{org}:breaker:{HOST}")
    assert await breaker.enter(org, HOST) == 0
    await breaker.succeeded(org, HOST)
    assert [await breaker.enter(org, HOST) for _ in range(3)] == [0, 0, 0]


async def test_no_organisation_shuts_the_way_of_another_nor_a_host_that_of_its_neighbour(breaker: Breaker) -> None:
    one, other = uuid4(), uuid4()
    for _ in range(FAILURES):
        await breaker.failed(one, HOST)
    assert await breaker.enter(one, HOST) > 0
    assert await breaker.enter(other, HOST) == 0
    assert await breaker.enter(one, f"{HOST}:8443") == 0


async def test_its_keys_end_by_themselves(breaker: Breaker, stack: StackFacts) -> None:
    org = uuid4()
    await breaker.failed(org, HOST)
    server = client.Redis.from_url(stack.redis_url)
    assert 0 < server.ttl(f"pam:{org}:breaker:{HOST}") <= 60
    for _ in range(FAILURES):
        await breaker.failed(org, HOST)
    assert PAUSE_SECONDS <= server.ttl(f"pam:{org}:breaker:{HOST}") <= 60
    assert server.keys(f"pam:{org}:*") == [f"pam:{org}:breaker:{HOST}".encode()]
    server.close()


async def test_without_redis_the_way_is_open() -> None:
    away = Breaker(url="http://127.0.0.1:9", token="x")
    assert await away.enter(uuid4(), HOST) == 0
    await away.failed(uuid4(), HOST)
    await away.succeeded(uuid4(), HOST)
    await away.close()


@pytest.mark.parametrize("trouble", [reply(500), reply(503), b"", b"no http\r\n\r\n"])
async def test_a_host_that_keeps_failing_is_left_alone(breaker: Breaker, trouble: bytes) -> None:
    async with Outside.open(says(trouble)) as server:
        guarded = sender(on_this_machine=True, breaker=breaker)
        for _ in range(FAILURES):
            with contextlib.suppress(OutboundFailed):
                await guarded.send("POST", server.url, body=b"{}")
        with pytest.raises(OutboundFailed, match="left alone for") as failed:
            await guarded.send("POST", server.url, body=b"{}")
        assert (failed.value.was_sent, await server.connected()) == (False, FAILURES)


@pytest.mark.parametrize("answer", [reply(200), reply(404), reply(429)])
async def test_a_host_that_answers_is_not(breaker: Breaker, answer: bytes) -> None:
    async with Outside.open(says(answer)) as server:
        guarded = sender(on_this_machine=True, breaker=breaker)
        for _ in range(FAILURES + 2):
            await guarded.send("POST", server.url, body=b"{}")
        assert await server.connected() == FAILURES + 2


async def test_what_a_rule_refuses_is_nobodys_failure(breaker: Breaker) -> None:
    guarded = sender(names={HOST: ["10.0.0.1"]}, breaker=breaker)
    for _ in range(FAILURES + 1):
        with pytest.raises(OutboundRefused):
            await guarded.get(f"https://{HOST}/")
    assert await breaker.enter(guarded.org_id, HOST) == 0


async def test_a_success_opens_the_way_again(breaker: Breaker, stack: StackFacts) -> None:
    async with Outside.open(says(*[reply(500)] * FAILURES, reply(200, "well again"))) as server:
        guarded = sender(on_this_machine=True, breaker=breaker)
        for _ in range(FAILURES):
            await guarded.get(server.url)
        rewound(stack, f"pam:{guarded.org_id}:breaker:localhost:{server.port}")
        assert [(await guarded.get(server.url)).body for _ in range(3)] == [b"well again"] * 3


async def test_a_connection_that_does_not_open_is_not_held_against_the_host(breaker: Breaker) -> None:
    async def away(_: str) -> Injection:
        raise Unavailable("its token endpoint does not answer")

    async with Outside.open(says(reply())) as server:
        client = sender(on_this_machine=True, breaker=breaker)
        for _ in range(FAILURES):
            with pytest.raises(OutboundFailed, match="could not be opened"):
                await client.get(server.url, inject=away)
        assert (await client.get(server.url)).status == 200
