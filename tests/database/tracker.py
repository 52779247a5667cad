"""The sample's people as agents' askers: what each may see, and SQL bound to them."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from tests.support.database import Database
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WorkerGateway
from workers.tools.bound_sql import BoundSql, SqlLimits

TABLES = ("projects", "members", "invitations", "tasks", "comments", "invoices")
CANARY = "CANARY"


def sample_person(number: int) -> UUID:
    """The id that the seed gives to its n-th person."""
    return UUID(hashlib.md5(f"tracker person {number}".encode(), usedforsecurity=False).hexdigest())


@asynccontextmanager
async def bound_sql(database: Database, **limits: int) -> AsyncIterator[BoundSql]:
    """One connection, used again and again, so that what a statement leaves behind is found by the next."""
    sql = BoundSql(dsn=database.agent_dsn, limits=SqlLimits(**limits), max_connections=1)
    await sql.open()
    try:
        yield sql
    finally:
        await sql.close()


async def hold(database: Database, person: UUID, org: UUID) -> Hold:
    """A claimed run of this person. Its gateway is never opened: SQL goes by the agent's login."""
    run = await database.new_run(person, org)
    return Hold(WorkerGateway(dsn=database.worker_dsn), run, await database.claimed(run, lease_seconds=3600))


@dataclass(frozen=True)
class Tracker:
    """Two colleagues, and a victim whose rows carry a canary and whom neither may see."""

    database: Database
    attacker: UUID
    colleague: UUID
    victim: UUID
    holds: dict[UUID, Hold]

    @classmethod
    async def open(cls, database: Database) -> "Tracker":
        """Open the sample's tables, and plant the canary wherever the victim has rows."""
        # The sample is slow by design: its policies walk all memberships for each row. Here less of it, and an index.
        await database.admin("delete from public.comments")
        await database.admin("delete from public.tasks where id % 40 <> 0")
        await database.admin("create index on public.members (project_id, user_id)")
        await database.admin(
            "insert into public.comments (project_id, task_id, author_id, body)"
            " select project_id, id, gen_random_uuid(), 'Started on it.' from public.tasks"
        )
        await database.admin("analyze public.members, public.tasks, public.comments")
        attacker, colleague, victim = (sample_person(n) for n in (24, 60, 400))
        for person in (attacker, colleague, victim):
            await database.admin(
                "insert into auth.users (id, email, raw_app_meta_data, raw_user_meta_data) values (%s, %s, '{}', '{}')",
                person,
                f"{CANARY if person == victim else person}@example.com",
            )
        holds = {}
        for person in (attacker, colleague, victim):
            _, org = await database.new_organization(person)
            holds[person] = await hold(database, person, org)
        await database.admin("update pam.messages set content = %s where run_id = %s", CANARY, holds[victim].run_id)
        await database.admin(
            "with own as (insert into public.projects (name, client) values (%(c)s, %(c)s) returning id),"
            " joined as (insert into public.members (project_id, user_id, role) select id, %(v)s, 'owner' from own),"
            " task as (insert into public.tasks (project_id, title) select id, %(c)s from own returning id, project_id),"
            " said as (insert into public.comments (project_id, task_id, author_id, body) select project_id, id, %(v)s, %(c)s from task)"
            " insert into public.invoices (project_id, number, amount, issued_on, due_on)"
            " select id, %(c)s, 1, '2026-01-01', '2026-01-02' from own".replace("%(c)s", f"'{CANARY}'").replace(
                "%(v)s", f"'{victim}'"
            )
        )
        for table in TABLES:
            await database.owner("select pam.open_to_agent(%s::text::regclass)", f"public.{table}")
        return cls(database, attacker, colleague, victim, holds)
