"""supabase_migrate: a change is proposed, tried, shown, approved and applied as the Supabase CLI would, or exported."""

# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names in this module

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from infra.local.stack import ROOT
from infra.owner import check, snapshot
from infra.owner.rebuild import Rebuild
from tests.installation.test_commands import CLI_VERSION
from tests.support.database import Database, Template
from tests.support.migrations import NOTES, QUICK, Project, operating, operator_process, project, shared
from workers.kernel.ledger.schema_changes import ChangeStatus
from workers.tools.schema_lint import squawk
from workers.tools.supabase_migrate import PATIENCE_SECONDS, pauses

COLUMN = "alter table public.tasks add column estimate int"


async def test_a_change_goes_from_proposal_to_the_history_and_the_workspace(project: Project) -> None:
    change, text = await project.checked(NOTES, name="notes")
    assert "Checked, and rolled back." in text
    assert (
        "public.notes · authenticated may select: nothing → rows where (owner_id = ( SELECT auth.uid() AS uid))" in text
    )
    assert "+ index public.notes_of_owner: CREATE INDEX" in text
    assert "On a rebuild of the schema without rows" in text
    assert "On the project itself, rolled back" in text
    assert await project.database.admin("select to_regclass('public.notes') as t") == [{"t": None}]

    call, ask = await project.asked(change)
    row = await project.row(change)
    assert ask.shown is not None
    assert NOTES in ask.shown
    assert ask.facts == {"change": change, "sql_sha256": row["sql_sha256"], "base": row["base"]}
    status, text = await project.decided(call, ask)
    assert (status, f"Applied as version {row['version']}" in text) == ("succeeded", True)

    (applied,) = await project.database.admin("select * from supabase_migrations.schema_migrations")
    assert (applied["version"], applied["name"], len(applied["statements"])) == (row["version"], "notes", 4)
    path = f"supabase/migrations/{row['version']}_notes.sql"
    _, content = await project.bench.use("file_read", path=path)
    assert "create table public.notes" in content
    status, text = await project.bench.use("supabase_migrate", action="status")
    assert f"  {row['version']} notes\nDrift between history and workspace:\n  none" in text
    acts = await project.database.admin(
        "select action, is_allowed from pam.audit where action like 'schema.%%' and org_id = %s order by id",
        project.bench.org_id,
    )
    assert [act["action"] for act in acts] == [
        "schema.trust",
        "schema.propose",
        "schema.check",
        "schema.checked",
        "schema.approve",
        "schema.apply",
    ]
    assert all(act["is_allowed"] for act in acts)


async def test_the_log_tells_viewers_of_each_stand_of_a_change(project: Project) -> None:
    change, _, _ = await project.applied(COLUMN)
    events = await project.database.admin(
        "select payload from pam.events where payload ->> 'name' = 'pam.schema_change' order by seq"
    )
    assert [event["payload"]["value"]["status"] for event in events] == ["proposed", "checked", "applied"]
    assert {event["payload"]["value"]["change"] for event in events} == {change}


async def test_status_names_what_is_missing_on_either_side(project: Project) -> None:
    await project.bench.use("file_write", path="supabase/migrations/20200101000000_mine.sql", content="select 1;")
    await project.database.owner(
        "create schema supabase_migrations; create table supabase_migrations.schema_migrations (version text not null primary key);"
        " insert into supabase_migrations.schema_migrations values ('20200202000000')"
    )
    _, text = await project.bench.use("supabase_migrate", action="status")
    assert "supabase/migrations/20200101000000_mine.sql is in the workspace and not applied" in text
    assert "20200202000000 is applied and has no file in the workspace" in text
    change = await project.proposed(COLUMN)
    assert f"{change} " in (await project.bench.use("supabase_migrate", action="status"))[1]


async def test_the_database_and_python_know_the_same_standings(shared: Project) -> None:
    rows = await shared.database.admin("select unnest(enum_range(null::pam.change_status))::text as word")
    assert [row["word"] for row in rows] == [status.value for status in ChangeStatus]


async def test_a_proposal_is_linted_at_once(shared: Project) -> None:
    status, text = await shared.bench.use(
        "supabase_migrate",
        action="propose",
        name="linted",
        sql="create table public.t (id int); grant select on public.t to anon",
    )
    assert status == "succeeded"
    assert "ERROR [grant-to-anon] statement 2" in text
    assert "WARNING [squawk:prefer-bigint-over-int]" in text


