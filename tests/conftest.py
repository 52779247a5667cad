"""One real stack for the whole session, and databases cloned from a template: fast by default, nothing mocked."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.cli.setting import SCRIPTS, home
from infra.local.attach import running_stack
from infra.local.facts import StackFacts
from infra.local.stack import StackOptions
from infra.owner.rebuild import Rebuild
from tests.support.database import Database, Template
from tests.support.house import House, assert_every_run_is_valid
from tests.support.stack import FAST, temporary_state

# Tests never spend money: whatever the caller has set, no test sees it.
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "PAM_MODEL", "SUPABASE_URL"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
async def stack() -> AsyncIterator[StackFacts]:
    """The embedded stack with one worker, on a state folder of its own; or the one that PAM_TEST_STACK names.

    `pam test --mutations` keeps one stack and gives its state folder to every run of pytest.
    """
    if shared := os.environ.get("PAM_TEST_STACK"):
        running = StackFacts.read(Path(shared) / "stack.json")
        assert running is not None, "PAM_TEST_STACK names no stack that runs"
        yield running
        return
    with temporary_state() as state:
        options = StackOptions(
            state=state,
            home=home(),
            model=None,
            scripts=(SCRIPTS, Path(__file__).parent / "scripts"),
            postgres_settings=FAST,
            worker_environment=(("PAM_LEASE_SECONDS", "4"), ("PAM_SWEEP_SECONDS", "1")),
        )
        async with running_stack(options) as facts:
            yield facts
            await assert_every_run_is_valid(facts)
            gateway = (options.state / "logs" / "gateway.log").read_text()
        assert "Traceback" not in gateway, gateway
        assert "ERROR" not in gateway, gateway


@pytest.fixture(scope="session")
async def house(stack: StackFacts) -> AsyncIterator[House]:
    """Real people on the stack, and helpers to start and follow runs as them."""
    async with House.open(stack) as opened:
        yield opened


@pytest.fixture(scope="session")
async def sample_template(stack: StackFacts) -> Template:
    """A database with the platform, PAM and the sample, to clone."""
    return await Template.make(stack)


@pytest.fixture(scope="session")
async def template(sample_template: Template) -> Template:
    """What the tests of a folder clone unless the folder says otherwise."""
    return sample_template


@pytest.fixture(scope="session")
async def bare_template(stack: StackFacts) -> Template:
    """A database with the platform and PAM, and nothing of a team's."""
    return await Template.make(stack, name="pam_bare", with_sample=False)


@pytest.fixture(scope="session")
async def rebuild() -> AsyncIterator[Rebuild]:
    """One throw-away server for all schemas that are rebuilt."""
    rebuild = Rebuild()
    yield rebuild
    await rebuild.close()


@pytest.fixture
async def database(template: Template) -> AsyncIterator[Database]:
    """A database of this test's own."""
    async with template.clone() as cloned:
        yield cloned
