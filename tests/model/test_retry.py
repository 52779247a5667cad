"""The one retry level, over the real adapter and server; only the pauses are recorded, not slept."""

import pytest

from workers.model.failures import (
    MalformedAnswer,
    ModelOverloaded,
    ModelRateLimited,
    ModelRefusedRequest,
    ModelTimeout,
)
from workers.model.protocol import Allowance, Answer, Message, Restarted, Role, TextDelta
from workers.model.retry import Retries, RetryingModel


class Pauses(list):
    """Records what was slept, and moves the clock by it."""

    now = 1000.0

    async def sleep(self, seconds: float) -> None:
        self.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def retrying(model, pauses):
    def build(behind=model, **settings: object) -> RetryingModel:
        settings = {"uniform": lambda low, high: high, **settings}
        retries = Retries(sleep=pauses.sleep, monotonic=pauses.monotonic, **settings)
        return RetryingModel(model=behind, retries=retries)

    return build


async def items_of(model, user):
    return [item async for item in model.stream([Message(Role.USER, user)], [], allowed=Allowance(50))]


async def test_a_short_overload_is_waited_out_with_growing_pauses(rehearsal, retrying, pauses):
    user = await rehearsal.one_turn("short-overload", 'say: "here", fail: {status: 503, times: 3}')
    items = await items_of(retrying(), user)
    assert [item.text for item in items] == ["here", "here"]
    assert pauses == [0.5, 1.0, 2.0]
    assert items[-1].lost_usage is None


async def test_a_pause_is_jittered_over_its_whole_length(rehearsal, retrying, pauses):
    asked = []
    user = await rehearsal.one_turn("jitter", 'say: "here", fail: {status: 500, times: 3}')
    model = retrying(uniform=lambda low, high: asked.append((low, high)) or 0.0, max_pause_seconds=0.7)
    await items_of(model, user)
    assert asked == [(0.0, 0.5), (0.0, 0.7), (0.0, 0.7)]
    assert pauses == [0.0, 0.0, 0.0]


async def test_the_fourth_failure_is_the_last(rehearsal, retrying, pauses):
    user = await rehearsal.one_turn("always-overloaded", "fail: {status: 500}")
    with pytest.raises(ModelOverloaded):
        await items_of(retrying(), user)
    assert len(pauses) == 3
    assert (await rehearsal.record(user))["scripts"][0]["played"] == [4]


async def test_the_wait_that_a_server_asks_for_is_kept(rehearsal, retrying, pauses):
    user = await rehearsal.one_turn("asked-wait", 'say: "here", fail: {status: 429, retry_after: 7, times: 1}')
    await items_of(retrying(), user)
    assert pauses == [7.5]


async def test_a_wait_beyond_the_bound_is_handed_to_the_caller_at_once(rehearsal, retrying, pauses):
    user = await rehearsal.one_turn("long-wait", "fail: {status: 429, retry_after: 600}")
    with pytest.raises(ModelRateLimited) as caught:
        await items_of(retrying(), user)
    assert caught.value.retry_after_seconds == 600
    assert pauses == []


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_what_will_not_help_is_not_repeated(rehearsal, retrying, pauses, status):
    user = await rehearsal.one_turn(f"never-{status}", f"fail: {{status: {status}}}")
    with pytest.raises(ModelRefusedRequest):
        await items_of(retrying(), user)
    assert pauses == []


async def test_an_answer_that_broke_off_begins_again_behind_a_mark_and_its_cost_is_kept(rehearsal, retrying):
    user = await rehearsal.one_turn("cut-once", 'say: "one two", cut: text, trouble_times: 1')
    items = await items_of(retrying(), user)
    assert items[:4] == [TextDelta("one "), Restarted(), TextDelta("one "), TextDelta("two")]
    answer = items[4]
    assert isinstance(answer, Answer)
    assert answer.text == "one two"
    assert answer.lost_usage.is_estimated
    assert answer.lost_usage.output_tokens == 2
    assert answer.lost_usage.input_tokens > 0


async def test_all_broken_attempts_are_summed_in_the_last_failure(rehearsal, retrying):
    user = await rehearsal.one_turn("cut-always", 'say: "one two", cut: text')
    with pytest.raises(MalformedAnswer) as caught:
        await items_of(retrying(max_attempts=3), user)
    assert caught.value.lost_usage.output_tokens == 3 * 2


async def test_broken_attempts_together_use_no_more_than_the_call_may(rehearsal, retrying, pauses):
    user = await rehearsal.one_turn("cut-and-out", 'say: "one two", cut: text')
    stream = retrying(max_attempts=20).stream(
        [Message(Role.USER, user)], [], allowed=Allowance(160, input_tokens=20, total_tokens=200)
    )
    with pytest.raises(MalformedAnswer) as caught:
        [item async for item in stream]
    # Of 200 tokens each attempt loses 10 or so; the next sends 20 more and may write 128 at least.
    lost = caught.value.lost_usage
    assert 200 - lost.input_tokens - lost.output_tokens < 20 + 128
    assert caught.value.lacks_allowance
    assert len(pauses) < 8


async def test_no_mark_is_given_where_nothing_was_told(rehearsal, retrying):
    user = await rehearsal.one_turn("cut-call-once", "call: [{t: {a: b}}], cut: tool_call, trouble_times: 1")
    items = await items_of(retrying(), user)
    assert [type(item) for item in items] == [Answer]
    assert items[0].lost_usage is not None


async def test_an_answer_without_end_is_cut_at_the_bound_of_the_whole_call(rehearsal, retrying):
    user = await rehearsal.one_turn("endless", 'say: "one", hang_seconds: 60')
    with pytest.raises(ModelTimeout, match=r"0\.4 seconds in all") as caught:
        await items_of(retrying(total_seconds=0.4, max_attempts=1), user)
    assert caught.value.lost_usage.output_tokens == 1
    await rehearsal.until_abandoned(user)


async def test_leaving_early_hangs_up_through_the_retries(rehearsal, retrying):
    user = await rehearsal.one_turn("left-early", 'say: "one", hang_seconds: 60')
    stream = retrying().stream([Message(Role.USER, user)], [], allowed=Allowance(9))
    assert await anext(stream) == TextDelta("one")
    await stream.aclose()
    await rehearsal.until_abandoned(user)