async def test_squawk_is_run_on_what_it_is_given_and_nothing_else() -> None:
    assert await squawk("alter table public.t add column a text") == []
    (finding,) = await squawk("alter table public.t rename column a to b")
    assert finding.rule == "squawk:renaming-column"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"action": "propose"}, "needs name and sql"),
        ({"action": "check"}, "needs change"),
        ({"action": "propose", "name": "Bad Name", "sql": "x"}, "name"),
        ({"action": "propose", "name": "a", "sql": "x", "acknowledge": {"grant-to-anon": "ok"}}, "10 to 500"),
        ({"action": "rollback"}, "action"),
    ],
)
async def test_arguments_that_say_too_little_are_told_what_is_missing(
    shared: Project, arguments: dict[str, Any], said: str
) -> None:
    status, text = await shared.bench.use("supabase_migrate", **arguments)
    assert (status, said in text) == ("failed", True), text


async def test_a_repeated_proposal_is_one(project: Project) -> None:
    call = await project.bench.effect_without_outcome("supabase_migrate", action="propose", name="once", sql=COLUMN)
    done = await project.bench.carry_out(call)
    assert done.status.value == "succeeded"
    assert len(await project.database.admin("select 1 from pam.schema_changes")) == 1


async def test_an_application_whose_worker_was_lost_is_told_not_repeated(project: Project) -> None:
    """The same call again finds its change applied."""
    change, _ = await project.checked(COLUMN)
    decided = await project.bench.decided(*await project.asked(change), verdict="approve")
    first = await project.bench.carry_out(decided)
    assert first.status.value == "succeeded"
    await project.database.admin(
        "update pam.tool_calls set status = 'started', result = null where id = %s", decided.id
    )
    again = await project.bench.carry_out(decided.model_copy(update={"status": "started"}))
    assert (again.status.value, "Applied as version" in (again.result or "")) == ("succeeded", True)
    assert len(await project.history()) == 1


async def test_without_an_operator_a_check_says_so_and_apply_exports_the_file(project: Project) -> None:
    await project.stop_operator()
    await project.database.admin("update pam_private.operator_pulse set seen_at = now() - interval '1 minute'")
    change = await project.proposed(COLUMN, name="estimate")
    status, text = await project.bench.use("supabase_migrate", action="check", change=change)
    assert (status, "No operator is there" in text) == ("refused", True)
    call, ask = await project.asked(change)
    assert "exported as a migration file" in (ask.shown or "")
    status, text = await project.decided(call, ask)
    assert (status, "supabase db push" in text) == ("succeeded", True)
    row = await project.row(change)
    assert row["status"] == "exported"
    _, content = await project.bench.use("file_read", path=f"supabase/migrations/{row['version']}_estimate.sql")
    assert COLUMN in content
    assert await project.history() == []


async def test_a_file_that_stands_in_the_way_is_said_and_the_change_is_applied(project: Project) -> None:
    change, _ = await project.checked(COLUMN, name="estimate")
    path = f"supabase/migrations/{(await project.row(change))['version']}_estimate.sql"
    await project.bench.use("file_write", path=path, content="something else")
    status, text = await project.bench.agreed("supabase_migrate", action="apply", change=change)
    assert (status, "was not written" in text) == ("succeeded", True)


async def test_concurrent_indexes_are_made_singly_and_recorded(project: Project) -> None:
    sql = "create index concurrently tasks_by_due on public.tasks (due_on); create index concurrently tasks_by_title on public.tasks (title)"
    _, status, _ = await project.applied(sql)
    assert status == "succeeded"
    (row,) = await project.database.admin("select statements from supabase_migrations.schema_migrations")
    assert len(row["statements"]) == 2
    valid = await project.database.admin(
        "select indisvalid from pg_index where indexrelid in ('public.tasks_by_due'::regclass, 'public.tasks_by_title'::regclass)"
    )
    assert [index["indisvalid"] for index in valid] == [True, True]


async def test_a_schema_that_cannot_be_rebuilt_alike_is_said_and_the_target_decides(project: Project) -> None:
    await project.database.owner("create table public.of_pam (org_id uuid references pam.organizations)")
    _, text = await project.checked(COLUMN)
    assert "On a rebuild of the schema without rows: not tried, the rebuild is not the same in" in text
    assert "On the project itself, rolled back" in text


