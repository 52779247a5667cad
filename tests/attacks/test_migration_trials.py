"""Attacks by what a change makes the operator's connection do: rows read by their errors, locks, crashes, half-done work.

Each test is one mechanism, and says what stopped it.
"""

# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names in this module

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from infra.owner import check, snapshot
from infra.owner.rebuild import Rebuild
from infra.owner.trial import OperatorLimits
from tests.support.database import Database, Template
from tests.support.migrations import NOTES, QUICK, Project, operating, operator_process, project, shared
from workers.kernel.ledger import schema_changes, tool_calls
from workers.kernel.ledger.tool_calls import RecordedCall

COLUMN = "alter table public.tasks add column estimate int"
UNIQUE = "create unique index one_title on public.tasks (title)"
SECRET = "the secret of another tenant"


@contextlib.asynccontextmanager
async def locked(database: Database, statement: str) -> AsyncIterator[None]:
    """Another session that holds what this statement takes."""
    async with await psycopg.AsyncConnection.connect(database.owner_dsn) as connection:
        await connection.execute(statement.encode())
        yield
        await connection.rollback()


async def digest(database: Database) -> str:
    async with await psycopg.AsyncConnection.connect(database.owner_dsn, autocommit=True) as connection:
        return (await snapshot.take(connection)).digest(await snapshot.history(connection))


async def secret(database: Database) -> None:
    """A row that the asker may not see."""
    await database.owner(
        "insert into public.tasks (project_id, title) select id, %s from public.projects limit 1", SECRET
    )
    await database.owner("update public.projects set client = %s where true", SECRET)


READING_ROWS = {
    "an error that quotes the value": "alter table public.projects alter column client type int using client::int",
    "a duplicate that quotes the key": UNIQUE,
    "one bit by a check": f"alter table public.tasks add constraint one_bit check (title <> '{SECRET}')",
    "one bit by NOT NULL": "alter table public.tasks alter column assignee_id set not null",
    "one bit by a foreign key": "alter table public.tasks add foreign key (assignee_id) references auth.users (id)",
    "one bit by a generated column": "alter table public.tasks add column one_bit int generated always as (1 / (length(title) - 28)) stored",
    "one bit by a partial index": f"create index one_bit on public.tasks ((1 / (length(title) - 28))) where title = '{SECRET}'",
    "one bit by rows": f"update public.tasks set priority = 1 / (length(title) - 28) where title = '{SECRET}'",
    "a copy": "create table public.copy as select title::int from public.tasks",
}


@pytest.mark.parametrize("mechanism", READING_ROWS)
async def test_rows_that_the_asker_may_not_see_do_not_tell_themselves_by_a_dry_run(
    shared: Project, mechanism: str
) -> None:
    """For a developer nothing that depends on rows is tried on the target; for an admin no error quotes a row."""
    await secret(shared.database)
    developer = await shared.as_member("developer")
    _, text = await developer.checked(
        READING_ROWS[mechanism], name="reading", acknowledge={"table-without-row-security": "Only tried here."}
    )
    assert "depends on rows that the person who asked may not see" in text, text
    assert "broke" not in text, text
    _, text = await shared.checked(READING_ROWS[mechanism], name="reading")
    assert SECRET not in text.partition("\n")[2].replace(READING_ROWS[mechanism], "").replace(
        f"= '{SECRET}'", ""
    ).replace(f"<> '{SECRET}'", "")


async def test_what_needs_no_row_is_tried_on_the_target_for_a_developer_too(project: Project) -> None:
    developer = await project.as_member("developer")
    _, text = await developer.checked(COLUMN)
    assert "On the project itself, rolled back" in text
    assert "locks tasks: AccessExclusiveLock" in text
    assert "policy-without-index" not in text  # the sample's own, and not this change's doing


async def test_a_check_leaves_nothing_behind(project: Project) -> None:
    """Everything is rolled back: schema, rows, history, and the session goes with its connection."""
    before = await digest(project.database)
    count = await project.database.admin("select count(*) as n from public.tasks")
    await project.checked(NOTES)
    await project.checked(
        "update public.tasks set title = title || '!' where id < 100; alter table public.tasks add column x int"
    )
    assert await digest(project.database) == before
    assert await project.database.admin("select count(*) as n from public.tasks") == count
    assert await project.database.admin("select 1 from public.tasks where title like '%%!'") == []
    held = await project.database.admin(
        "select 1 from pg_locks l join pg_class c on c.oid = l.relation where c.relname = 'tasks' and l.mode = 'AccessExclusiveLock'"
    )
    assert held == []


