"""SQL that attacks: what was tried and what stopped it, each layer alone and both together. None may get through."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from infra.local.facts import StackFacts
from tests.attacks.sql_world import CANARY, WriteWorld, refusal
from tests.database import test_bound_sql
from tests.support.database import Template
from tests.tools import test_sql_guard
from workers.tools.sql_guard import StatementRefused
from workers.tools.sql_writes import check

FORGED = "set_config('request.jwt.claims', '<claims>', true)"
ROW = "insert into public.teams (id, owner_id, name) "
# With the parser off: mechanism → (verb, statement, a word of what stopped it; "" where it runs and reaches nobody's rows).
BOUND: dict[str, tuple[str, str, str]] = {
    "a foreign row updated": ("update", "update public.items set title = 'x' where id = 1", ""),
    "a foreign row deleted": ("delete", "delete from public.items where id = 1", ""),
    "a row given away": ("update", "update public.items set owner_id = '<victim>' where id = 11", "row-level security"),
    "a row into a foreign team": ("insert", "insert into public.items (id, team_id, owner_id, title) values (90, 1, '<me>', 'x')", "row-level security"),
    "a row in somebody's name": ("insert", "insert into public.items (id, team_id, owner_id, title) values (90, 2, '<victim>', 'x')", "row-level security"),
    "foreign rows copied": ("insert", "insert into public.teams (id, owner_id, name) select 90, '<me>', title from public.items where owner_id <> '<me>'", ""),
    "upsert onto a foreign row": ("insert", f"{ROW[:-2]}, code) values (90, '<me>', 'x', '{CANARY}') on conflict (code) do update set name = 'stolen'", "row-level security"),
    "upsert that gives away": ("insert", f"{ROW} values (2, '<me>', 'x') on conflict (id) do update set owner_id = '<victim>'", "row-level security"),
    "foreign key tried out by upsert": ("insert", f"{ROW} values (1, '<me>', 'x') on conflict (id) do nothing", ""),
    "a foreign key's name in the error": ("insert", f"{ROW[:-2]}, code) values (90, '<me>', 'x', '{CANARY}')", "duplicate key"),
    "foreign rows by a join": ("update", "update public.items set title = t.name from public.teams t where t.id = 1 and items.id = 11", ""),
    "foreign rows by USING": ("delete", "delete from public.items using public.teams t where t.id = 1 and items.id = 11", ""),
    "accounts into one's own row": ("update", "update public.items set title = (select email from auth.users limit 1) where id = 11", "permission denied"),
    "PAM's secret into one's own row": ("update", "update public.items set title = (select value from pam_private.settings limit 1) where id = 11", "permission denied"),
    "a closed table into one's own row": ("update", "update public.items set title = (select secret from public.closed limit 1) where id = 11", "permission denied"),
    "claims forged in a condition": ("update", f"update public.items set title = 'x' where {FORGED} is not null and id = 1", ""),
    "claims forged before a row": ("insert", f"{ROW} select 90, '<victim>'::uuid, f from {FORGED} f", "row-level security"),
    "claims forged before a trusted default": ("insert", f"insert into public.stamps (body) select f from (select {FORGED} offset 0) as x (f)", "row-level security"),
    "a trusted default by hand": ("insert", "insert into public.stamps (made_by, body) values ('<victim>', 'x')", "permission denied"),
    "claims forged in a CTE": ("update", f"with f as materialized (select {FORGED} as c) update public.items set title = 'x' from f where f.c is not null and items.id = 1", ""),
    "role authenticated": ("update", "update public.items set title = 'x' where set_config('role', 'authenticated', true) <> '' and id = 11", "permission denied"),
    "role postgres": ("update", "update public.items set title = 'x' where set_config('role', 'postgres', true) <> '' and id = 11", "permission denied"),
    "session authorization": ("update", "update public.items set title = 'x' where set_config('session_authorization', 'postgres', true) <> '' and id = 11", "permission denied"),
    "row security off, then SQL in text": ("update", "update public.items set title = query_to_xml('update public.items set title = ''x'' where id = 1', true, true, '')::text where set_config('row_security', 'off', true) <> '' and id = 11", "row-level security"),
    "a settlement of its own": ("update", "update public.items set title = query_to_xml($q$select pam_private.settle_write('<call>', 0)$q$, true, true, '')::text where set_config('role', 'none', true) <> '' and id = 11", "Nothing was written"),
    "a second binding": ("update", "update public.items set title = query_to_xml($q$select pam_private.bind_rehearsal('<run>', <fence>)$q$, true, true, '')::text where set_config('role', 'none', true) <> '' and id = 11", "Nothing was written"),
    "a binding to write by name": ("update", "update public.items set title = pam_private.bind_write('<run>', <fence>, '<call>')::text where id = 11", "permission denied"),
    "the count begun anew": ("update", "update public.items set title = pam_private.count_from_here()::text where id = 11", "permission denied"),
    "the binding's row": ("update", "with b as (update pam_private.agent_bindings set user_id = '<victim>' returning 1) update public.items set title = 'x' where id = 1", "permission denied"),
    "the ledger's row": ("update", "with b as (update pam.tool_calls set status = 'planned' returning 1) update public.items set title = 'x' where id = 11", "permission denied"),
    "the record of writes": ("update", "with b as (delete from pam_private.agent_writes returning 1) update public.items set title = 'x' where id = 11", "permission denied"),
    "the audit": ("update", "with b as (insert into pam.audit (org_id, action, is_allowed) values ('<org>', 'forged', true) returning 1) update public.items set title = 'x' where id = 11", "permission denied"),
    "what is open, widened": ("update", "with b as (update pam_private.opened_writes set max_rows = 1000 returning 1) update public.items set title = 'x' where id = 11", "permission denied"),
    "opening by itself": ("update", "update public.items set title = pam.open_writes_to_agent('public.ledger')::text where id = 11", "permission denied"),
    "a table that is open for reading": ("update", "with b as (update public.ledger set entry = 'x' returning 1) update public.items set title = 'x' where id = 11", "permission denied"),
    "a command that is not open": ("update", "with b as (delete from public.teams where id = 2 returning 1) update public.items set title = 'x' where id = 11", "permission denied"),
    "a column that people may not write": ("update", "update public.items set approved_by = 'me' where id = 11", "permission denied"),
    "the key itself": ("update", "update public.items set id = 1000 where id = 11", "permission denied"),
    "too many rows": ("update", "update public.items set amount = 1 where id > 10", "writes 8 rows, the limit is 5"),
    "too many rows by a CTE": ("update", "with b as (update public.items set amount = 1 where id > 12 returning 1) update public.items set amount = 2 where id = 11", "writes 7 rows, the limit is 5"),
    "too many rows over two tables": ("update", "with b as (update public.items set amount = 1 where id > 13 returning 1) update public.teams set name = 'x' where id = 2", "writes 6 rows, the limit is 5"),
    "too many rows by insert": ("insert", f"{ROW} select n, '<me>', 'x' from generate_series(90, 95) n", "writes 6 rows, the limit is 5"),
    "a definer's function that writes": ("update", "update public.items set title = public.write_ledger('forged') where id = 11", "not open for it"),
    "a large object": ("update", "update public.items set title = lo_from_bytea(0, 'x')::text where id = 11", "more than rows"),
    "a lock of the session": ("update", "update public.items set title = 'mine' where pg_advisory_lock(4711) is not null and id = 11", ""),
    "the sweeper's lock": ("update", "update public.items set title = 'mine' where pg_advisory_lock(hashtextextended('pam sweep', 0)) is not null and id = 11", ""),
    "a sequence set": ("update", "update public.items set amount = setval('public.items_id_seq', 1) where id = 11", "permission denied"),
    "a sequence moved": ("update", "update public.items set amount = nextval('public.items_id_seq') where id = 11", "permission denied"),
    "sleep past the limit": ("update", "update public.items set title = 'x' where pg_sleep(30) is not null and id = 11", "longer than 1 s"),
    "the limit off, then sleep": ("update", "update public.items set title = 'x' where set_config('statement_timeout', '0', true) <> '' and pg_sleep(30) is not null and id = 11", "longer than 1 s"),
    "a broken check": ("update", "update public.items set amount = -1 where id = 11", "check constraint"),
    "two statements": ("update", "update public.items set title = 'x' where id = 11; delete from public.items where id > 0", "multiple commands"),
    "commit in front": ("update", "commit; update public.items set title = 'x' where id = 11", "syntax error"),
    "commit alone": ("update", "commit", "syntax error"),
    "back past the savepoint": ("update", "rollback to savepoint pam_rehearsal", "syntax error"),
    "the savepoint let go": ("update", "release savepoint pam_rehearsal", "syntax error"),
    "a transaction put aside": ("update", "prepare transaction 'x'", "syntax error"),
    "constraints at once": ("update", "set constraints all immediate", "syntax error"),
    "code": ("update", "do $$ begin delete from public.items; end $$", "syntax error"),
    "a temporary table": ("update", "create temp table stolen as select * from public.items", "something else than it says"),
    "truncate": ("delete", "truncate public.items", "syntax error"),
    "merge": ("delete", "merge into public.items using (select 1) s on true when matched then delete", "something else than it says"),
    "a write that calls itself another": ("update", "delete from public.items where id = 11", "something else than it says"),
    "a read that writes in a CTE": ("update", "with b as (update public.items set title = 'x' where id = 11 returning 1) select * from b", "something else than it says"),
    "a message to listeners": ("update", "notify pgrst, 'reload schema'", "syntax error"),
    "a file by COPY": ("update", "copy public.items to '/tmp/pam-stolen'", "syntax error"),
    "row-level security off": ("update", "alter table public.items disable row level security", "syntax error"),
    "a policy dropped": ("update", "drop policy own on public.items", "syntax error"),
    "the plan that runs": ("update", "explain analyze delete from public.items where id = 11", "syntax error"),
    "rows locked and kept": ("update", "select * from public.items for update", "something else than it says"),
}  # fmt: skip

HONEST = ("a write that calls itself another",)  # with the parser on it is called what it is

# By the parser alone: mechanism → (statement, a word of the reason).
GUARDED: dict[str, tuple[str, str]] = {
    "delete without WHERE": ("delete from items", "needs a WHERE"),
    "update without WHERE": ("update items set amount = 1", "needs a WHERE"),
    "a WHERE that is always true": ("delete from items where true", "needs a WHERE"),
    "a WHERE of constants": ("update items set amount = 1 where 1 = 1 or 'a' <> 'b'", "needs a WHERE"),
    "a WHERE of a parameter": ("delete from items where $1", "needs a WHERE"),
    "a cursor's row": ("delete from items where current of c", "needs a WHERE"),
    "merge": ("merge into items using (select 1) s on true when matched then delete", "MERGE"),
    "delete in WITH": ("with d as (delete from teams where id = 2 returning 1) update items set amount = 1 where id = 11", "inside WITH"),
    "insert in WITH of an INSERT": ("insert into items (title) with w as (insert into teams (name) values ('x') returning 1) select 'x' from w", "inside WITH"),
    "two statements": ("update items set amount = 1 where id = 1; delete from items where id = 1", "exactly one"),
    "commit behind": ("update items set amount = 1 where id = 1; commit", "exactly one"),
    "a savepoint": ("savepoint x", "not TRANSACTION"),
    "a generated key overridden": ("insert into items (id, title) overriding system value values (1, 'x')", "OVERRIDING"),
    "a user's key ignored": ("insert into items (id, title) overriding user value values (1, 'x')", "OVERRIDING"),
    "claims forged in SET": ("update items set title = set_config('request.jwt.claims', '{}', true) where id = 1", "set_config"),
    "a function in WHERE": ("update items set title = 'x' where pg_sleep(9) is not null and id = 1", "pg_sleep"),
    "a function in RETURNING": ("delete from items where id = 1 returning pg_notify('a', title)", "pg_notify"),
    "a function in VALUES": ("insert into items (title) values (current_setting('x'))", "current_setting"),
    "a function in ON CONFLICT": ("insert into items (id) values (1) on conflict (id) do update set title = pg_notify('a', 'b')::text", "pg_notify"),
    "a function in its arbiter": ("insert into items (id) values (1) on conflict (lo_unlink(id::oid)) do nothing", "lo_unlink"),
    "a function in its condition": ("insert into items (id) values (1) on conflict (id) do update set id = 1 where pg_cancel_backend(1)", "pg_cancel_backend"),
    "a function in USING": ("delete from items using pg_sleep(9) s where items.id = 1", "pg_sleep"),
    "a function in a subscript": ("update items set tags[nextval('s')::int] = 'x' where id = 1", "nextval"),
    "a function in a row assigned": ("update items set (title, amount) = (select pg_notify('a', 'b')::text, 1) where id = 1", "pg_notify"),
    "a notification in a copy": ("insert into items (title) select pg_notify('a', 'b')::text", "pg_notify"),
    "a large object": ("insert into items (title) values (lo_from_bytea(0, 'x')::text)", "lo_from_bytea"),
    "an advisory lock": ("update items set amount = 1 where pg_advisory_lock(1) is null and id = 1", "pg_advisory_lock"),
    "a team's function": ("insert into items (title) values (public.write_ledger('x'))", "not open"),
    "a call by a dot": ("update items set title = (title).pg_sleep where id = 1", "pg_sleep"),
    "a closed schema's table": ("update pam.runs set status = 'queued' where id = '0'", "closed"),
    "a catalogue": ("delete from pg_class where relname = 'x'", "catalog"),
    "an account": ("update auth.users set email = 'x' where id = '0'", "closed"),
    "a CTE with a catalogue's name": ("with pg_class as (select 1 as a) delete from pg_class where a = 1", "catalog"),
    "rows locked": ("insert into items (title) select title from items for update", "lock"),
    "old and new renamed": ("update items set amount = 1 where id = 1 returning with (old as o) o.amount", "RETURNING takes no WITH"),
    "truncate": ("truncate items", "not TRUNCATE"),
    "a table made": ("create table t as select * from items", "not CREATE TABLE"),
    "copy": ("copy items from stdin", "not COPY"),
    "a message": ("notify pgrst", "not NOTIFY"),
    "a plan that runs": ("explain analyze delete from items where id = 1", "not EXPLAIN"),
    "a policy": ("alter table items disable row level security", "not ALTER TABLE"),
    "a prepared statement": ("prepare p as delete from items where id = 1", "not PREPARE"),
    "a listener": ("listen x", "not LISTEN"),
    "a table locked": ("lock table items", "not LOCK"),
    "a type looked up": ("update items set title = 'pam.runs'::regclass::text where id = 1", "regclass"),
    "NUL": ("update items set title = 'a\0b' where id = 1", "NUL"),
}  # fmt: skip


@pytest.fixture(scope="module")
async def world(bare_template: Template, stack: StackFacts) -> AsyncIterator[WriteWorld]:
    async with bare_template.clone() as database, WriteWorld.open(database, stack, statement_seconds=1) as opened:
        yield opened


def target_of(statement: str) -> str:
    found = re.findall(r"(?:insert into|update|delete from) public\.(\w+)", statement)
    return found[-1] if found else "items"


async def test_with_the_parser_off_no_write_reaches_what_is_not_the_persons(world: WriteWorld) -> None:
    before = await world.footprint()
    wrong: dict[str, Any] = {}
    for name, (verb, statement, word) in BOUND.items():
        attempt = world.unguarded(verb, statement, table=target_of(statement))
        why = await refusal(attempt)
        after = await world.footprint()
        if (word not in why if word else why) or CANARY in why or after != before:
            wrong[name] = (why, [(k, before[0][k], after[0][k]) for k in before[0] if before[0][k] != after[0][k]])
    assert not wrong, wrong


@pytest.mark.parametrize("name", GUARDED)
def test_the_parser_alone_refuses_a_write_in_a_sentence(name: str) -> None:
    statement, word = GUARDED[name]
    with pytest.raises(StatementRefused) as refused:
        check(statement)
    assert word in str(refused.value)
    assert str(refused.value).endswith((".", '"'))
    assert "\n" not in str(refused.value)


async def test_both_layers_together_let_nothing_through_and_say_why_in_a_sentence(world: WriteWorld) -> None:
    before, bench = await world.footprint(), world.bench
    tried = {
        **{f"read: {name}": {"sql": sql} for name, sql in test_bound_sql.ATTACKS.items()},
        **{f"read, parsed: {name}": {"sql": sql} for name, sql, _ in test_sql_guard.ATTACKS if "\0" not in sql},
        **{f"write: {name}": {"sql": sql, "write": True} for name, (_, sql, _) in BOUND.items() if name not in HONEST},
        **{
            f"write, parsed: {name}": {"sql": sql, "write": True}
            for name, (sql, _) in GUARDED.items()
            if "\0" not in sql
        },
    }
    refused = 0
    for name, arguments in tried.items():
        status, text = await bench.use("database_query", **{**arguments, "sql": world.said(arguments["sql"])})
        assert CANARY not in text.replace(world.said(arguments["sql"]), ""), (name, text)
        assert status in ("refused", "failed") or text.startswith(("0 rows", "1 rows", "The ")), (name, text)
        assert "broke inside" not in text, (name, text)
        assert "\n" not in text or status == "succeeded", (name, text)
        assert await world.footprint() == before, name
        refused += status == "refused"
    audited = await bench.database.admin(
        "select count(*) as n from pam.audit where org_id = %s and action = 'tool.database_query' and not is_allowed",
        bench.org_id,
    )
    assert audited[0]["n"] == refused > 150


def test_the_scripts_differ_by_mechanism_and_are_many() -> None:
    reading = {*test_bound_sql.ATTACKS, *(name for name, _, _ in test_sql_guard.ATTACKS)}
    writing = {*BOUND, *GUARDED}
    assert len(reading) > 150
    assert len(writing) > 100
    for scripts in (
        [sql for _, sql, _ in BOUND.values()], [sql for sql, _ in GUARDED.values()], list(test_bound_sql.ATTACKS.values())
    ):  # fmt: skip
        assert len(set(scripts)) == len(scripts)
