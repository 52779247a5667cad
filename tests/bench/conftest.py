"""A stack without workers, as the rows have it that bring their own, and the bench's person on it."""

from collections.abc import AsyncIterator

import pytest

from infra.bench.runs import Bench
from infra.cli.setting import home
from infra.local.attach import running_stack
from infra.local.stack import StackOptions
from tests.support.stack import FAST, temporary_state


@pytest.fixture(scope="module")
async def told() -> list[str]:
    """The progress that rows tell."""
    return []


@pytest.fixture(scope="module")
async def bench(told: list[str]) -> AsyncIterator[Bench]:
    """A person with an agent, and nobody who works."""
    with temporary_state() as state:
        options = StackOptions(state=state, home=home(), model=None, workers=0, postgres_settings=FAST)
        async with running_stack(options) as facts, Bench.open(facts, tell=told.append) as opened:
            yield opened
