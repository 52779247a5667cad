"""One world for all tests of a module that only look."""

from collections.abc import AsyncIterator

import pytest

from tests.database.world import World
from tests.support.database import Template


@pytest.fixture(scope="module")
async def world(template: Template) -> AsyncIterator[World]:
    """Two full organisations in a database of this module's own; tests leave it as it was."""
    async with template.clone() as database:
        yield await World.fill(database)
