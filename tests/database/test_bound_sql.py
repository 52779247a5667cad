"""SQL that a model wrote, with the parser switched off: the binding alone keeps everybody else's rows out of reach."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.database.tracker import CANARY, TABLES, Tracker, bound_sql
from tests.tools.test_sql_guard import HONEST
from workers.kernel.errors import AccessRevoked, FenceLost
from workers.tools.failures import ToolRetry
from workers.tools.sql_guard import check

STEAL = "select title from public.tasks where title like 'CANARY%'"
FORGED = "'request.jwt.claims', '<claims>'"
# One line a mechanism. What is not refused must answer nothing of the victim's. <claims>, <victim>, <run>, <fence> are the victim's.
ATTACKS = {
    "claims forged, then a union": f"select set_config({FORGED}, true) union all {STEAL}",
    "claims forged for the session": f"select set_config({FORGED}, false) union all {STEAL}",
    "quoted name": f'select "set_config"({FORGED}, true) union all {STEAL}',
    "qualified name": f"select pg_catalog.set_config({FORGED}, true) union all {STEAL}",
    "unicode-escaped name": rf'select U&"set\005fconfig"({FORGED}, true) union all {STEAL}',
    "named arguments": f"select set_config(setting_name => 'request.jwt.claims', new_value => '<claims>', is_local => true) union all {STEAL}",
    "the old subject setting": f"select set_config('request.jwt.claim.sub', '<victim>', true) union all {STEAL}",
    "the setting's whole": f"select set_config('request.jwt.claim', '<claims>', true) union all {STEAL}",
    "forged in a materialized CTE": f"with f as materialized (select set_config({FORGED}, true)) select t.title from f, public.tasks t where t.title like 'CANARY%'",
    "forged in a lateral join": f"select t.title from (select set_config({FORGED}, true)) f(x) cross join lateral (select title from public.tasks where title like 'CANARY%' and f.x is not null) t",
    "forged in a scalar subselect": f"select title from public.tasks where (select set_config({FORGED}, true)) is not null and title like 'CANARY%'",
    "forged in each row's condition": f"select title from public.tasks where set_config({FORGED}, true) is not null and title like 'CANARY%'",
    "forged in a CASE": f"select case when set_config({FORGED}, true) <> '' then (select string_agg(title, ',') from public.tasks where title like 'CANARY%') end",
    "forged in an aggregate's order": f"select string_agg(title, ',' order by set_config({FORGED}, true)) from public.tasks where title like 'CANARY%'",
    "forged by a window": f"select title, count(*) over (partition by set_config({FORGED}, true)) from public.tasks where title like 'CANARY%'",
    "role authenticated by setting": f"select set_config('role', 'authenticated', true) union all {STEAL}",
    "role postgres by setting": f"select set_config('role', 'postgres', true) union all {STEAL}",
    "role service_role by setting": f"select set_config('role', 'service_role', true) union all {STEAL}",
    "role none by setting": f"select set_config('role', 'none', true) union all {STEAL}",
    "role none, then SQL in text": f"select query_to_xml($q${STEAL}$q$, true, true, '')::text from (select set_config('role', 'none', true)) f where f is not null",
    "role none, then bind in text": "select query_to_xml($q$select pam_private.bind('<run>', <fence>)$q$, true, true, '')::text from (select set_config('role', 'none', true)) f where f is not null",
    "session authorization": f"select set_config('session_authorization', 'postgres', true) union all {STEAL}",
    "row security off": f"select set_config('row_security', 'off', true) union all {STEAL}",
    "row security off, then SQL in text": f"select query_to_xml($q${STEAL}$q$, true, true, '')::text from (select set_config('row_security', 'off', true)) f where f is not null",
    "search path": f"select set_config('search_path', 'auth', true) union all {STEAL}",
    "writing switched on": "select set_config('transaction_read_only', 'off', true)",
    "query_to_xml": f"select query_to_xml('{STEAL.replace(chr(39), chr(39) * 2)}', true, true, '')::text",
    "query_to_xml with forged claims": f"select query_to_xml($q${STEAL}$q$, true, true, '')::text from (select set_config({FORGED}, true)) f where f is not null",
    "table_to_xml": "select table_to_xml('auth.users', true, true, '')::text",
    "schema_to_xml": "select schema_to_xml('pam', true, true, '')::text",
    "database_to_xml": "select database_to_xml(true, true, '')::text",
    "cursor_to_xml": "select cursor_to_xml('c', 1, true, true, '')::text",
    "ts_stat": "select word from ts_stat($q$select to_tsvector('simple', title) from public.tasks where title like 'CANARY%'$q$)",
    "ts_stat on a foreign table": "select word from ts_stat($q$select to_tsvector('simple', email) from auth.users$q$)",
    "ts_rewrite": "select ts_rewrite('a'::tsquery, $q$select 'a'::tsquery, plainto_tsquery(content) from pam.messages$q$)::text",
    "second bind": f"select pam_private.bind('<run>', <fence>)::text union all {STEAL}",
    "second bind in a CTE": "with b as materialized (select pam_private.bind('<run>', <fence>)) select title from b, public.tasks where title like 'CANARY%'",
    "binding asked for directly": "select pam_private.bound_uid()",
    "binding read": "select claims from pam_private.agent_bindings",
    "binding written in a CTE": "with w as (insert into pam_private.agent_bindings (user_id, claims) values ('<victim>', '{}') returning 1) select * from w",
    "binding changed in a CTE": "with w as (update pam_private.agent_bindings set user_id = '<victim>' returning 1) select * from w",
    "a write in a CTE": "with d as (delete from public.tasks returning title) select * from d",
    "an insert in a CTE": "with d as (insert into public.tasks (project_id, title) values (1, 'x') returning title) select * from d",
    "rows locked": "select title from public.tasks for update",
    "two statements": f"select 1; {STEAL}",
    "out of the wrapper, by commit": f"select 1) as x; commit; set role postgres; {STEAL}; select (1",
    "out of the wrapper, by rollback": "select 1) as x; rollback; select pam_private.bind('<run>', <fence>); select 1 from (select 1",
    "out of the wrapper, by union": f"select 1 as a) x union all ({STEAL}) --",
    "a statement for the wrapper": "commit",
    "code": "do $$ begin perform 1; end $$",
    "a prepared statement": f"prepare p as {STEAL}",
    "a cursor": f"declare c cursor for {STEAL}",
    "a file by COPY": "copy (select 1) to '/tmp/pam-stolen'",
    "a table by INTO": "select 1 as a into temp stolen",
    "a temporary table": "create temp table stolen (a int)",
    "dblink": "select * from dblink('dbname=postgres', 'select 1') as t(a int)",
    "a foreign server": "create extension postgres_fdw",
    "a file read": "select pg_read_file('/etc/passwd')",
    "a folder read": "select pg_ls_dir('/')",
    "a server file read": "select pg_read_binary_file('PG_VERSION')",
    "a large object from a file": "select lo_import('/etc/passwd')",
    "a large object made": "select lo_from_bytea(0, 'x')",
    "a sequence moved": "select nextval(pg_get_serial_sequence('public.tasks', 'id'))",
    "a sequence set": "select setval(pg_get_serial_sequence('public.tasks', 'id'), 1)",
    "a sequence read": "select last_value from public.tasks_id_seq",
    "the session's last number": "select lastval()",
    "a session's lock": "select pg_advisory_lock(4711), pg_advisory_lock_shared(4712)",
    "the sweeper's lock": "select pg_advisory_lock(hashtextextended('pam sweep', 0))",
    "sleep past the limit": "select pg_sleep(30)",
    "the limit switched off, then sleep": "select set_config('statement_timeout', '0', true), pg_sleep(30)",
    "PAM's runs": "select * from pam.runs",
    "PAM's messages": "select content from pam.messages",
    "PAM's claims": "select claims::text from pam_private.run_claims",
    "PAM's secret": "select value from pam_private.settings",
    "a verb of a browser": "select pam.cancel_run('<run>')",
    "a verb of a worker": "select pam_worker.read_conversation('<run>', <fence>)",
    "accounts": "select email from auth.users",
    "passwords": "select rolpassword from pg_authid",
    "live messages": "select payload::text from realtime.messages",
    "webhooks on their way": "select headers::text from net.http_request_queue",
    "a request sent": "select net.http_post('http://127.0.0.1:9', '{}')",
    "others' statements": "select query from pg_stat_activity where query like '%' || 'CAN' || 'ARY%'",
    "statistics of columns": f"select most_common_vals::text, histogram_bounds::text from pg_stats where schemaname in ('public', 'pam', 'auth') and '{CANARY}' <> ''",
    "raw statistics": "select stavalues1::text from pg_statistic",
    "a leaking condition": "select 1 from public.tasks where title::int = 1 and title like 'CANARY%'",
    "a condition that counts by failing": "select 1 / (case when title like 'CANARY%' then 0 else 1 end) from public.tasks",
    "a whole row as text": "select t::text from public.tasks t where t::text like '%CANARY%'",
    "a policy's own table": "select user_id::text from public.members where user_id = '<victim>'",
    "a snapshot exported": "select pg_export_snapshot()",
    "a message to listeners": "select pg_notify('pgrst', 'CANARY'::text) where false",
    "the log written": "select pg_logical_emit_message(true, 'x', 'y')",
    "the settings reloaded": "select pg_reload_conf()",
    "a library loaded": "load 'auto_explain'",
}  # fmt: skip


def theirs(tracker: Tracker, statement: str) -> str:
    held = tracker.holds[tracker.victim]
    claims = json.dumps({"sub": str(tracker.victim), "role": "authenticated"})
    for name, value in (("claims", claims), ("victim", tracker.victim), ("run", held.run_id), ("fence", held.fence)):
        statement = statement.replace(f"<{name}>", str(value))
    return statement


async def footprint(tracker: Tracker) -> Any:
    """What must not change: every count, every number given, and no lock left behind."""
    counts = ", ".join(
        f"(select count(*) from public.{t}) as {t}, (select last_value from public.{t}_id_seq)" for t in TABLES
    )
    return await tracker.database.admin(
        f"select {counts}, (select count(*) from pam.runs) as runs, (select count(*) from pam.audit) as audit,"
        " (select count(*) from pam_private.agent_bindings) as bindings, (select count(*) from net.http_request_queue) as requests,"
        " (select count(*) from pg_class) as relations, (select count(*) from pg_largeobject_metadata) as objects,"
        " (select count(*) from pg_locks k join pg_stat_activity a using (pid) where k.locktype = 'advisory'"
        " and a.usename = 'pam_agent_sql') as locks"
    )


async def seen_by(tracker: Tracker, person: Any) -> dict[str, Any]:
    """What PostgREST would show this person: per table a count and a sum over every byte."""
    answer = {}
    async with tracker.database.person(person) as connection:
        for table in TABLES:
            cursor = await connection.execute(DIGEST.replace("<table>", table).encode())
            answer[table] = await cursor.fetchone()
    return answer


DIGEST = "select count(*) as n, coalesce(sum(hashtext(t::text)::bigint), 0) as content from public.<table> t"


async def test_no_attack_reaches_another_tenants_row_or_leaves_a_trace(tracker: Tracker) -> None:
    before = await footprint(tracker)
    expected = await seen_by(tracker, tracker.colleague)
    secrets = ("root:x:", str(tracker.victim))
    async with (
        bound_sql(tracker.database, statement_seconds=1) as sql,
        await psycopg.AsyncConnection.connect(tracker.database.owner_dsn, autocommit=True) as victims,
    ):
        await victims.execute(f"select '{CANARY}'".encode())  # stands in pg_stat_activity from now on
        for name, attack in ATTACKS.items():
            said = theirs(tracker, attack)
            try:
                answer = str(await sql.select(tracker.holds[tracker.attacker], said, []))
            except ToolRetry as refused:
                answer = str(refused)
            assert CANARY not in answer, (name, answer)
            assert not any(secret in answer for secret in secrets if secret not in said), (name, answer)
            with contextlib.suppress(ToolRetry):
                if "pg_sleep" not in said:  # a second each is enough
                    await sql.explain(tracker.holds[tracker.attacker], said, [])
            rows = await sql.select(tracker.holds[tracker.colleague], DIGEST.replace("<table>", "tasks"), [])
            assert json.loads(rows.rows[0]) == {k: int(v) for k, v in expected["tasks"].items()}, name
            assert await footprint(tracker) == before, name


async def test_the_connection_comes_back_clean(tracker: Tracker) -> None:
    state = (
        "select current_user::text, session_user::text, current_setting('search_path') as path, current_setting('statement_timeout') as t,"
        " current_setting('request.jwt.claims', true) as claims, current_setting('transaction_read_only') as ro,"
        " current_setting('work_mem') as memory, pg_backend_pid() as pid, (select count(*) from pg_cursors) as c"
    )
    async with bound_sql(tracker.database) as sql:
        first = await sql.select(tracker.holds[tracker.attacker], state, [])
        for dirt in (
            "select set_config('request.jwt.claims', '{}', false), set_config('search_path', 'x', false), set_config('role', 'none', false)",
            "select set_config('statement_timeout', '0', false), set_config('work_mem', '1GB', false), pg_advisory_lock(1)",
            "select 1/0",
        ):
            try:
                await sql.select(tracker.holds[tracker.attacker], dirt, [])
            except ToolRetry:
                continue
        after = json.loads((await sql.select(tracker.holds[tracker.colleague], state, [])).rows[0])
    assert {**after, "claims": None} == json.loads(first.rows[0])
    assert after["claims"] in (None, "")  # a placeholder, once named, is empty and not absent
    assert after["current_user"] == "pam_agent"


async def test_each_person_sees_exactly_what_postgrest_shows_them(tracker: Tracker) -> None:
    everybody = []
    async with bound_sql(tracker.database) as sql:
        for person in (tracker.attacker, tracker.colleague, tracker.victim):
            expected = await seen_by(tracker, person)
            for table, row in expected.items():
                answer = await sql.select(tracker.holds[person], DIGEST.replace("<table>", table), [])
                assert json.loads(answer.rows[0]) == {k: int(v) for k, v in row.items()}, (person, table)
            assert expected["tasks"]["n"] > 0
            everybody.append(str(expected["tasks"]))
    assert len(set(everybody)) == 3


async def test_every_honest_statement_that_needs_no_other_table_runs(tracker: Tracker) -> None:
    known = {f"public.{table}" for table in TABLES} | set(TABLES)
    mine = [
        "select status, count(*) from tasks group by status order by 2 desc",
        "select p.name, count(t.id) filter (where t.status = 'open') as open from projects p left join tasks t on t.project_id = p.id group by p.id, p.name",
        "select * from public.tasks where project_id = $1 and due_on < current_date order by due_on limit 20",
        "with late as (select * from tasks where due_on < now() and status <> 'done') select assignee_id, count(*) from late group by 1",
        "select id, row_number() over (partition by project_id order by due_on) from tasks limit 10",
        "select distinct on (project_id) project_id, title from tasks order by project_id, created_at desc",
        "select sum(amount), currency from invoices where paid_on is null group by currency",
        "select m.role, count(*) from members m group by rollup (m.role)",
        "select p.name, l.body from projects p cross join lateral (select c.body from comments c where c.project_id = p.id limit 1) l",
        "select code from invitations where is_open",
        "select date_trunc('week', created_at) as week, count(*) from tasks group by 1 order by 1 limit 5",
        "table projects",
    ]
    own = [sql for sql in HONEST if set(check(sql).tables) <= known and not check(sql).parameter_count]
    assert len(own) >= 3
    async with bound_sql(tracker.database) as sql:
        for statement in mine + own:
            parameters = [1] * check(statement).parameter_count
            reason = ""
            try:
                await sql.select(tracker.holds[tracker.attacker], check(statement).sql, parameters)
            except ToolRetry as refused:
                reason = str(refused)
            # That file's list shows syntax: some of it names columns that no table has.
            assert not reason or (statement in own and "column" in reason), (statement, reason)


async def test_rows_are_capped_by_the_server_in_number_and_in_width(tracker: Tracker) -> None:
    async with bound_sql(tracker.database, max_rows=5, max_row_characters=100, statement_seconds=5) as sql:
        held = tracker.holds[tracker.attacker]
        answer = await sql.select(held, "select generate_series(1, 1000000000) as n", [])
        assert (len(answer.rows), answer.is_cut) == (5, True)
        assert (await sql.select(held, "select n from generate_series(1, 5) n", [])).is_cut is False
        with pytest.raises(ToolRetry, match="more than 100 characters"):
            await sql.select(held, "select repeat('x', 10000000) as wide", [])


async def test_a_statement_that_runs_too_long_is_stopped_and_says_so(tracker: Tracker) -> None:
    async with bound_sql(tracker.database, statement_seconds=1) as sql:
        with pytest.raises(ToolRetry, match="longer than 1 s"):
            await sql.select(tracker.holds[tracker.attacker], "select pg_sleep(20)", [])


async def test_values_are_values_and_never_sql(tracker: Tracker) -> None:
    async with bound_sql(tracker.database) as sql:
        held = tracker.holds[tracker.attacker]
        answer = await sql.select(held, "select $1::text as a", ["x' union all select 'y"])
        assert [json.loads(row) for row in answer.rows] == [{"a": "x' union all select 'y"}]
        assert (await sql.select(held, "select id from tasks where title = $1", ["' or true --"])).rows == ()


async def test_a_binding_needs_a_live_fence_and_an_asker_with_rights(tracker: Tracker) -> None:
    database, held = tracker.database, tracker.holds[tracker.attacker]
    async with bound_sql(database) as sql:
        for wrong in (held.fence - 1, held.fence + 1):
            with pytest.raises(FenceLost):
                await sql.select(replace(held, fence=wrong), "select 1", [])
        for role in ("viewer", None):
            await database.admin("update pam.members set role = 'viewer' where user_id = %s", tracker.attacker)
            if role is None:
                await database.admin("delete from pam.members where user_id = %s", tracker.attacker)
            with pytest.raises(AccessRevoked):
                await sql.select(held, "select 1", [])
        await database.admin(
            "insert into pam.members (org_id, user_id, role) select org_id, user_id, 'owner' from pam.runs where id = %s",
            held.run_id,
        )
        assert (await sql.select(held, "select 1 as one", [])).rows == ('{"one":1}',)


async def test_without_a_binding_the_login_and_its_role_see_nothing(tracker: Tracker) -> None:
    async with await psycopg.AsyncConnection.connect(tracker.database.agent_dsn) as connection:
        for table in TABLES:
            async with connection.transaction(force_rollback=True):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await connection.execute(f"select * from public.{table}".encode())
        await connection.execute("set role pam_agent")
        forged = json.dumps({"sub": str(tracker.victim), "role": "authenticated"})
        await connection.execute("select set_config('request.jwt.claims', %s, true)", [forged])
        for table in TABLES:
            if table != "invitations":  # open to anybody signed in, whoever that is
                row: Any = await (await connection.execute(f"select count(*) from public.{table}".encode())).fetchone()
                assert row[0] == 0, table


async def test_a_transaction_takes_one_statement_reads_only_and_leaves_no_binding(tracker: Tracker) -> None:
    hold = tracker.holds[tracker.attacker]
    async with bound_sql(tracker.database, statement_seconds=5) as sql:
        shown = await sql.select(hold, "select current_setting('transaction_read_only') as it", [])
        assert shown.rows == ('{"it":"on"}',)
        with pytest.raises(ToolRetry, match="multiple commands"):
            await sql.explain(hold, "select 1; select 2", [])
    assert await tracker.database.admin("select 1 from pam_private.agent_bindings") == []
