"""A bench for every tool: one claimed run, and its services."""

from collections.abc import AsyncIterator

import pytest

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from tests.support.database import Template
from workers.tools.bound_sql import SqlLimits


@pytest.fixture(scope="module")
async def first_bench(template: Template, stack: StackFacts) -> AsyncIterator[Bench]:
    """A database and the services of a module's tests; a statement may take one second."""
    async with template.clone() as cloned, Bench.open(cloned, stack, limits=SqlLimits(statement_seconds=1)) as opened:
        yield opened


@pytest.fixture
async def bench(first_bench: Bench) -> Bench:
    """A new person's run in its worker's hands."""
    return await first_bench.elsewhere()
