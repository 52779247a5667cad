"""The one level at which a call to a model is tried again: full-jitter back-off, within a bound of time."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from workers.model.estimate import estimated_usage
from workers.model.failures import MalformedAnswer, ModelFailure, ModelTimeout
from workers.model.protocol import (
    Answer,
    Message,
    Model,
    Restarted,
    StreamItem,
    ToolSpec,
    Usage,
)


class RetryingModel:
    """A Model that repeats transient failures of another.

    A pause is uniform in [0, base * 2^n], capped (AWS Architecture Blog, "Exponential Backoff and Jitter");
    where the server asked for a wait, that wait comes first and the jitter after it. A wait that would pass
    `total_seconds` is not begun: the failure is raised, and its `retry_after_seconds` tells the caller when
    to come back. The same bound cuts an answer that never ends. An attempt that had given deltas out is
    repeated too, behind a Restarted item.
    """

    def __init__(
        self,
        *,
        model: Model,
        max_attempts: int = 4,
        total_seconds: float = 300.0,
        base_pause_seconds: float = 0.5,
        max_pause_seconds: float = 20.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._max_attempts = max_attempts
        self._total_seconds = total_seconds
        self._base_pause_seconds = base_pause_seconds
        self._max_pause_seconds = max_pause_seconds
        self._sleep = sleep
        self._uniform = uniform
        self._monotonic = monotonic

    @property
    def name(self) -> str:
        """The name of the model behind."""
        return self._model.name

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, max_output_tokens: int
    ) -> AsyncGenerator[StreamItem, None]:
        """Answer as the model behind does; raises its last failure when attempts or time have run out."""
        ends_at = self._monotonic() + self._total_seconds
        lost: Usage | None = None
        attempt = 0
        while True:
            attempt += 1
            given: list[str] = []
            try:
                async with aclosing(self._model.stream(messages, tools, max_output_tokens=max_output_tokens)) as items:
                    while True:
                        item = await self._next(items, ends_at)
                        if isinstance(item, Answer):
                            yield replace(item, lost_usage=_sum(lost, item.lost_usage))
                            return
                        if isinstance(item, Restarted):
                            given.clear()
                        else:
                            given.append(item.text)
                        yield item
            except ModelFailure as caught:
                failure = caught
            if failure.lost_usage is None and given:
                failure.lost_usage = estimated_usage(messages, tools, output_text="".join(given))
            lost = _sum(lost, failure.lost_usage)
            pause_seconds = self._pause_seconds(attempt, failure)
            out_of_time = self._monotonic() + pause_seconds >= ends_at
            if not failure.is_transient or attempt >= self._max_attempts or out_of_time:
                failure.lost_usage = lost
                raise failure
            if given:
                yield Restarted()
            await self._sleep(pause_seconds)

    async def _next(self, items: AsyncGenerator[StreamItem, None], ends_at: float) -> StreamItem:
        """The next item, or ModelTimeout at the end of the whole call's time."""
        try:
            # The time-out spans one await and never a yield: a generator may be left and closed elsewhere.
            async with asyncio.timeout(ends_at - self._monotonic()):
                return await anext(items)
        except TimeoutError:
            sentence = f"The model's answer was not whole after {self._total_seconds:g} seconds in all."
        except StopAsyncIteration:
            raise MalformedAnswer("The model's stream ended without an answer.") from None
        raise ModelTimeout(sentence)

    def _pause_seconds(self, attempt: int, failure: ModelFailure) -> float:
        ceiling = min(self._max_pause_seconds, self._base_pause_seconds * 2 ** (attempt - 1))
        return (failure.retry_after_seconds or 0.0) + self._uniform(0.0, ceiling)


def _sum(one: Usage | None, other: Usage | None) -> Usage | None:
    if one is None or other is None:
        return one or other
    return one + other
