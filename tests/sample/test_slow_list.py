"""The sample is truly slow, its good fix passes the proof, and bad ones fail it for the right reason."""

import asyncio
import os
import sys
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import AsyncConnection, errors

from infra.sample import slow_list
from infra.sample.slow_list import LIST_SQL, Proof, address_program, prove

from .conftest import ROOT, SEED, Database, as_person

WORKSPACE = ROOT / "infra/sample/workspace"
FIX = (Path(__file__).parent / "fix.sql").read_text()


async def proof(database: Database, member: UUID, migration_sql: str) -> Proof:
    return await prove(
        owner_dsn=database.owner_dsn,
        admin_dsn=database.admin_dsn,
        migration_sql=migration_sql,
        user_id=member,
    )


@pytest.fixture
def one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where speed is not the question, the list is timed once instead of five times."""
    monkeypatch.setattr(slow_list, "RUNS", 1)


def fix_with(before: str, after: str) -> str:
    assert before in FIX
    return FIX.replace(before, after)


async def test_the_seed_applies_twice_as_an_owner_who_is_no_superuser(database: Database) -> None:
    count = "select (select count(*) from public.tasks), (select count(*) from public.members)"
    async with await AsyncConnection.connect(database.owner_dsn, autocommit=True) as owner:
        assert await (await owner.execute("select current_setting('is_superuser')")).fetchone() == ("off",)
        first = await (await owner.execute(count)).fetchone()
        await owner.execute(SEED.encode())
        assert await (await owner.execute(count)).fetchone() == first
    assert first is not None
    assert first[0] == 30_000


def test_what_the_agent_reads_is_what_is_seeded_and_what_the_service_asks() -> None:
    schema = (WORKSPACE / "supabase/migrations/20260105090000_init.sql").read_text()
    assert schema in SEED
    assert LIST_SQL in (WORKSPACE / "app/tasks.py").read_text()


async def test_a_person_joins_by_an_open_invitation_only(database: Database) -> None:
    join = "insert into public.members (project_id, user_id, role) values (%s, %s, %s)"
    person = uuid4()
    for project_id, user_id, role in ((1, person, "member"), (42, person, "owner"), (42, uuid4(), "member")):
        async with as_person(database.owner_dsn, person) as connection:
            with pytest.raises(errors.InsufficientPrivilege):
                await connection.execute(join, [project_id, user_id, role])
            await connection.rollback()
    async with as_person(database.owner_dsn, person) as connection:
        await connection.execute(join, [42, person, "member"])


async def test_the_good_fix_gives_the_same_rows_ten_times_as_fast(database: Database, member: UUID) -> None:
    shown = await proof(database, member, FIX)
    assert shown.passed, shown.reason
    assert shown.rows == 50
    assert shown.same_rows
    assert shown.before_seconds > 0.2
    assert shown.ratio >= 20


@pytest.mark.usefixtures("one_run")
async def test_a_fix_with_concurrent_indexes_passes(database: Database, member: UUID) -> None:
    shown = await proof(database, member, FIX.replace("create index", "create index concurrently"))
    assert shown.passed, shown.reason


@pytest.mark.usefixtures("one_run")
async def test_a_migration_that_does_nothing_fails(database: Database, member: UUID) -> None:
    shown = await proof(database, member, "comment on table public.tasks is 'Faster now.';")
    assert not shown.passed
    assert shown.same_rows
    assert "times as fast as before" in shown.reason


@pytest.mark.usefixtures("one_run")
@pytest.mark.parametrize(
    ("opened", "migration_sql"),
    [
        (
            "reads tasks",
            # The member's own list stays as it was, so only looking as others shows the hole.
            "create index on public.members (user_id, project_id);"
            'alter policy "Members read the tasks of their projects" on public.tasks using (true);',
        ),
        ("reads invoices", FIX + "alter table public.invoices disable row level security;"),
        (
            "changes tasks",
            FIX + "create policy fast on public.tasks for update to authenticated using (true);",
        ),
        (
            "adds tasks to a project of others",
            FIX + "create policy fast on public.tasks for insert to authenticated with check (true);",
        ),
        (
            "takes a project as its owner",
            FIX + "create policy fast on public.members for insert to authenticated"
            " with check (user_id = (select auth.uid())"
            " and project_id in (select i.project_id from public.invitations i where i.is_open));",
        ),
    ],
)
async def test_a_fix_that_opens_a_table_fails(
    database: Database, member: UUID, opened: str, migration_sql: str
) -> None:
    shown = await proof(database, member, migration_sql)
    assert not shown.passed
    assert opened in shown.reason


@pytest.mark.usefixtures("one_run")
async def test_a_fix_that_loses_rows_fails(database: Database, member: UUID) -> None:
    own_projects = "from public.members m where m.user_id = (select auth.uid())"
    shown = await proof(database, member, fix_with(own_projects, f"{own_projects} and m.project_id <> 42"))
    assert not shown.passed
    assert not shown.same_rows
    assert "The list is another one" in shown.reason


@pytest.mark.usefixtures("one_run")
async def test_a_fix_that_hides_rows_of_other_people_fails(database: Database, member: UUID) -> None:
    own_projects = "from public.members m where m.user_id = (select auth.uid())"
    shown = await proof(database, member, fix_with(own_projects, f"{own_projects} and m.role = 'member'"))
    assert shown.same_rows
    assert not shown.passed
    assert "reads tasks" in shown.reason or "reads projects" in shown.reason


@pytest.mark.usefixtures("one_run")
@pytest.mark.parametrize(
    ("said", "migration_sql"),
    [
        ("does not exist", "create index on public.members (person_id);"),
        ("not SQL", "make it fast, please;"),
        ("no statement", "-- nothing to do\n"),
        ("infinite recursion", 'alter policy "People read their own memberships" on public.members'
         " using (project_id in (select m.project_id from public.members m));"),
        ("DO", "do $$ begin execute 'alter role authenticated bypassrls'; end $$;"),
        ("alter role", "alter role authenticated bypassrls;"),
        ("create function", "create function public.f() returns int language sql as 'select 1';"),
    ],
)  # fmt: skip
async def test_a_migration_that_cannot_be_applied_fails_and_says_why(
    database: Database, member: UUID, said: str, migration_sql: str
) -> None:
    shown = await proof(database, member, migration_sql)
    assert not shown.passed
    assert said.lower() in shown.reason.lower()


@pytest.mark.usefixtures("one_run")
async def test_the_clone_is_taken_while_others_work_and_leaves_nothing_behind(database: Database, member: UUID) -> None:
    databases = "select array_agg(datname order by datname) from pg_database"
    before = await database.admin(databases)
    async with as_person(database.owner_dsn, member) as busy:
        await busy.execute("update public.tasks set priority = 1 where project_id = 42")
        await proof(database, member, FIX)
        await busy.rollback()
    assert await database.admin(databases) == before
    async with await AsyncConnection.connect(database.admin_dsn) as admin:
        indexes = await admin.execute(
            "select count(*) from pg_indexes where schemaname = 'public' and tablename = 'members'"
        )
        assert await indexes.fetchone() == (1,), "the live database keeps its indexes"


def test_a_password_is_never_an_argument_of_a_program() -> None:
    command, environment = address_program("pg_dump", "postgresql://owner:se%20cret@localhost:5432/postgres")
    assert not [argument for argument in command if "cret" in argument]
    assert environment == {"PGPASSWORD": "se cret"}


async def test_a_proof_without_a_member_says_that_there_is_nothing_to_compare(database: Database) -> None:
    shown = await proof(database, uuid4(), FIX)
    assert not shown.passed
    assert "empty" in shown.reason


async def test_the_services_own_tests_pass_on_the_seed(database: Database) -> None:
    environment = {
        **os.environ,
        "TRACKER_DATABASE_URL": psycopg.conninfo.make_conninfo(database.owner_dsn),
        "TRACKER_JWT_SECRET": "a secret of the tests, at least 32 bytes",
        "PYTHONDONTWRITEBYTECODE": "1",  # the workspace is copied for the agent: sources only
    }
    tests = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        cwd=WORKSPACE,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await tests.communicate()
    assert tests.returncode == 0, output.decode()