async def test_a_trigger_of_the_team_is_not_set_off(project: Project) -> None:
    """A change of rows would run the trigger's function as the owner, also by a cascade: it is refused by name."""
    await project.database.owner(
        "create function public.spy() returns trigger language plpgsql as $$ begin perform pg_notify('spy', old.title); return old; end $$;"
        " create trigger spy before delete on public.comments for each row execute function public.spy()"
    )
    for sql in ("delete from public.comments where id = 1", "delete from public.projects where id = 1"):
        _, text = await project.checked(sql)
        assert "would set off the trigger spy on comments" in text, text


async def test_a_view_is_no_way_around_the_look_at_triggers(project: Project) -> None:
    await project.database.owner("create view public.w with (security_invoker) as select * from public.tasks")
    _, text = await project.checked("update public.w set title = 'x' where id = 1")
    assert "is no table" in text


async def test_too_many_rows_are_refused(template: Template, project: Project) -> None:
    await project.stop_operator()
    async with operating(project.database, None, limits=OperatorLimits(max_rows=10)):
        _, text = await project.checked("update public.tasks set title = title where id > 5")
    assert "the limit is 10" in text


async def test_a_statement_that_never_ends_is_stopped(project: Project) -> None:
    await project.stop_operator()
    async with asyncio.timeout(15), operating(project.database, None, limits=OperatorLimits(statement_seconds=0.2)):
        _, text = await project.checked(
            "create table public.a as select count(*) from public.tasks a, public.tasks b, public.tasks c",
            acknowledge={},
        )
    assert "was stopped" in text


@pytest.mark.parametrize(
    ("seconds", "sql"),
    [
        (0.5, "create table public.a as select count(*) from public.tasks a, public.tasks b, public.tasks c"),
        (0.01, ";".join(["comment on table public.tasks is 'x'"] * 150)),
    ],
    ids=["one statement", "many statements"],
)
async def test_a_check_holds_its_locks_no_longer_than_the_whole_may_take(
    project: Project, seconds: float, sql: str
) -> None:
    """Each statement is within its own time; together they are not."""
    await project.stop_operator()
    limits = OperatorLimits(statement_seconds=60, transaction_seconds=seconds)
    async with asyncio.timeout(15), operating(project.database, None, limits=limits):
        change, text = await project.checked(sql)
    assert f"the change took longer than {seconds:g} s in all and was stopped" in text
    assert (await project.row(change))["status"] == "proposed"


async def test_somebody_elses_lock_ends_a_check_cleanly_and_it_may_be_tried_again(project: Project) -> None:
    async with locked(project.database, "lock table public.tasks in share mode"):
        change, text = await project.checked(COLUMN)
        assert "somebody else holds a lock" in text
        assert (await project.row(change))["status"] == "proposed"
    _, text = await project.bench.use("supabase_migrate", action="check", change=change)
    assert "· checked ·" in text


async def test_somebody_elses_lock_ends_an_application_cleanly_and_it_may_be_tried_again(project: Project) -> None:
    change, _ = await project.checked(COLUMN)
    async with locked(project.database, "lock table public.tasks in share mode"):
        status, text = await project.bench.agreed("supabase_migrate", action="apply", change=change)
    assert (status, "Nothing was changed" in text, "holds a lock" in text) == ("failed", True, True)
    assert (await project.row(change))["status"] == "checked"
    assert await project.history() == []
    assert (await project.bench.agreed("supabase_migrate", action="apply", change=change))[0] == "succeeded"


async def test_what_fails_on_new_rows_is_undone_whole_and_told_without_them(project: Project) -> None:
    """The second statement passed the dry run; meanwhile rows came that break it. The first is undone with it."""
    await project.database.owner(
        "delete from public.invoices; create table public.codes (code text); alter table public.codes enable row level security"
    )
    change, _ = await project.checked(COLUMN + "; alter table public.codes add constraint one_code unique (code)")
    await project.database.owner("insert into public.codes values (%s), (%s)", SECRET, SECRET)
    before = await digest(project.database)
    status, text = await project.bench.agreed("supabase_migrate", action="apply", change=change)
    assert (status, "Nothing was changed. Statement 2: existing rows are not unique by one_code" in text) == (
        "failed",
        True,
    )
    assert SECRET not in text
    assert await digest(project.database) == before
    row = await project.row(change)
    assert (row["status"], SECRET in str(row)) == ("failed", False)


