"""A stack that runs for the whole room, and homes where nothing runs yet."""

from collections.abc import AsyncIterator, Iterator

import pytest

from infra.cli.setting import SCRIPTS
from infra.local.attach import running_stack
from infra.local.stack import StackOptions
from tests.cli.command import Pam, assert_gone, new_home, stack_processes


@pytest.fixture(scope="package")
async def pam() -> AsyncIterator[Pam]:
    """The command of somebody whose stack runs already; at the end nothing of it is left."""
    with new_home() as command:
        async with running_stack(StackOptions(state=command.state, home=command.home, model=None, scripts=(SCRIPTS,))):
            facts = command.facts
            assert facts is not None
            processes = stack_processes(facts)
            yield command
        await assert_gone(processes)


@pytest.fixture
def newcomer() -> Iterator[Pam]:
    """The command of somebody who has never run it."""
    with new_home() as command:
        yield command
