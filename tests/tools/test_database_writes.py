"""database_query that writes: shown first, agreed to, exactly that, and told in rows that the server counted."""

import json
from collections.abc import AsyncIterator

import pytest

from infra.local.facts import StackFacts
from tests.attacks.sql_world import WriteWorld
from tests.support.bench import Bench
from tests.support.database import Template
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus
from workers.tools import database_query, schema_page
from workers.tools.database_query import Args
from workers.tools.tool import ToolContext


@pytest.fixture
async def bench(bare_template: Template, stack: StackFacts) -> AsyncIterator[Bench]:
    """The run of somebody who owns team 2 and items 11 to 18; PAM's own default asks before a write."""
    async with bare_template.clone() as database, WriteWorld.open(database, stack, statement_seconds=4) as world:
        bench = world.bench
        await database.rpc(
            bench.user_id, "reset_policy", org_id=bench.org_id, role="owner", tool="database_query", effect="write"
        )
        yield bench


async def test_an_update_is_shown_row_by_row_and_then_done(bench: Bench) -> None:
    sql = "update items set amount = amount + $1, title = 'seen' where id in (11, 12) returning id, amount as now"
    call, ask = await bench.asked("database_query", sql=sql, parameters=[5], write=True)
    assert await bench.database.admin("select 1 from public.items where title = 'seen'") == []
    lines = (ask.shown or "").splitlines()
    assert lines[0] == "The update would write 2 of public.items:"
    before, after = json.loads(lines[1].removeprefix("- ")), json.loads(lines[2].removeprefix("+ "))
    assert before == {"id": 11, "amount": 0, "title": "mine"}, "its key and what changes, and nothing else"
    assert after == {"id": 11, "amount": 5, "title": "seen"}
    assert {name: ask.facts[name] for name in ("rows", "tables")} == {"rows": 2, "tables": {"public.items": 2}}
    done = await bench.carry_out(await bench.decided(call, ask, verdict="approve"))
    assert done.status is CallStatus.SUCCEEDED
    assert (done.result or "").splitlines() == [
        "The update wrote 2 of public.items.", '{"id":11,"now":5}', '{"id":12,"now":5}',
    ]  # fmt: skip
    rows = await bench.database.admin("select id from public.items where title = 'seen' order by id")
    assert [row["id"] for row in rows] == [11, 12]
    written = await bench.database.admin("select tables from pam_private.agent_writes where call_id = %s", call.id)
    assert written == [{"tables": {"public.items": 2}}]


async def test_what_changes_far_behind_in_a_long_row_is_shown_too(bench: Bench) -> None:
    long = "x" * 30_000
    await bench.database.admin("update public.items set title = %s where id in (11, 12)", long)
    _, ask = await bench.asked(
        "database_query", sql="update items set title = title || $1 where id = 11", parameters=["!"], write=True
    )
    before, after = (json.loads(line[2:]) for line in (ask.shown or "").splitlines()[1:])
    assert before["title"] != after["title"], "the digests differ where the beginnings are the same"
    assert "[cut: 30002 characters, sha256 " in before["title"]
    _, ask = await bench.asked(
        "database_query", sql="update items set amount = 7 where id = 12", parameters=[], write=True
    )
    assert [json.loads(line[2:]) for line in (ask.shown or "").splitlines()[1:]] == [
        {"id": 12, "amount": 0}, {"id": 12, "amount": 7},
    ]  # fmt: skip


async def test_a_time_of_day_that_is_written_is_no_other_content(bench: Bench) -> None:
    sql = "update items i set title = 'at ' || now()::text from teams t where t.id = i.team_id and i.id = 11"
    call, ask = await bench.asked("database_query", sql=sql, write=True)
    assert (await bench.carry_out(await bench.decided(call, ask, verdict="approve"))).status is CallStatus.SUCCEEDED


async def test_a_declined_write_leaves_everything_as_it_was(bench: Bench) -> None:
    call, ask = await bench.asked("database_query", sql="delete from items where id = 11", write=True)
    assert '- {"id": 11' in (ask.shown or "")
    done = await bench.carry_out(await bench.decided(call, ask, verdict="reject", note="Not that one."))
    assert done.status is CallStatus.REFUSED
    assert await bench.database.admin("select id from public.items where id = 11") == [{"id": 11}]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("insert into items (team_id, owner_id, title) values (2, '<me>', 'new') returning title", '{"title":"new"}'),
        ("insert into items (team_id, owner_id, title) select 2, owner_id, title from items where id = 11", "wrote 1 of public.items."),
        ("insert into stamps (body) values ('made') returning made_by", '{"made_by":"<me>"}'),
        ("insert into teams values (2, '<me>', 'new') on conflict (id) do update set name = excluded.name returning *", '"name":"new"'),
        ("delete from items i using teams t where t.id = i.team_id and i.id = 18", "wrote 1 of public.items."),
        ("update items as i set (title, amount) = (select t.name, 3) from teams t where t.id = i.team_id and i.id = 11", "wrote 1 of public.items."),
        ("with one as (select min(id) as id from items) delete from items where id in (select id from one)", "wrote 1 of public.items."),
        ("update items -- the title\n set title = 'x' -- of one\n where id = 11 -- that one", "wrote 1 of public.items."),
    ],
)  # fmt: skip
async def test_honest_writes_are_done(bench: Bench, sql: str, told: str) -> None:
    status, text = await bench.agreed("database_query", sql=sql.replace("<me>", str(bench.user_id)), write=True)
    assert (status, told.replace("<me>", str(bench.user_id)) in text) == ("succeeded", True), text


