"""Databases without the sample, which are cloned faster, and one world for all tests of a module that only look."""

from collections.abc import AsyncIterator

import pytest

from tests.database.tracker import Tracker
from tests.database.world import World
from tests.support.database import Template


@pytest.fixture(scope="session")
async def template(bare_template: Template) -> Template:
    """The platform and PAM, and nothing of a team's."""
    return bare_template


@pytest.fixture(scope="module")
async def world(template: Template) -> AsyncIterator[World]:
    """Two full organisations in a database of this module's own; tests leave it as it was."""
    async with template.clone() as database:
        yield await World.fill(database)


@pytest.fixture(scope="module")
async def tracker(sample_template: Template) -> AsyncIterator[Tracker]:
    """The sample with its tables open to agents, and three of its people with a run each."""
    async with sample_template.clone() as database:
        yield await Tracker.open(database)