async def test_the_operator_does_not_take_the_workers_word_for_the_guard(project: Project) -> None:
    """A worker that was taken over keeps a text that its guard would refuse: the operator's own guard refuses it."""
    bench = project.bench
    call = await bench.planned("supabase_migrate", {"action": "propose", "name": "evil", "sql": "x"})
    for sql in (
        "do $$ begin perform pg_sleep(1); end $$",
        "create table public.a (id int); commit; create table public.b (id int)",
    ):
        await bench.hold.call("begin_call", id=call.id)
        change = await schema_changes.propose(bench.hold, call.id, name="evil", sql=sql, findings=[], acknowledged={})
        _, text = await bench.use("supabase_migrate", action="check", change=str(change.id))
        assert "· refused ·" in text
        call = await bench.planned("supabase_migrate", {"action": "propose", "name": "evil", "sql": "y"})
    assert await project.database.admin("select to_regclass('public.a') as a, to_regclass('public.b') as b") == [
        {"a": None, "b": None}
    ]


async def test_a_second_statement_behind_a_semicolon_does_not_run_whatever_the_guard_said(project: Project) -> None:
    """The extended protocol takes one statement: the last line behind the guard."""
    from infra.owner.trial import run_one

    async with await psycopg.AsyncConnection.connect(project.database.owner_dsn) as connection:
        with pytest.raises(psycopg.errors.SyntaxError, match="multiple commands"):
            await run_one(connection, "select 1; commit; create table public.a (id int)")


async def test_an_operator_killed_in_the_middle_leaves_nothing_and_the_next_one_applies_it_once(
    project: Project,
) -> None:
    """Told to stop while it waits for a lock in mid-transaction: rolled back; the approval still holds for the next."""
    await project.stop_operator()
    change, apply = "", None
    with contextlib.suppress(psycopg.OperationalError):  # its process would begin again
        async with operating(project.database, None, limits=OperatorLimits(lock_seconds=30)):
            change, _ = await project.checked(COLUMN + "; comment on table public.invoices is 'x'")
            decided = await project.bench.decided(*await project.asked(change), verdict="approve")
            async with locked(project.database, "lock table public.invoices in share update exclusive mode"):
                apply = asyncio.create_task(project.bench.carry_out(decided))
                async with asyncio.timeout(10):
                    while not await project.database.admin("select 1 from pg_locks where not granted"):
                        await asyncio.sleep(0.02)
                await stop_all_operators(project.database)
    assert apply is not None
    assert await project.history() == []
    assert (await project.row(change))["status"] == "applying"
    async with operating(project.database, None):
        done = await apply
    assert done.status.value == "succeeded", done.result
    assert len(await project.history()) == 1


async def stop_all_operators(database: Database) -> None:
    await database.admin(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pam-operator' and datname = current_database()"
    )


async def test_a_concurrent_index_that_fails_is_dropped_again_and_not_recorded(project: Project) -> None:
    await secret(project.database)
    await secret(project.database)
    change, text = await project.checked(
        "create index concurrently tasks_by_due on public.tasks (due_on); create unique index concurrently one_title on public.tasks (title)"
    )
    assert "Run singly" in text
    status, text = await project.bench.agreed("supabase_migrate", action="apply", change=change)
    assert (status, "not unique by one_title" in text) == ("failed", True)
    assert SECRET not in text
    assert await project.history() == []
    assert await project.database.admin("select 1 from pg_class where relname in ('one_title', 'tasks_by_due')") == []


TWO = (
    "create index concurrently tasks_by_due on public.tasks (due_on);"
    " create index concurrently tasks_by_priority on public.tasks (priority)"
)


async def indexes(database: Database) -> dict[str, bool]:
    """Those of this module's that are there, and whether they are valid."""
    rows = await database.admin(
        "select relname, indisvalid from pg_index join pg_class on oid = indexrelid where relname in ('tasks_by_due', 'tasks_by_priority')"
    )
    return {row["relname"]: row["indisvalid"] for row in rows}


