"""A project whose schema an agent may change: a bench, a trusted organisation, and a real operator beside it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from infra.local.facts import StackFacts
from infra.owner.process import Operator
from infra.owner.rebuild import Rebuild
from infra.owner.trial import OperatorLimits
from tests.support.bench import Bench
from tests.support.database import Database

QUICK = OperatorLimits(lock_seconds=0.3, statement_seconds=5, max_rows=1000)
NOTES = """
create table public.notes (
  id uuid primary key default gen_random_uuid(),
  owner_id uuid not null default auth.uid() references auth.users (id) on delete cascade,
  body text not null check (char_length(body) <= 4000)
);
create index notes_of_owner on public.notes (owner_id);
alter table public.notes enable row level security;
create policy "People read their own notes" on public.notes for select to authenticated using (owner_id = (select auth.uid()));
"""


@dataclass
class Project:
    """One database with its operator; `bench` is a run of a trusted organisation's owner."""

    database: Database
    bench: Bench

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database, facts: StackFacts, rebuild: Rebuild | None) -> AsyncIterator["Project"]:
        """Trust a new organisation, and let an operator work until the end."""
        async with Bench.open(database, facts) as bench, operating(database, rebuild):
            await trust(database, bench.org_id)
            yield cls(database, bench)

    async def proposed(self, sql: str, *, name: str = "change", **arguments: Any) -> str:
        """A change that was kept; answers its id."""
        status, text = await self.bench.use("supabase_migrate", action="propose", name=name, sql=sql, **arguments)
        assert status == "succeeded", text
        found = re.search(r"change ([0-9a-f-]{36})", text)
        assert found, text
        return found[1]

    async def checked(self, sql: str, **arguments: Any) -> tuple[str, str]:
        """A change that was tried: its id, and what the model reads of it."""
        change = await self.proposed(sql, **arguments)
        status, text = await self.bench.use("supabase_migrate", action="check", change=change)
        assert status == "succeeded", text
        return change, text

    async def applied(self, sql: str, **arguments: Any) -> tuple[str, str, str]:
        """Proposed, checked, approved by its person and applied: the change's id, how it went, what the model reads."""
        change, text = await self.checked(sql, **arguments)
        assert "· checked ·" in text, text
        return change, *await self.bench.agreed("supabase_migrate", action="apply", change=change)

    async def row(self, change: str) -> dict[str, Any]:
        """The change as the database has it."""
        return (await self.database.admin("select * from pam.schema_changes where id = %s", change))[0]


@asynccontextmanager
async def operating(
    database: Database, rebuild: Rebuild | None, *, limits: OperatorLimits = QUICK
) -> AsyncIterator[Operator]:
    """An operator on this database until the block ends."""
    until = asyncio.Event()
    operator = Operator(dsn=database.owner_dsn, rebuild=rebuild, limits=limits)
    task = asyncio.create_task(operator.work(until))
    try:
        async with asyncio.timeout(20):
            while not (await database.admin("select pam_private.is_operator_alive() as alive"))[0]["alive"]:
                assert not task.done(), task
                await asyncio.sleep(0.01)
        yield operator
    finally:
        until.set()
        await task


async def trust(database: Database, org: UUID) -> None:
    """As the project's owner."""
    await database.owner("select pam.trust_organization_with_schema(%s)", org)
