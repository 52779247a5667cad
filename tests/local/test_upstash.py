"""The Upstash face, with Upstash's own client against a real Redis."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from upstash_redis.asyncio import Redis
from upstash_redis.errors import UpstashError


@pytest.fixture
async def redis(platform: Any) -> AsyncIterator[Redis]:
    async with Redis(url=platform.upstash_url, token=platform.upstash_token, allow_telemetry=False) as client:
        yield client


@pytest.fixture
def key() -> str:
    return f"test:{uuid.uuid4().hex}"


async def test_values_of_every_kind_come_back_as_they_went_in(redis: Redis, key: str) -> None:
    assert await redis.set(key, "grüße OK \n 🌍", ex=60)
    assert await redis.get(key) == "grüße OK \n 🌍"
    assert 0 < await redis.ttl(key) <= 60
    assert not await redis.set(key, "other", nx=True)
    assert await redis.get(f"{key}:absent") is None
    await redis.set(f"{key}:ok", "OK")
    assert await redis.get(f"{key}:ok") == "OK"
    assert await redis.incrby(f"{key}:n", 41) == 41
    assert await redis.hset(f"{key}:h", values={"a": "1", "ä": "2"}) == 2
    assert await redis.hgetall(f"{key}:h") == {"a": "1", "ä": "2"}
    assert await redis.zadd(f"{key}:z", {"one": 1, "half": 0.5}) == 2
    assert await redis.zrange(f"{key}:z", 0, -1, withscores=True) == [("half", 0.5), ("one", 1.0)]
    assert await redis.eval("return {ARGV[1], 7, {KEYS[1]}}", keys=[key], args=["x"]) == ["x", 7, [key]]
    assert sorted(await redis.keys(f"{key}*")) == sorted([key, *(f"{key}:{s}" for s in ("ok", "n", "h", "z"))])


async def test_a_pipeline_answers_each_command_also_when_one_fails(redis: Redis, key: str, platform: Any) -> None:
    pipeline = redis.pipeline()
    pipeline.set(key, "a")
    pipeline.get(key)
    pipeline.incr(f"{key}:n")
    assert await pipeline.exec() == [True, "a", 1]
    headers = {"Authorization": f"Bearer {platform.upstash_token}"}
    async with httpx.AsyncClient(headers=headers) as http:
        answer = await http.post(f"{platform.upstash_url}/pipeline", json=[["INCR", key], ["GET", key], ["NOPE"]])
    failed, plain, unknown = answer.json()
    assert failed["error"].startswith("ERR value is not an integer")
    assert plain == {"result": "a"}
    assert "unknown command" in unknown["error"]


async def test_a_transaction_is_applied_whole_or_not_at_all(redis: Redis, key: str) -> None:
    transaction = redis.multi()
    transaction.set(key, "1")
    transaction.incr(key)
    assert await transaction.exec() == [True, 2]
    broken = redis.multi()
    broken.set(key, "lost")
    broken.execute(["NO_SUCH_COMMAND"])
    with pytest.raises(UpstashError, match="unknown command"):
        await broken.exec()
    assert await redis.get(key) == "2"


async def test_an_error_of_redis_is_told_in_its_own_words(redis: Redis, key: str) -> None:
    await redis.set(key, "text")
    with pytest.raises(UpstashError, match="WRONGTYPE"):
        await redis.lpush(key, "x")


@pytest.mark.parametrize("command", ["SUBSCRIBE", "multi", "BLPOP", "CONFIG", "shutdown", "SELECT"])
async def test_commands_that_would_hold_or_change_a_connection_are_refused(redis: Redis, command: str) -> None:
    with pytest.raises(UpstashError, match="not available"):
        await redis.execute([command, "1", "1"])


async def test_callers_do_not_see_each_others_replies(redis: Redis, key: str) -> None:
    async def own(number: int) -> bool:
        await redis.set(f"{key}:{number}", str(number))
        return await redis.get(f"{key}:{number}") == str(number)

    assert all(await asyncio.gather(*(own(number) for number in range(50))))


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_without_the_token_nothing_is_done(platform: Any, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers) as http:
        for path in ("", "/", "/pipeline", "/multi-exec"):
            answer = await http.post(platform.upstash_url + path, json=["PING"])
            assert answer.status_code == 401
            assert "error" in answer.json()


@pytest.mark.parametrize("body", ["", "{", "{}", "[]", "[[]]", "[1]", '"PING"', "[" * 5000])
async def test_a_malformed_body_is_answered_with_an_error(platform: Any, body: str) -> None:
    headers = {"Authorization": f"Bearer {platform.upstash_token}"}
    async with httpx.AsyncClient(headers=headers) as http:
        for path in ("", "/pipeline", "/multi-exec"):
            answer = await http.post(platform.upstash_url + path, content=body)
            assert answer.status_code == 400
            assert answer.json()["error"].startswith("ERR")