async def test_a_rebuild_is_the_target_item_by_item(project: Project, rebuild: Rebuild) -> None:
    """A crowded schema: partitions, a domain, an enum, a generated column, a trigger, column rights, a view."""
    await project.database.owner(
        "create schema api; grant usage on schema api to authenticated; create type api.mood as enum ('a', 'b');"
        " create domain api.short as text check (length(value) < 10);"
        " create table api.logs (at date not null, mood api.mood, word api.short, n int generated always as (1 + 1) stored) partition by range (at);"
        " create table api.logs_2026 partition of api.logs for values from ('2026-01-01') to ('2027-01-01');"
        " create function api.touch() returns trigger language plpgsql as $$ begin return new; end $$;"
        " create trigger touch before insert on api.logs_2026 for each row execute function api.touch();"
        " create view api.words with (security_invoker = true) as select word from api.logs; grant select (word) on api.logs to authenticated;"
        " alter table api.logs enable row level security; create policy p on api.logs to authenticated using (word = (select auth.role()));"
        " create index on api.logs using gin (word extensions.gin_trgm_ops); comment on table api.logs is 'It''s full.'"
    )
    await project.database.owner("select pam.open_to_agent('public.tasks')")
    async with await psycopg.AsyncConnection.connect(project.database.owner_dsn, autocommit=True) as connection:
        target = await snapshot.take(connection)
    async with (
        rebuild.database(project.database.owner_dsn, target) as copy,
        await psycopg.AsyncConnection.connect(copy, autocommit=True) as connection,
    ):
        assert (await snapshot.take(connection)).items == target.items
        assert len(target.items) >= 170
        assert await (await connection.execute("select count(*) from public.tasks")).fetchone() == (0,)


def url(database: Database) -> str:
    parts = conninfo_to_dict(database.owner_dsn)
    return f"postgresql://postgres:{parts['password']}@127.0.0.1:{parts['port']}/{parts['dbname']}"


@pytest.mark.skipif(shutil.which("npm") is None, reason="the Supabase CLI comes from npm, and there is no npm here")
async def test_the_supabase_cli_reads_the_history_and_writes_the_same(
    project: Project, template: Template, tmp_path: Path
) -> None:
    """What PAM records is, row by row, what the CLI records of the same file; and the CLI has nothing left to push."""
    npm = ["npm", "install", "--silent", "--no-save", "--prefix", str(tmp_path), f"supabase@{CLI_VERSION}"]
    await asyncio.to_thread(subprocess.run, npm, check=True, capture_output=True, timeout=100)
    cli = tmp_path / "node_modules" / ".bin" / "supabase"

    async def supabase(database: Database, *arguments: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run, [str(cli), *arguments, f"--remote={url(database)}?sslmode=disable"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    change, _, _ = await project.applied(
        "-- what it is for\n" + NOTES + "\n/* why; */ comment on table public.notes is 'It''s; full.'; -- the end;\n",
        name="notes",
    )
    row = await project.row(change)
    folder = tmp_path / "supabase" / "migrations"
    folder.mkdir(parents=True)
    (folder / f"{row['version']}_notes.sql").write_text(row["sql"])
    assert row["version"] in await supabase(project.database, "migration", "list")
    assert "up to date" in await supabase(project.database, "db", "push", "--yes")
    async with template.clone() as other:
        assert "Apply 1 migration" in await supabase(other, "db", "push", "--yes")
        query = "select version, name, statements from supabase_migrations.schema_migrations"
        columns = "select attname, format_type(atttypid, atttypmod) as type, attnotnull from pg_attribute where attrelid = 'supabase_migrations.schema_migrations'::regclass and attnum > 0 order by attnum"
        assert await project.database.admin(query) == await other.admin(query)
        assert await project.database.admin(columns) == await other.admin(columns)


def test_a_long_wait_looks_seldom_and_a_short_one_soon() -> None:
    looks = list(itertools.takewhile(lambda at: at < PATIENCE_SECONDS, itertools.accumulate(pauses())))
    assert looks[0] == 0.25
    assert len(looks) < 80
    assert max(later - sooner for sooner, later in itertools.pairwise(looks)) == 2


async def test_the_operator_is_a_process_that_ends_when_told(template: Template) -> None:
    async with template.clone() as database:
        async with operator_process(database) as process, asyncio.timeout(20):
            while not (await database.admin("select pam_private.is_operator_alive() as alive"))[0]["alive"]:
                await asyncio.sleep(0.02)
            process.terminate()
            assert await process.wait() == 0
            assert process.stderr is not None
            rest = await process.stderr.read()
        assert str(conninfo_to_dict(database.owner_dsn)["password"]).encode() not in rest


async def test_the_operator_without_the_owners_connection_says_what_is_missing() -> None:
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "infra.owner"], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, "PAM_OWNER_DATABASE_URL is not set" in done.stderr) == (2, True)
