"""The guard on SQL that a model wrote: what it refuses, what it lets pass, and that nothing crashes it."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.tools import sql_guard
from workers.tools.sql_functions import postgast, words
from workers.tools.sql_guard import MAX_CHARACTERS, CheckedStatement, StatementRefused, check

ROOT = Path(__file__).parents[2]

# One line a mechanism: (mechanism, statement, a word of the reason, to show that it fell for that reason).
ATTACKS = [
    ("claims forged by set_config", "select set_config('request.jwt.claims', '{}', true)", "set_config"),
    ("quoted function name", """select "set_config"('a', 'b', true)""", "set_config"),
    ("qualified function name", "select pg_catalog.set_config('a', 'b', true)", "set_config"),
    ("unicode-escaped function name", r"""select U&"set\005fconfig"('a', 'b', true)""", "set_config"),
    ("unicode escape with UESCAPE", "select U&\"set!005fconfig\" UESCAPE '!' ('a', 'b', true)", "set_config"),
    ("upper case folded", "select SET_CONFIG('a', 'b', true)", "set_config"),
    ("comment inside a call", "select set_config/**/('a', 'b', true)", "set_config"),
    ("claims read by current_setting", "select current_setting('request.jwt.claims')", "current_setting"),
    ("forged in one arm of a union", "select 1 union all select set_config('a','b',true)::int", "set_config"),
    ("function in ORDER BY", "select 1 from t order by pg_sleep(9)", "pg_sleep"),
    ("function in FROM", "select * from pg_sleep(9)", "pg_sleep"),
    ("function in a window", "select sum(a) over (partition by pg_sleep(1)) from t", "pg_sleep"),
    ("function in a JOIN condition", "select 1 from a join b on pg_cancel_backend(a.id)",
     "pg_cancel_backend"),
    ("function in an array subscript", "select a[pg_sleep(1)::text::int] from t", "pg_sleep"),
    ("function as a named argument", "select make_interval(days => nextval('s')::int)", "nextval"),
    ("function in CTE", "with a as materialized (select lo_import('/etc/passwd')) select * from a",
     "lo_import"),
    ("dotted call on a literal", "select (5.0::float8).pg_sleep", "pg_sleep"),
    ("dotted call on a column", "select (t.name).current_setting from t", "current_setting"),
    ("dotted call after a subscript", "select (array['x'::text])[1].current_setting", "current_setting"),
    ("dotted call on a function's row", "select s.current_setting from unnest(array['x'::text]) s",
     "current_setting"),
    ("dotted call, columns named", "select s.current_setting from unnest(array['x']) as s(y)",
     "current_setting"),
    ("dotted call, no alias", "select unnest.pg_read_file from unnest(array['x'::text])", "pg_read_file"),
    ("dotted call, alias is the name", "select lo_get.lo_get from unnest(array[1]) as lo_get(x)", "lo_get"),
    ("dotted call, alias used twice",
     "select s.pg_sleep from unnest(array[1.0::float8]) s where exists "
     "(select 1 from unnest(array[1]) as s(pg_sleep))", "pg_sleep"),
    ("dotted call on a cast in FROM", "select s.x from cast('x' as text) as s(x)", "FROM takes"),
    ("text run as SQL by ts_stat", "select * from ts_stat('select 1')", "ts_stat"),
    ("text run as SQL by ts_rewrite", "select ts_rewrite('a'::tsquery, 'select 1')", "ts_rewrite"),
    ("text run as SQL by query_to_xml", "select query_to_xml('select 1', true, true, '')", "query_to_xml"),
    ("table read by table_to_xml", "select table_to_xml('auth.users', true, true, '')", "table_to_xml"),
    ("another connection by dblink", "select * from dblink('host=x', 'select 1') as t(a int)", "dblink"),
    ("http from the database", "select net.http_post('http://x', '{}'::jsonb)", "net.http_post"),
    ("team's function that is not open", "select public.delete_everything()", "not open"),
    ("function of three parts", "select postgres.pg_catalog.pg_sleep(1)", "not open"),
    ("two statements", "select 1; select 2", "one statement"),
    ("transaction left", "commit; set role postgres", "one statement"),
    ("transaction alone", "rollback", "transaction"),
    ("nothing at all", " ; -- nothing", "one statement"),
    ("setting by SET", "set role service_role", "SET"),
    ("setting by SHOW", "show all", "SHOW"),
    ("write by INSERT", "insert into t values (1)", "INSERT writes"),
    ("write by UPDATE", "update t set a = 1", "UPDATE writes"),
    ("write by MERGE", "merge into t using s on true when matched then delete", "MERGE writes"),
    ("write in a CTE", "with d as (delete from t returning *) select * from d", "inside WITH"),
    ("write in a nested CTE", "select (with u as (update t set a=1 returning a) select a from u)",
     "inside WITH"),
    ("table made by INTO", "select * into stolen from t", "INTO"),
    ("row locks", "select * from t for update", "lock"),
    ("row locks in a subquery", "select * from (select * from t for share skip locked) s", "lock"),
    ("program run by COPY", "copy (select 1) to program 'id'", "COPY"),
    ("code run by DO", "do $$ begin perform 1; end $$", "DO"),
    ("statement hidden in EXPLAIN", "explain analyze delete from t", "option of the tool"),
    ("signal by NOTIFY", "notify pgrst, 'reload schema'", "NOTIFY"),
    ("structure by DROP", "drop table t", "supabase_migrate"),
    ("catalog, qualified", "select * from pg_catalog.pg_roles", "closed"),
    ("catalog, unqualified", "select query from pg_stat_activity", "catalog"),
    ("catalog, unicode-escaped", r'select * from U&"pg\005fauthid"', "catalog"),
    ("catalog behind a CTE name", "with pg_roles as (select 1) select * from pg_roles", "catalog"),
    ("catalog of the standard", "select * from information_schema.tables", "closed"),
    ("platform's users", "select * from auth.users", "closed"),
    ("platform's secrets", "select * from vault.decrypted_secrets", "closed"),
    ("PAM's own tables", "select * from pam.connections", "closed"),
    ("temporary schema", "select * from pg_temp.t", "closed"),
    ("schema in upper case", 'select * from "AUTH".users', "closed"),
    ("another database", "select * from other.public.t", "without a database"),
    ("role by CURRENT_USER", "select current_user", "roles"),
    ("role by SYSTEM_USER", "select system_user", "system_user"),
    ("database by CURRENT_CATALOG", "select current_catalog", "roles"),
    ("foreign operator", "select 1 operator(evil.+) 2", "operator"),
    ("foreign operator on ANY", "select 1 operator(evil.=) any (select 1)", "operator"),
    ("foreign operator in ORDER BY", "select 1 from t order by a using operator(evil.<)", "operator"),
    ("unknown operator", "select 1 @#@#@ 2", "operator"),
    ("catalog lookup by regclass", "select 'pg_authid'::regclass", "regclass"),
    ("catalog lookup by function", "select to_regclass('auth.users')", "to_regclass"),
    ("cast by function notation", "select regclass('auth.users')", "regclass"),
    ("cast to xml", "select '<a/>'::xml", "xml"),
    ("cast to a foreign type", "select 'x'::evil.domain_with_a_check", "may not be cast"),
    ("cast to a set", "select cast(1 as setof int)", "may not be cast"),
    ("cast in a column definition", "select * from json_to_record('{}') as x(a regclass)", "regclass"),
    ("cast in JSON_TABLE", "select * from json_table('[]', '$' columns (a regclass path '$'))", "regclass"),
    ("cast in RETURNING", "select json_value('{}', '$' returning regrole)", "regrole"),
    ("call in JSON_TABLE's input",
     "select * from json_table(pg_read_file('x')::jsonb, '$' columns (a int))", "pg_read"),
    ("type by %TYPE of TREAT", "select treat('x' as regclass)", "regclass"),
    ("entities by XMLPARSE", "select xmlparse(document '<a/>')", "XML"),
    ("entities by XMLTABLE", "select * from xmltable('/a' passing d columns x int)", "XMLTABLE"),
    ("xpath by XMLEXISTS", "select xmlexists('/a' passing by ref d) from t", "xmlexists"),
    ("foreign collation", "select a collate evil.c from t", "collation"),
    ("collation lookup", "select collation for (a) from t", "pg_collation_for"),
    ("foreign sampling method", "select * from t tablesample evil.method(1)", "sampling"),
    ("foreign sampling, unqualified", "select * from t tablesample system_time(9)", "sampling"),
    ("random numbers", "select setseed(0.5)", "setseed"),
    ("bomb: endless series", "select * from generate_series(1, 1000000000)", "generate_series"),
    ("bomb: series by parameter", "select * from generate_series(1, $1)", "generate_series"),
    ("bomb: series by subquery", "select * from generate_series(1, (select max(id) from t))",
     "generate_series"),
    ("bomb: series of seconds", "select generate_series(now() - interval '9 years', now(), '1 s')",
     "generate_series"),
    ("bomb: repeat", "select repeat('x', 1000000000)", "repeat"),
    ("bomb: repeat by column", "select repeat('x', n) from t", "repeat"),
    ("bomb: width in format", "select format('%1000000000s', 'x')", "format"),
    ("bomb: width by argument", "select format('%*s', 1000000000, 'x')", "format"),
    ("bomb: width in a type", "select 'x'::char(10000000)", "length"),
    ("bomb: array_fill", "select array_fill(0, array[100000000])", "array_fill"),
    ("bomb: factorial", "select factorial(32177)", "factorial"),
    ("bomb: long regular expression", f"select regexp_match(a, '{'(a|b)*' * 300}') from t", "regular"),
    ("parameter zero", "select $0", "parameters"),
    ("parameter gap", "select $2", "parameters"),
    ("parameter flood", "select " + ",".join(f"${n}" for n in range(1, 1002)), "parameters"),
    ("NUL hides the rest", "select 1\0; drop table t", "NUL"),
    ("lone surrogate", "select '\ud800'", "Unicode"),
    ("broken syntax", "select from where", "line 1"),
    ("unterminated string", "select 'abc", "unterminated"),
]  # fmt: skip

HONEST = [
    "select 1",
    "table orders",
    "values (1, 'a'), (2, 'b')",
    "select * from public.orders where id = $1 and status = $2 limit 20",
    "with recent as (select * from orders where created_at > now() - interval '7 days') select count(*) from recent",
    "with recursive tree as (select id, parent_id, 0 as depth from nodes where parent_id is null "
    "union all select n.id, n.parent_id, t.depth + 1 from nodes n join tree t on t.id = n.parent_id) "
    "search depth first by id set ord cycle id set looped using path select * from tree where depth < 20",
    "select id, row_number() over (partition by customer_id order by created_at desc) from orders",
    "select id, sum(total) over w, lag(total) over w from orders window w as (order by id rows 3 preceding)",
    "select o.id, l.total from orders o cross join lateral (select sum(i.total) as total from items i "
    "where i.order_id = o.id) l",
    "select data ->> 'name', data #>> '{a,b}', data -> 'tags' ? 'x' from profiles where data @> '{\"a\": 1}'",
    "select count(*) filter (where status = 'open') as open, count(*) from orders",
    "select customer_id, array_agg(distinct status order by status) from orders group by customer_id",
    "select date_trunc('week', created_at at time zone 'Europe/Berlin'), count(*) from orders group by 1 order by 1",
    "select percentile_cont(0.95) within group (order by latency_ms) from requests",
    "select coalesce(name, 'none'), nullif(a, 0), greatest(a, b), least(a, b) from t",
    "select case when total > 100 then 'big' when total is null then 'none' else 'small' end from orders",
    "select * from users where email ilike '%@example.com' and name like 'A!_%' escape '!' and x similar to 'a+'",
    r"select regexp_replace(phone, '\D', '', 'g'), phone ~* '^\+49' from users",
    "select region, product, sum(amount), grouping(region) from sales group by rollup (region, product)",
    "select region from sales group by grouping sets ((region), cube (product, year), ()) having sum(amount) > 5",
    "select * from users u where exists (select 1 from orders o where o.user_id = u.id)",
    "select * from users where id = any($1::uuid[]) and created_at between $2 and $3::timestamptz",
    "select e.key, e.value from profiles p, jsonb_each(p.data) as e",
    "select item ->> 'sku' from orders, jsonb_array_elements(items) with ordinality as x(item, position)",
    "select x.a, x.b from jsonb_to_recordset('[]') as x(a int, b text)",
    "select jt.sku from orders, json_table(items, '$[*]' columns (sku text path '$.sku', n for ordinality)) jt",
    "select json_build_object('id', u.id, 'orders', json_agg(o)) from users u "
    "left join orders o using (user_id) "
    "group by u.id",
    "select json_object('a': 1, 'b': null absent on null), json_value(d, '$.a' returning int), d is json from t",
    "select d.day, count(o.id) from generate_series(date_trunc('day', now()) - "
    "interval '30 days', now(), '1 day') "
    "as d(day) left join orders o on o.created_at::date = d.day group by d.day",
    "select g from generate_series('2026-01-01'::date, '2026-12-31'::date, interval '1 month') as g",
    "select n from generate_series(1, 100) as n",
    "select s.s from unnest(string_to_array($1, ',')) as s",
    "select title, ts_rank(search, q) from docs, websearch_to_tsquery('english', $1) q where search @@ q",
    "select id from docs order by embedding <=> $1::extensions.vector limit 5",
    "select extract(epoch from now() - created_at), age(created_at), current_date, current_timestamp from t",
    "select overlay('abc' placing 'x' from 2), position('a' in b), substring(a from 2 for 3), trim(both from a) from t",
    "(select 1 union select 2) intersect select 2 except select 3 order by 1 fetch first 3 rows with ties",
    "select distinct on (user_id) * from orders tablesample bernoulli (10) "
    "order by user_id, created_at desc nulls last",
    "select (jsonb_each(d)).key, arr[1], arr[1:2], row(a, b), array[1, 2], (select max(id) from t) from t",
    "select lpad(id::text, 8, '0'), repeat('-', 20), format('%s of %-10s', a, b), round(x, 2)::numeric(10, 2) from t",
    'select a collate "C", b is not distinct from c, (a, b) < (1, 2), not d is true from t order by a using <',
    "/* report */ select 'a -- no comment; really' as text; -- done",
    "select " + " || ".join(["name"] * 40) + " from t",
    "select 1 from t where " + " or ".join(f"id = {n}" for n in range(400)),
    " union all ".join(f"select '{n}', count(*) from t{n}" for n in range(60)),
    "select 1 where x in (" + ", ".join(str(n) for n in range(5000)) + ")",
]


def refusal(sql: str, **options: frozenset[str]) -> str:
    with pytest.raises(StatementRefused) as caught:
        check(sql, **options)
    return str(caught.value)


@pytest.mark.parametrize(("sql", "word"), [pytest.param(a[1], a[2], id=a[0]) for a in ATTACKS])
def test_an_attack_is_refused_for_its_own_reason_in_a_sentence(sql: str, word: str) -> None:
    sentence = refusal(sql)
    assert word in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 400


def test_the_attacks_differ_by_mechanism_and_are_many() -> None:
    assert len({mechanism for mechanism, _, _ in ATTACKS}) == len(ATTACKS) >= 60 > 30 <= len(HONEST)


@pytest.mark.parametrize("sql", HONEST)
def test_an_honest_statement_passes(sql: str) -> None:
    assert isinstance(check(sql), CheckedStatement)


def test_the_tables_read_are_listed_with_their_schema_and_without_ctes() -> None:
    sql = (
        "with a as (select * from a), b as (select * from a, c.d) "
        "select * from b, (with e as (select 1) select * from e) x, e, c.a where $1 > 0 and x.f = $2"
    )
    checked = check(sql)
    assert checked.tables == ((None, "a"), ("c", "d"), (None, "e"), ("c", "a"))
    assert checked.parameter_count == 2
    assert checked.attributes == ("f",)


def test_a_recursive_cte_is_no_table_to_itself() -> None:
    assert check("with recursive r as (select 1 as n union select n + 1 from r) select * from r").tables == ()
    assert check("with r as (select 1 as n union select n + 1 from r) select * from r").tables == ((None, "r"),)


def test_what_runs_is_the_statement_without_outer_comments_and_semicolon() -> None:
    assert check("-- ä\n /* x */ select 'ö;' /* in */ , 1 -- y\n ; ; -- z").sql == "select 'ö;' /* in */ , 1"


def test_the_teams_own_function_runs_only_where_it_is_open_and_by_its_full_name() -> None:
    opted = frozenset({"public.monthly_report"})
    assert check("select * from public.monthly_report($1) as m(total)", opened_functions=opted).tables == ()
    assert "public.monthly_report" in refusal("select monthly_report(1)", opened_functions=opted)
    assert "not open" in refusal("select other.monthly_report(1)", opened_functions=opted)
    assert "m.secret" in refusal("select m.secret from public.monthly_report(1) as m(total)", opened_functions=opted)


def test_a_builtin_cannot_be_opened_past_the_list() -> None:
    assert "pg_sleep" in refusal("select pg_catalog.pg_sleep(1)", opened_functions=frozenset({"pg_catalog.pg_sleep"}))


def test_a_syntax_error_names_its_line() -> None:
    assert "line 3" in refusal("select 1,\n  2\n  form t")


def test_a_statement_at_the_limit_is_read_and_one_above_is_not() -> None:
    padding = " " * (MAX_CHARACTERS - len("select 1"))
    assert check("select 1" + padding).sql == "select 1"
    assert "limit" in refusal("select 1" + padding + " ")


def test_brackets_are_read_to_their_limit_and_no_deeper() -> None:
    assert check("select " + "(" * 200 + "1" + ")" * 200).tables == ()
    assert "more than 200 deep" in refusal("select " + "(" * 201 + "1" + ")" * 201)


def test_every_node_of_an_unknown_type_is_refused() -> None:
    """Take the honest statements' node types away one at a time: each absence must be noticed."""
    seen = {
        type(node).__name__
        for sql in HONEST
        for _, node in postgast.walk(postgast.unwrap_node(postgast.parse(sql).stmts[0].stmt))
    } - {"WithClause", "Node"}
    assert len(seen) > 40
    known = sql_guard._NODES
    for gone in sorted(seen):
        sql_guard._NODES = known - {gone}
        try:
            assert any(_refused(sql, f"{gone} is not known") for sql in HONEST), gone
        finally:
            sql_guard._NODES = known