async def test_what_a_write_reaches_beside_its_table_is_counted_and_shown(bench: Bench) -> None:
    await bench.database.owner(
        "create table public.notes (id int primary key, item_id bigint references public.items on delete cascade);"
        "insert into public.notes select n, 11 from generate_series(1, 3) n;"
        "select pam.open_writes_to_agent('public.items', cascades => true, max_rows => 5)"
    )
    call, ask = await bench.asked("database_query", sql="delete from items where id = 11", write=True)
    assert (ask.shown or "").startswith("The delete would write 1 of public.items, 3 of public.notes:")
    await bench.database.owner("insert into public.notes values (4, 11)")
    done = await bench.carry_out(await bench.decided(call, ask, verdict="approve"))
    assert (done.status, "The rows changed" in (done.result or "")) == (CallStatus.FAILED, True)
    status, text = await bench.agreed("database_query", sql="delete from items where id = 11", write=True)
    assert (status, text) == ("succeeded", "The delete wrote 1 of public.items, 4 of public.notes.")
    await bench.database.owner("insert into public.notes select n, 12 from generate_series(1, 9) n")
    status, text = await bench.use("database_query", sql="delete from items where id = 12", write=True)
    assert (status, "writes 10 rows, the limit is 5" in text) == ("failed", True)


async def test_a_trigger_that_was_let_in_sees_the_person(bench: Bench) -> None:
    await bench.database.owner(
        "create table public.history (id serial primary key, who uuid);"
        "create function public.noted() returns trigger language plpgsql security definer as"
        " $$ begin insert into public.history (who) values (auth.uid()); return new; end $$;"
        "create trigger noted after update on public.items for each row execute function public.noted();"
        "select pam.open_writes_to_agent('public.items', own_code => true)"
    )
    status, text = await bench.agreed("database_query", sql="update items set amount = 1 where id = 11", write=True)
    assert (status, text) == ("succeeded", "The update wrote 1 of public.history, 1 of public.items.")
    assert await bench.database.admin("select who from public.history") == [{"who": bench.user_id}]


async def test_a_write_is_planned_without_being_run_or_asked_about(bench: Bench) -> None:
    status, text = await bench.use(
        "database_query", sql="update items set amount = 9 where id = 11", write=True, explain=True
    )
    assert (status, "Update on items" in text) == ("succeeded", True)
    assert await bench.database.admin("select 1 from public.items where amount = 9") == []


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("update items set amount = -1 where id = 11", "Nothing was written: new row for relation"),
        ("update items set amount = 1 where id > 10", "Nothing was written: the statement writes 8 rows, the limit is 5."),
        ("update ledger set entry = 'x' where id = 1", "not open to agents for this"),
        ("update nowhere set a = 1 where b = 2", 'relation "nowhere" does not exist'),
        ("insert into items (team_id, owner_id, title) values ($1, $1, $1)", "names 1 parameters; 0 values"),
        ("update items set title = 'x' where id = 999", "would write no rows, so nobody is asked"),
        ("update items set amount = 1 / amount where id = 11", "Nothing was written: division by zero"),
    ],
)  # fmt: skip
async def test_a_write_that_cannot_be_shown_ends_with_a_reason_and_asks_nobody(
    bench: Bench, sql: str, told: str
) -> None:
    status, text = await bench.use("database_query", sql=sql, write=True)
    assert (status, told in text) == ("failed", True), text


async def test_what_may_be_written_is_described(bench: Bench) -> None:
    _, text = await bench.use("database_query", describe=True)
    assert "items (about" in text
    assert "read, insert, update, delete; at most 5 rows a write" in text
    assert "ledger (about" in text
    assert "CHECK ((amount >= 0))" in text
    assert "default auth.uid()" in text
    await bench.database.owner("alter table public.items add column more text")
    _, text = await bench.use("database_query", describe="items")
    assert "read only: what a write does changed" in text


async def test_many_tables_are_listed_and_told_one_by_one(bench: Bench) -> None:
    _, whole = await bench.use("database_query", describe=True)
    told, schema_page.MAX_WHOLE = schema_page.MAX_WHOLE, 2
    try:
        _, text = await bench.use("database_query", describe=True)
    finally:
        schema_page.MAX_WHOLE = told
    assert "4 tables are open; describe one by its name" in text
    assert "team_id bigint" in whole
    assert "team_id bigint" not in text


def test_only_a_write_that_runs_has_the_effect_of_one() -> None:
    for arguments, effect in (
        ({"sql": "x"}, CallEffect.READ), ({"sql": "x", "write": True}, CallEffect.WRITE),
        ({"sql": "x", "write": True, "explain": True}, CallEffect.READ), ({"describe": True}, CallEffect.READ),
    ):  # fmt: skip
        assert database_query.effect_of(Args(**arguments)) is effect  # type: ignore[arg-type]


async def test_what_comes_from_rows_and_schema_is_marked(bench: Bench) -> None:
    context = ToolContext(bench.hold, bench.org_id, bench.hold.run_id, False, bench.services)
    for arguments, origin in (
        ({"sql": "select id from items"}, database_query.ROWS), ({"sql": "select id from items where false"}, None),
        ({"describe": True}, database_query.SCHEMA), ({"sql": "select 1", "explain": True}, database_query.SCHEMA),
    ):  # fmt: skip
        assert (await database_query.run(Args(**arguments), context)).origin == origin  # type: ignore[arg-type]