async def approved(project: Project, sql: str, **arguments: Any) -> tuple[str, RecordedCall]:
    """A change that was checked and approved; its operator is gone, its call is to be carried out."""
    change, _ = await project.checked(sql, **arguments)
    decided = await project.bench.decided(*await project.asked(change), verdict="approve")
    await project.stop_operator()
    return change, decided


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_indexes_of_an_operator_that_was_stopped_in_the_middle_are_taken_back_and_made_by_the_next(
    project: Project, number: signal.Signals
) -> None:
    """Told to stop, it drops them itself; killed, it cannot, and the next one does before it compares the schema."""
    change, decided = await approved(project, TWO)
    async with (
        await psycopg.AsyncConnection.connect(project.database.owner_dsn) as writer,
        operator_process(project.database) as process,
    ):
        await writer.execute("update public.tasks set title = title where id = 1")  # holds the first index up
        apply = asyncio.create_task(project.bench.carry_out(decided))
        async with asyncio.timeout(20):
            while not await indexes(project.database):
                await asyncio.sleep(0.01)
        process.send_signal(number)
        await writer.rollback()
        await asyncio.wait_for(process.wait(), 20)
    if number is signal.SIGTERM:
        assert process.returncode == 0
        assert await indexes(project.database) == {}
    assert (await project.row(change))["status"] == "applying"
    assert await project.history() == []
    async with operating(project.database, None):
        done = await apply
    assert done.status.value == "succeeded", done.result
    assert await indexes(project.database) == {"tasks_by_due": True, "tasks_by_priority": True}
    row = await project.row(change)
    assert (len(await project.history()), row["status"], "begun" in row["report"]) == (1, "applied", False)


async def test_an_index_that_cannot_be_recorded_goes_again(project: Project) -> None:
    """Somebody pushes the same version while the index is being made: the history refuses it at the end."""
    await project.database.owner(
        "create schema supabase_migrations; create table supabase_migrations.schema_migrations (version text not null primary key, statements text[], name text)"
    )
    change, decided = await approved(project, TWO)
    version = (await project.row(change))["version"]
    async with await psycopg.AsyncConnection.connect(project.database.owner_dsn) as writer:
        await writer.execute("update public.tasks set title = title where id = 1")
        async with operating(project.database, None, limits=OperatorLimits(lock_seconds=30)):
            apply = asyncio.create_task(project.bench.carry_out(decided))
            async with asyncio.timeout(20):
                while not await indexes(project.database):
                    await asyncio.sleep(0.01)
            await project.database.owner("insert into supabase_migrations.schema_migrations values (%s)", version)
            await writer.rollback()
            done = await apply
    assert "Nothing was changed. It could not be recorded" in (done.result or "")
    assert await indexes(project.database) == {}
    assert (await project.row(change))["status"] == "failed"


async def test_an_index_that_was_there_before_does_not_go_with_a_change_that_fails(project: Project) -> None:
    await project.database.owner("create index tasks_by_due on public.tasks (due_on)")
    await secret(project.database)
    await secret(project.database)
    _, status, text = await project.applied(
        "create index concurrently if not exists tasks_by_due on public.tasks (due_on);"
        " create unique index concurrently one_title on public.tasks (title)"
    )
    assert (status, "not unique by one_title" in text) == ("failed", True)
    assert await indexes(project.database) == {"tasks_by_due": True}


async def test_an_index_that_a_failed_change_dropped_is_said_to_stay_dropped(project: Project) -> None:
    await project.database.owner("create index tasks_by_due on public.tasks (due_on)")
    await secret(project.database)
    await secret(project.database)
    _, status, text = await project.applied(
        "drop index concurrently public.tasks_by_due; create unique index concurrently one_title on public.tasks (title)"
    )
    assert (status, "Nothing was changed" in text, "public.tasks_by_due stays dropped" in text) == (
        "failed",
        False,
        True,
    )


async def test_a_change_with_an_operator_but_no_check_is_not_put_to_a_person(project: Project) -> None:
    change = await project.proposed(COLUMN)
    carried = await project.bench.carry_out_all(
        await project.bench.planned("supabase_migrate", {"action": "apply", "change": change})
    )
    assert carried.asks == []
    assert "only a checked one is applied" in (carried.ended[0].result or "")
