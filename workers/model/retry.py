"""The one level at which a call to a provider is tried again: full-jitter back-off, within a bound of time."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from workers.model.estimate import estimated_usage
from workers.model.failures import MalformedAnswer, ModelFailure, ModelTimeout
from workers.model.protocol import (
    Allowance,
    Answer,
    Message,
    Model,
    Restarted,
    StreamItem,
    ToolSpec,
    Usage,
    both,
)


@dataclass(frozen=True)
class Retries:
    """How often a call is tried, and how long in all.

    A pause is uniform in [0, base * 2^n], capped (AWS Architecture Blog, "Exponential Backoff and Jitter");
    where the server asked for a wait, that wait comes first and the jitter after it. A wait that would pass
    `total_seconds` is not begun.
    """

    max_attempts: int = 4
    total_seconds: float = 300.0
    base_pause_seconds: float = 0.5
    max_pause_seconds: float = 20.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform
    monotonic: Callable[[], float] = time.monotonic


class Attempts:
    """The attempts of one call, from now on."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._ends_at = retries.monotonic() + retries.total_seconds
        self._failed = 0

    def time_left(self) -> asyncio.Timeout:
        """A block that raises TimeoutError at the end of the whole call's time."""
        return asyncio.timeout(self._ends_at - self._retries.monotonic())

    def pause_seconds(self, failure: ModelFailure) -> float | None:
        """Count a failed attempt: how long to wait before the next, None when there is none."""
        self._failed += 1
        ceiling = min(self._retries.max_pause_seconds, self._retries.base_pause_seconds * 2 ** (self._failed - 1))
        pause = (failure.retry_after_seconds or 0.0) + self._retries.uniform(0.0, ceiling)
        out_of_time = self._retries.monotonic() + pause >= self._ends_at
        if not failure.is_transient or self._failed >= self._retries.max_attempts or out_of_time:
            return None
        return pause


class RetryingModel:
    """A Model that repeats transient failures of another.

    Where no wait fits any more, or what broken answers have cost leaves too little for another, the failure is raised,
    and its `retry_after_seconds` tells the caller when to come back. The same bound cuts an answer that never ends. An
    attempt that had given deltas out is repeated too, behind a Restarted item.
    """

    def __init__(self, *, model: Model, retries: Retries) -> None:
        self._model = model
        self._retries = retries

    @property
    def name(self) -> str:
        """The name of the model behind."""
        return self._model.name

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, allowed: Allowance
    ) -> AsyncGenerator[StreamItem, None]:
        """Answer as the model behind does; raises its last failure when attempts or time have run out."""
        attempts = Attempts(self._retries)
        lost: Usage | None = None
        remaining = allowed
        while True:
            given: list[str] = []
            try:
                async with aclosing(self._model.stream(messages, tools, allowed=remaining)) as items:
                    while True:
                        item = await self._next(items, attempts)
                        if isinstance(item, Answer):
                            yield replace(item, lost_usage=both(lost, item.lost_usage))
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
            lost = both(lost, failure.lost_usage)
            pause_seconds = attempts.pause_seconds(failure)
            left = allowed.after(lost)
            if pause_seconds is None or left is None:
                failure.lost_usage = lost
                failure.lacks_allowance = pause_seconds is not None
                raise failure
            remaining = left
            if given:
                yield Restarted()
            await self._retries.sleep(pause_seconds)

    async def _next(self, items: AsyncGenerator[StreamItem, None], attempts: Attempts) -> StreamItem:
        """The next item, or ModelTimeout at the end of the whole call's time."""
        try:
            # The time-out spans one await and never a yield: a generator may be left and closed elsewhere.
            async with attempts.time_left():
                return await anext(items)
        except TimeoutError:
            sentence = f"The model's answer was not whole after {self._retries.total_seconds:g} seconds in all."
        except StopAsyncIteration:
            raise MalformedAnswer("The model's stream ended without an answer.") from None
        raise ModelTimeout(sentence)
