"""Installing, upgrading, adopting and removing PAM in a project that has tables of the same names and policies of its own."""

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from infra import installation
from infra.installation import InstallationRefused, Migration, install, read_migrations, uninstall
from infra.local.facts import StackFacts
from infra.local.postgres import server_programs
from tests.database.world import FINISHED
from tests.support.database import Database, on_database

OURS = ("pam", "pam_worker", "pam_private")
# A project that has everything PAM could trip over.
CROWDED = """
create table public.organizations (id int primary key, name text); create table public.members (id int); create table public.runs (id uuid);
create table public.events (id int); create table public.threads (id int); create table public.messages (id int);
create table public.agents (id int); create table public.files (id int); create table public.steps (id int); create table public.audit (id int);
create type public.run_status as enum ('on', 'off'); create type public.member_role as enum ('boss');
create function public.start_run() returns int language sql as 'select 1';
create function public.hmac_sha256(bytea, bytea) returns bytea language sql as 'select $1';
create schema private; create table private.settings (name text); create schema api; create schema worker;
create table public.notes (id int primary key, owner_id uuid, n serial); alter table public.notes enable row level security;
create policy own on public.notes for select to authenticated using (owner_id = auth.uid());
grant select, insert on public.notes to authenticated; grant usage on sequence public.notes_n_seq to authenticated;
create policy made on public.notes for insert to authenticated with check (owner_id = auth.uid());
create policy "pam: not PAM's" on public.notes for select to authenticated using (false);
create table api.prices (id int); alter table api.prices enable row level security; grant usage on schema api to authenticated;
create policy everybody on api.prices for select to authenticated using (true); grant select on api.prices to authenticated;
create policy "people hear their own" on realtime.messages for select to authenticated using (topic = 'user:' || (select auth.uid())::text);
create policy "pam: a topic of the team's" on realtime.messages for insert to authenticated with check (false);
create function public.greet() returns trigger language plpgsql as 'begin return new; end';
create trigger greet after insert on auth.users for each row execute function public.greet();
alter default privileges in schema public grant execute on functions to anon;
alter default privileges for role postgres grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres grant execute on functions to anon, service_role;
alter default privileges for role postgres revoke execute on functions from public;
"""