def _refused(sql: str, reason: str) -> bool:
    try:
        check(sql)
    except StatementRefused as refused:
        return reason in str(refused)
    return False


def test_the_grammar_is_the_one_whose_nodes_were_reviewed() -> None:
    """A new major of the grammar may add fields and nodes: review them, then change this number."""
    assert postgast.parse("select 1").version // 10_000 == 18


# Run in a process of its own on a thread of 2 MiB, to see whether the process survives.
SIZES = """
import threading, time
from workers.tools.sql_guard import StatementRefused, check

N, M = 10_000, 48_000
texts = {
    "brackets": "select " + "(" * N + "1" + ")" * N,
    "megabyte": "select '" + "x" * 1_000_000 + "'",
    "or terms": "select 1 where a" + " or a" * 100_000,
    "or terms that fit": "select 1 where a" + " or a" * 19_000,
    "plus": "select 1" + "+1" * M,
    "between": "select a" + " between 1 and 2 is null" * 4_000,
    "plus signs": "select " + "+" * 99_000,
    "signs": "select " + "+-" * 49_000,
    "runs of signs": "select " + ("+" * 200 + "1 ") * 490,
    "not": "select " + "not " * 24_000 + "a",
    "minus": "select " + "- " * M + "a",
    "casts": "select a" + "::int" * 19_000,
    "operators": "select a" + " operator(pg_catalog.+) a" * 3_900,
    "unions": "select 1, 2" + " union select 1, 2" * 5_000,
    "joins": "select 1 from a" + " join a on a" * 8_000,
    "cases with ends": "select " + "case when " * 5_000 + "1" + " then 1 end" * 4_000,
    "subselects": "select " + "(select " * 190 + "1" + ")" * 190,
    "conditions": "select " + "a and not (b or " * 190 + "c" + ")" * 190,
    "dense levels": "select " + "(- - - - case when 1 + " * 160 + "1" + " then 1 end)" * 160,
    "subscripts": "select a" + "[1]" * 30_000,
    "commas": "select 1" + ",1" * 49_000,
    "comments": "/*" * 49_000,
    "runs of comments": ("/*" * 100 + " ") * 490,
    "closed comments": "/* " * 90 + "*/ " * 90 + "select 1",
    "nul": "\\0" * 99_000,
    "wide": "select '" + "\U0001f600" * 99_000 + "'",
    "wide error": "\U0001f600" * 99_000,
    "long name": "select " + "ä" * 90_000,
    "long wrong name": "select select " + "ä" * 90_000,
}

def run():
    for name, text in texts.items():
        began = time.process_time()
        try:
            check(text)
            print("passed", name)
        except StatementRefused as refused:
            assert len(str(refused)) < 400, name
            print("refused", name)
        assert time.process_time() - began < 3, name

threading.stack_size(2 * 1024 * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
print("alive", len(texts))
"""


def test_no_size_and_no_depth_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", SIZES], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:], done.stdout[-500:])
    lines = done.stdout.splitlines()
    passed = {line.removeprefix("passed ") for line in lines if line.startswith("passed ")}
    assert passed == {"or terms that fit", "commas", "closed comments", "wide", "long name"}
    assert sum(line.startswith("refused ") for line in lines) + len(passed) == int(lines[-1].split()[1])


SQL_WORDS = st.sampled_from(
    sorted(
        words(
            """select from where ( ) [ ] , ; . * + - :: $1 'a' "b" U&" /* */ -- $$ with as union values case
            when then end not in is null over filter json_table lateral t pg_sleep \0 \ud800 ä E'\\x' for"""
        )
    )
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(SQL_WORDS, max_size=25).map(" ".join),
        st.lists(SQL_WORDS, max_size=25).map("".join),
    )
)
def test_random_text_is_checked_or_refused_and_never_anything_else(text: str) -> None:
    with contextlib.suppress(StatementRefused):
        assert check(text).sql in text
