"""A stack that runs for the whole room, and homes where nothing runs yet."""

from collections.abc import AsyncIterator, Iterator

import pytest

from infra.cli.setting import SCRIPTS
from infra.local.attach import running_stack
from infra.local.stack import StackOptions
from tests.cli.command import Pam, assert_gone, new_home, stack_processes
from tests.support.stack import FAST


@pytest.fixture(scope="package")
async def pam() -> AsyncIterator[Pam]:
    """The command of somebody whose stack runs already; at the end nothing of it is left."""
    with new_home() as command:
        options = StackOptions(
            state=command.state,
            home=command.home,
            model=None,
            scripts=(SCRIPTS,),
            postgres_settings=FAST,
            worker_environment=(("PAM_SWEEP_SECONDS", "1"),),
        )
        async with running_stack(options):
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
