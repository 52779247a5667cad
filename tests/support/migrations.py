"""A project whose schema an agent may change: a bench, a trusted organisation, and a real operator beside it."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from psycopg.conninfo import conninfo_to_dict

from infra.local.facts import StackFacts
from infra.local.stack import ROOT
from infra.owner.process import Operator
from infra.owner.rebuild import Rebuild
from infra.owner.trial import OperatorLimits
from tests.support.bench import Bench
from tests.support.database import Database, Template
from workers.kernel.ledger.approvals import Ask
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.tool_calls import RecordedCall

QUICK = OperatorLimits(lock_seconds=0.3, statement_seconds=5, max_rows=50_000)
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
    operator: AsyncExitStack = field(default_factory=AsyncExitStack)

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database, facts: StackFacts, rebuild: Rebuild | None) -> AsyncIterator["Project"]:
        """Trust a new organisation, and let an operator work until the end."""
        async with Bench.open(database, facts) as bench, AsyncExitStack() as operator:
            await operator.enter_async_context(operating(database, rebuild))
            await trust(database, bench.org_id)
            yield cls(database, bench, operator)

    async def stop_operator(self) -> None:
        """Let the operator go before the test ends."""
        await self.operator.aclose()

    async def operator_beside(self, until: asyncio.Event) -> None:
        """A second operator, which finds the first."""
        await Operator(dsn=self.database.owner_dsn, rebuild=None, limits=QUICK).work(until)

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

    async def as_member(self, role: str) -> "Project":
        """The same project, worked on by somebody with this role in the organisation."""
        person = await self.database.new_member(self.bench.org_id, role)
        bench = self.bench
        run = await self.database.new_run(person, bench.org_id)
        hold = Hold(bench.hold.gateway, run, await self.database.claimed(run, lease_seconds=600))
        return Project(self.database, Bench(self.database, hold, bench.org_id, person, bench.services))

    async def asked(self, change: str) -> tuple[RecordedCall, Ask]:
        """The call that would apply a change, and what its person is asked."""
        return await self.bench.asked("supabase_migrate", action="apply", change=change)

    async def decided(self, call: RecordedCall, ask: Ask, **decision: Any) -> tuple[str, str]:
        """The call carried out after somebody approved it."""
        decided = await self.bench.decided(call, ask, verdict="approve", **decision)
        done = await self.bench.carry_out(decided)
        return done.status.value, done.result or ""

    async def history(self) -> list[str]:
        """The versions that the Supabase CLI would see."""
        rows = await self.database.admin("select version from pam_private.migration_history()")
        return [row["version"] for row in rows]

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


@asynccontextmanager
async def operator_process(database: Database) -> AsyncIterator[asyncio.subprocess.Process]:
    """The operator as the process that people start, at work; killed at the end if it is still there."""
    parts = conninfo_to_dict(database.owner_dsn)
    url = f"postgresql://postgres:{parts['password']}@127.0.0.1:{parts['port']}/{parts['dbname']}"
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "PAM_HOME") if key in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.owner", cwd=ROOT, stderr=asyncio.subprocess.PIPE,
        env={**kept, "PYTHONPATH": str(ROOT), "PAM_OWNER_DATABASE_URL": url},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(20):
            assert b"operator ready" in await process.stderr.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def trust(database: Database, org: UUID) -> None:
    """As the project's owner."""
    await database.owner("select pam.trust_organization_with_schema(%s)", org)


@pytest.fixture(scope="module")
async def shared(template: Template, stack: StackFacts, rebuild: Rebuild) -> AsyncIterator[Project]:
    """A project that a module's tests leave as it was."""
    async with template.clone() as database, Project.open(database, stack, rebuild) as opened:
        yield opened


@pytest.fixture
async def project(template: Template, stack: StackFacts, rebuild: Rebuild) -> AsyncIterator[Project]:
    """A project of one test's own."""
    async with template.clone() as database, Project.open(database, stack, rebuild) as opened:
        yield opened
