"""A chain of models: the first that is not known to be down answers, the next one where it fails."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from workers.model.failures import MalformedAnswer, ModelFailure, ModelUnreachable
from workers.model.protocol import Allowance, Answer, Message, Model, Restarted, StreamItem, ToolSpec, Usage, both

WELL_SECONDS = 2.0  # so long after an answer the breaker is neither asked nor told


class Breaker(Protocol):
    """What all workers know of a model: whether it is left alone for a while (None: of no one organisation)."""

    async def enter(self, org_id: None, authority: str) -> float:
        """0: go ahead. Else the seconds for which it is left alone."""
        ...

    async def succeeded(self, org_id: None, authority: str) -> None:
        """It answered."""
        ...

    async def failed(self, org_id: None, authority: str) -> None:
        """It did not."""
        ...


class ModelChain:
    """A Model made of others, in the order of preference, each behind its breaker.

    What broken answers have cost is taken from what the next may. A request that no model would take is not tried
    elsewhere: only a failure that is the model's own leads on. When none answers, the last failure is raised; its
    `retry_after_seconds` says when one may be asked again.
    """

    def __init__(self, *, models: Sequence[Model], breaker: Breaker) -> None:
        self._models = tuple(models)
        self._breaker = breaker
        self._well_until: dict[str, float] = {}

    @property
    def name(self) -> str:
        """The name of the model that is asked first."""
        return self._models[0].name

    @property
    def names(self) -> tuple[str, ...]:
        """Every model that may answer."""
        return tuple(model.name for model in self._models)

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, allowed: Allowance
    ) -> AsyncGenerator[StreamItem, None]:
        """Answer as the first model that can."""
        lost: Usage | None = None
        last: ModelFailure | None = None
        soonest: float | None = None
        for model in self._models:
            remaining = allowed.after(lost)
            if remaining is None:
                break
            if wait := await self._wait(model.name):
                soonest = wait if soonest is None else min(soonest, wait)
                continue
            has_spoken = False
            try:
                async with aclosing(model.stream(messages, tools, allowed=remaining)) as items:
                    async for item in items:
                        if isinstance(item, Answer):
                            await self._answered(model.name)
                            yield item.besides(lost, asked=model.name)
                            return
                        has_spoken = not isinstance(item, Restarted)
                        yield item
            except ModelFailure as failure:
                if not is_away(failure):
                    failure.lost_usage = both(failure.lost_usage, lost)
                    raise
                self._well_until.pop(model.name, None)
                await self._breaker.failed(None, model.name)
                last, lost = failure, both(failure.lost_usage, lost)
            if has_spoken:
                yield Restarted()
        if last is None:
            sentence = f"{', '.join(self.names)} failed lately and is left alone for {soonest:.0f} s."
            raise ModelUnreachable(sentence, retry_after_seconds=soonest)
        last.lost_usage = lost
        raise last

    async def _wait(self, name: str) -> float:
        """How long to leave a model alone; one that has just answered is not asked about."""
        return 0 if time.monotonic() < self._well_until.get(name, 0) else await self._breaker.enter(None, name)

    async def _answered(self, name: str) -> None:
        if time.monotonic() >= self._well_until.get(name, 0):
            await self._breaker.succeeded(None, name)
            self._well_until[name] = time.monotonic() + WELL_SECONDS


def is_away(failure: ModelFailure) -> bool:
    """Whether the model is away or overrun, and not what was asked or answered at fault."""
    return failure.is_transient and not isinstance(failure, MalformedAnswer)
