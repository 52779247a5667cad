"""A chain of models over the real adapter, server and breaker: who answers when one is away, and what is not tried twice."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from infra.local.facts import StackFacts
from workers.model.chain import ModelChain, is_away
from workers.model.failures import (
    MalformedAnswer,
    ModelOverloaded,
    ModelRateLimited,
    ModelRefusedRequest,
    ModelUnreachable,
)
from workers.model.openai_wire import OpenAIModel
from workers.model.protocol import Allowance, Answer, Message, Role
from workers.outbound.breaker import FAILURES, PAUSE_SECONDS, Breaker


@pytest.fixture
async def breaker(stack: StackFacts) -> AsyncIterator[Breaker]:
    opened = Breaker(url=stack.upstash_url, token=stack.upstash_token)
    yield opened
    await opened.close()


@pytest.fixture
async def chain(rehearsal, breaker) -> AsyncIterator[ModelChain]:
    """Two models with names of their own, so that no other test's breaker is shut."""
    names = [f"{place}-{uuid4().hex[:8]}" for place in ("first", "second")]
    models = [OpenAIModel(name=name, api_key="rehearsal", base_url=rehearsal.base_url) for name in names]
    yield ModelChain(models=models, breaker=breaker)
    for model in models:
        await model.aclose()


async def answer(chain: ModelChain, user: str) -> Answer:
    items = [item async for item in chain.stream([Message(Role.USER, user)], [], allowed=Allowance(50))]
    assert isinstance(items[-1], Answer)
    return items[-1]


async def test_the_first_answers_and_is_named(rehearsal, chain) -> None:
    user = await rehearsal.one_turn("chain-first", 'say: "here"')
    assert (await answer(chain, user)).asked == chain.name == chain.names[0]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_the_next_answers_where_the_first_is_away(rehearsal, chain, status) -> None:
    user = await rehearsal.one_turn(f"chain-next-{status}", f'say: "here", fail: {{status: {status}, times: 1}}')
    told = await answer(chain, user)
    assert (told.text, told.asked) == ("here", chain.names[1])


async def test_what_is_wrong_with_the_request_is_tried_nowhere_else(rehearsal, chain) -> None:
    user = await rehearsal.one_turn("chain-wrong", "fail: {status: 400}")
    with pytest.raises(ModelRefusedRequest):
        await answer(chain, user)
    assert (await rehearsal.record(user))["scripts"][0]["played"] == [1]


async def test_a_model_that_failed_lately_is_not_asked(rehearsal, chain, breaker) -> None:
    for _ in range(FAILURES):
        await breaker.failed(None, chain.names[0])
    user = await rehearsal.one_turn("chain-shut", 'say: "here"')
    assert (await answer(chain, user)).asked == chain.names[1]
    assert (await rehearsal.record(user))["scripts"][0]["played"] == [1]


async def test_when_none_may_be_asked_it_says_when(rehearsal, chain, breaker) -> None:
    for name in chain.names:
        for _ in range(FAILURES):
            await breaker.failed(None, name)
    with pytest.raises(ModelUnreachable) as caught:
        await answer(chain, "anybody?")
    assert 0 < caught.value.retry_after_seconds <= PAUSE_SECONDS
    assert is_away(caught.value)


async def test_the_last_failure_is_told_when_all_fail_and_each_is_counted(rehearsal, chain, breaker) -> None:
    user = await rehearsal.one_turn("chain-none", "fail: {status: 503, retry_after: 3}")
    for _ in range(FAILURES):
        with pytest.raises(ModelOverloaded) as caught:
            await answer(chain, user)
        assert caught.value.retry_after_seconds == 3
    assert [await breaker.enter(None, name) > 0 for name in chain.names] == [True, True]


async def test_an_answer_forgives_earlier_failures(rehearsal, chain, breaker) -> None:
    for _ in range(FAILURES - 1):
        await breaker.failed(None, chain.names[0])
    await answer(chain, await rehearsal.one_turn("chain-forgives", 'say: "here"'))
    await breaker.failed(None, chain.names[0])
    assert await breaker.enter(None, chain.names[0]) == 0


def test_what_counts_as_away() -> None:
    assert is_away(ModelOverloaded("x"))
    assert is_away(ModelRateLimited("x"))
    assert not is_away(MalformedAnswer("x"))
    assert not is_away(ModelRefusedRequest("x", status=400))
