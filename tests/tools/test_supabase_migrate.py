"""supabase_migrate: a change is proposed, tried, shown, approved and applied as the Supabase CLI would, or refused."""

from collections.abc import AsyncIterator

import pytest

from infra.local.facts import StackFacts
from infra.owner.rebuild import Rebuild
from tests.support.database import Template
from tests.support.migrations import NOTES, Project


@pytest.fixture(scope="module")
async def rebuild() -> AsyncIterator[Rebuild]:
    """One throw-away server for the module."""
    rebuild = Rebuild()
    yield rebuild
    await rebuild.close()


@pytest.fixture
async def project(template: Template, stack: StackFacts, rebuild: Rebuild) -> AsyncIterator[Project]:
    """The sample with an operator."""
    async with template.clone() as database, Project.open(database, stack, rebuild) as opened:
        yield opened


async def test_a_change_goes_from_proposal_to_the_history_and_the_workspace(project: Project) -> None:
    change, text = await project.checked(NOTES, name="notes")
    print(text)
    assert "· checked ·" in text
    status, said = await project.bench.agreed("supabase_migrate", action="apply", change=change)
    print(status, said)
    assert status == "succeeded"
    row = await project.row(change)
    history = await project.database.admin("select * from supabase_migrations.schema_migrations")
    print(history)
    assert [(one["version"], one["name"]) for one in history] == [(row["version"], "notes")]
    status, said = await project.bench.use("supabase_migrate", action="status")
    print(said)