async def dump(database: Database, *options: str) -> list[str]:
    """The database's schema as pg_dump writes it, without what differs from dump to dump."""
    process = await asyncio.create_subprocess_exec(
        str(server_programs() / "bin" / "pg_dump"),
        "--schema-only",
        *options,
        f"--dbname={database.admin_dsn}",
        env={"PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    written, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return [line for line in written.decode().splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


async def crowd(database: Database) -> None:
    """Fill the project. A trigger on auth.users is for its owner to make, so the superuser does all."""
    await database.admin(CROWDED)
    await database.admin(
        "do $$ declare t regclass; begin for t in select c.oid from pg_class c where relnamespace in"
        " ('public'::regnamespace, 'api'::regnamespace) and relkind = 'r' loop execute format('alter table %s owner to postgres', t); end loop; end $$;"
        "alter schema api owner to postgres"
    )


async def works(database: Database) -> None:
    """One run from its start to its end."""
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    await database.worker("finish_run", run_id=run, fence=fence, status="succeeded", reason=None, events=[FINISHED])
    assert len(await database.admin("select seq from pam.events")) == 2


async def opened(database: Database) -> None:
    await database.owner("select pam.open_to_agent('public.notes')")
    await database.owner("select pam.open_to_agent('api.prices')")
    await database.owner("select pam.open_writes_to_agent('public.notes', commands => '{insert}')")


async def opened_and_dropped(database: Database) -> None:
    await database.owner(
        "create table public.gone (like public.notes); alter table public.gone enable row level security"
    )
    await database.owner("create policy own on public.gone to authenticated using (owner_id = auth.uid())")
    await database.owner("select pam.open_to_agent('public.gone')")
    await database.owner("drop table public.gone")


async def nothing_more(database: Database) -> None:
    """Installed, and no more."""


@pytest.mark.parametrize("use", [nothing_more, works, opened, opened_and_dropped])
async def test_pam_leaves_no_trace_in_a_crowded_project(database: Database, use: Any) -> None:
    await crowd(database)
    before = await dump(database)
    assert await install(database.owner_dsn) == [m.version for m in read_migrations()]
    await use(database)
    assert await dump(database) != before
    left = await uninstall(database.owner_dsn)
    assert await dump(database) == before
    assert all(sentence.startswith("role pam_") for sentence in left)  # other databases of this cluster use them
    assert await uninstall(database.owner_dsn) == []


async def test_a_crowded_project_grants_nothing_on_pam_by_its_defaults(database: Database) -> None:
    """Default privileges of the project must not open PAM's tables and functions."""
    await crowd(database)
    await install(database.owner_dsn)
    rows = await database.admin(
        "select c.oid::regclass::text as name, a.grantee::regrole::text, a.privilege_type from pg_class c,"
        " aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a where c.relnamespace::regnamespace::text = any (%s)"
        " and c.relkind = 'r' and a.grantee <> c.relowner"
        " and not (a.grantee = 'authenticated'::regrole and a.privilege_type = 'SELECT')",
        list(OURS),
    )
    assert rows == []
    rows = await database.admin(
        "select p.oid::regprocedure::text as name from pg_proc p where p.pronamespace::regnamespace::text = any (%s)"
        " and has_function_privilege('anon', p.oid, 'execute')"
        " and p.proname not in ('read_decision_link', 'decide_by_link')",  # a signed link opens these
        list(OURS),
    )
    assert rows == []


async def test_installing_twice_changes_nothing_and_two_at_once_are_one(database: Database) -> None:
    answers = await asyncio.gather(install(database.owner_dsn), install(database.owner_dsn))
    assert sorted(map(len, answers)) == [0, len(read_migrations())]
    before = await dump(database)
    assert await install(database.owner_dsn) == []
    assert await dump(database) == before
    await works(database)


async def test_every_upgrade_ends_where_a_fresh_install_does(database: Database) -> None:
    migrations = read_migrations()
    await install(database.owner_dsn)
    fresh = await dump(database, *(f"--schema={name}" for name in OURS))
    for k in range(1, len(migrations)):
        await uninstall(database.owner_dsn)
        assert await install(database.owner_dsn, migrations=migrations[:k]) == [m.version for m in migrations[:k]]
        assert await install(database.owner_dsn) == [m.version for m in migrations[k:]]
        assert await dump(database, *(f"--schema={name}" for name in OURS)) == fresh, k


async def test_an_edited_migration_is_refused_and_named(database: Database) -> None:
    migrations = read_migrations()
    await install(database.owner_dsn, migrations=migrations[:3])
    edited = [migrations[0], replace(migrations[1], text=migrations[1].text + "\n"), *migrations[2:]]
    with pytest.raises(InstallationRefused, match=f"{migrations[1].version}.*never edited"):
        await install(database.owner_dsn, migrations=edited)
    assert len(await database.admin("select version from pam_private.migrations")) == 3
    assert len(await install(database.owner_dsn)) == len(migrations) - 3


async def test_a_failing_migration_is_rolled_back_and_named_and_what_came_before_stays(database: Database) -> None:
    migrations = read_migrations()
    broken = Migration("20261124000000", "broken", "create table pam.half (id int); select 1/0;")
    with pytest.raises(InstallationRefused, match=r"20261124000000 failed and was rolled back: division by zero"):
        await install(database.owner_dsn, migrations=[*migrations, broken])
    (row,) = await database.admin(
        "select to_regclass('pam.half') as half, (select count(*) from pam_private.migrations) as n"
    )
    assert row == {"half": None, "n": len(migrations)}
    assert await install(database.owner_dsn) == []


async def pushed(database: Database, migrations: list[Migration]) -> None:
    """What `supabase db push` leaves: each file's statements run, and a row of its own history."""
    async with await psycopg.AsyncConnection.connect(database.owner_dsn, autocommit=True) as connection:
        await connection.execute("create schema if not exists supabase_migrations")
        await connection.execute(
            "create table if not exists supabase_migrations.schema_migrations"
            " (version text primary key, statements text[], name text)"
        )
        for migration in migrations:
            await connection.execute(migration.text.encode())
            await connection.execute(
                "insert into supabase_migrations.schema_migrations values (%s, %s, %s)",
                [migration.version, [migration.text], migration.name],
            )


async def test_what_the_supabase_cli_applied_is_adopted_also_step_by_step(database: Database) -> None:
    migrations = read_migrations()
    await crowd(database)
    before = await dump(database, "--exclude-schema=supabase_migrations")
    await pushed(database, migrations[:4])
    assert await install(database.owner_dsn, migrations=migrations[:4]) == []
    await pushed(database, migrations[4:6])
    assert await install(database.owner_dsn) == [m.version for m in migrations[6:]]
    assert await install(database.owner_dsn) == []
    await works(database)
    await database.owner(
        "insert into supabase_migrations.schema_migrations values ('20200101000000', '{}', 'pam_like_name_of_the_team'), ('20200102000000', '{}', 'own')"
    )
    await uninstall(database.owner_dsn)
    rows = await database.admin("select version from supabase_migrations.schema_migrations order by 1")
    assert [row["version"] for row in rows] == ["20200101000000", "20200102000000"]
    assert await dump(database, "--exclude-schema=supabase_migrations") == before


async def test_another_schema_named_pam_is_left_alone(database: Database) -> None:
    await database.owner("create schema pam; create table pam.flour (id int)")
    for act in (install, uninstall):
        with pytest.raises(InstallationRefused, match="not PAM's"):
            await act(database.owner_dsn)
    assert await database.admin("select to_regclass('pam.flour') is not null as there") == [{"there": True}]


async def test_a_plain_database_and_a_login_that_may_not_make_roles_are_refused(
    database: Database, stack: StackFacts
) -> None:
    with pytest.raises(InstallationRefused, match="no Supabase project"):
        await install(on_database(stack.admin_dsn, "template1"))
    with pytest.raises(InstallationRefused, match="may not create roles"):
        await install(database.worker_dsn)
    assert await database.admin("select to_regnamespace('pam') as pam") == [{"pam": None}]


async def test_the_webhook_is_set_and_set_again(database: Database) -> None:
    await install(database.owner_dsn)
    for secret in ("one", "two"):
        await installation.set_webhook(database.owner_dsn, url=f"http://127.0.0.1:9/{secret}", secret=secret)
    rows = await database.admin("select name, value from pam_private.settings where name like 'webhook%' order by name")
    assert {row["name"]: row["value"] for row in rows} == {
        "webhook_secret": "two",
        "webhook_url": "http://127.0.0.1:9/two",
    }
