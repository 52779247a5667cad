"""What must hold for every table, function and grant that the catalogue has; each lint is shown to fail on a planted fault."""

from typing import Any

import psycopg
import pytest

from tests.database.world import World
from tests.support.database import Database
from workers.kernel.sweeps import SCHEDULING, SWEEPS

OURS = "('pam', 'pam_worker', 'pam_private')"
_FUNCTIONS = (
    "select n.nspname || '.' || p.proname as name, p.* from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
    f" where n.nspname in {OURS}"
)
_TABLES = (
    "select n.nspname || '.' || c.relname as name, n.nspname, c.* from pg_class c"
    f" join pg_namespace n on n.oid = c.relnamespace where n.nspname in {OURS} and c.relkind in ('r', 'p', 'v', 'm', 'f')"
)
_KEYS = "(select array_agg(k order by o) from unnest(i.indkey::int2[]) with ordinality as x(k, o) where o <= cardinality({0}))"

# Name → (rows that break the rule, a fault that must be found). The first eleven are Supabase's advisors' rules.
LINTS: dict[str, tuple[str, str]] = {
    "row-level security is enabled and forced": (
        f"select name from ({_TABLES}) t where not (relrowsecurity and relforcerowsecurity)",
        "alter table pam.runs no force row level security",
    ),
    "a table of pam has a policy": (
        f"select name from ({_TABLES}) t where nspname = 'pam' and not exists (select from pg_policy p where p.polrelid = t.oid)",
        'drop policy "People read the runs of their organisations" on pam.runs',
    ),
    "a table has one permissive policy per role and act": (
        "select polrelid::regclass::text as name from pg_policy where polrelid::regclass::text like 'pam%' and polpermissive"
        " group by polrelid, polcmd, polroles having count(*) > 1",
        "create policy more on pam.runs for select to authenticated using (false)",
    ),
    "a policy speaks to signed-in people alone": (
        f"select policyname as name from pg_policies where (schemaname in {OURS} or (schemaname = 'realtime'"
        " and policyname like 'pam: %')) and roles <> '{authenticated}'",
        'alter policy "People read the runs of their organisations" on pam.runs to public',
    ),
    "a policy asks its session once a statement": (
        f"select policyname as name from pg_policies where schemaname in {OURS} and regexp_replace("
        r"concat(qual, with_check), '\( SELECT [^()]*\([^()]*\)', '', 'g') ~ '(auth|pam_private)\.\w+\('",
        "create policy slow on pam.runs for insert to authenticated with check (user_id = auth.uid())",
    ),
    "a policy never trusts user_metadata": (
        f"select policyname as name from pg_policies where schemaname in {OURS} and concat(qual, with_check) ~ 'user_metadata'",
        "create policy fond on pam.runs for insert to authenticated with check ((select auth.jwt()) -> 'user_metadata' ? 'x')",
    ),
    "a function's search_path is empty": (
        f"select name from ({_FUNCTIONS}) f where not coalesce('search_path=\"\"' = any (proconfig), false)",
        "create function pam_private.loose() returns int language sql return 1",
    ),
    "a table has a primary key": (
        f"select name from ({_TABLES}) t where relkind in ('r', 'p')"
        " and not exists (select from pg_index i where i.indrelid = t.oid and i.indisprimary)",
        "create table pam_private.heap (a int)",
    ),
    "a foreign key has an index": (
        "select k.conname as name from pg_constraint k where k.contype = 'f' and k.conrelid::regclass::text like 'pam%'"
        " and not exists (select from pg_index i where i.indrelid = k.conrelid and i.indisvalid and i.indpred is null and "
        + _KEYS.format("k.conkey")
        + " @> k.conkey)",
        "drop index pam.runs_of_agent",
    ),
    "no index doubles another": (
        "select i.indexrelid::regclass::text as name from pg_index i join pg_index j on j.indrelid = i.indrelid"
        " and j.indexrelid <> i.indexrelid and j.indkey = i.indkey and j.indoption = i.indoption"
        " and j.indpred is not distinct from i.indpred where i.indrelid::regclass::text like 'pam%'",
        "create index twice on pam.runs (org_id, agent_id, agent_version)",
    ),
    "no view reads with its owner's rights": (
        f"select name from ({_TABLES}) t where relkind in ('v', 'm')",
        "create view pam.all_runs as select * from pam.runs",
    ),
    "nothing of PAM's lies in public": (
        "select c.relname as name from pg_class c where c.relnamespace = 'public'::regnamespace and c.relname like 'pam%'"
        " union all select p.proname from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname like 'pam%'",
        "create table public.pam_things (id int)",
    ),
    "a table has a comment": (
        f"select name from ({_TABLES}) t where obj_description(oid, 'pg_class') is null",
        "comment on table pam.runs is null",
    ),
    "a function has a comment": (
        f"select name from ({_FUNCTIONS}) f where obj_description(oid, 'pg_proc') is null",
        "comment on function pam.cancel_run is null",
    ),
    "a type has a comment": (
        "select typname as name from pg_type t where t.typtype in ('e', 'd')"
        f" and t.typnamespace::regnamespace::text in {OURS} and obj_description(t.oid, 'pg_type') is null",
        "comment on type pam.run_status is null",
    ),
    "a schema has a comment": (
        f"select nspname as name from pg_namespace where nspname in {OURS} and obj_description(oid, 'pg_namespace') is null",
        "comment on schema pam is null",
    ),
    "no function is anybody's or anon's, but those that a signed link opens": (
        f"select name from ({_FUNCTIONS}) f, aclexplode(coalesce(proacl, acldefault('f', proowner))) a"
        " where a.grantee = 0 or (a.grantee = 'anon'::regrole and name not in ('pam.read_decision_link', 'pam.decide_by_link'))",
        "grant execute on function pam.cancel_run(uuid) to anon",
    ),
    "a table's grants are reading, to authenticated, in pam": (
        f"select format('%s: %s to %s', name, a.privilege_type, a.grantee::regrole) as name from ({_TABLES}) t,"
        " aclexplode(coalesce(relacl, acldefault('r', relowner))) a where a.grantee <> relowner"
        " and not (nspname = 'pam' and a.privilege_type = 'SELECT' and a.grantee = 'authenticated'::regrole)",
        "grant truncate on pam.runs to authenticated",
    ),
    "no column and no sequence has a grant of its own": (
        f"select format('%s.%s', name, a.attname) as name from ({_TABLES}) t join pg_attribute a on a.attrelid = t.oid"
        " where a.attacl is not null union all select c.relname from pg_class c"
        f" where c.relkind = 'S' and c.relnamespace::regnamespace::text in {OURS} and c.relacl is not null",
        "grant update (status) on pam.runs to authenticated",
    ),
    "a schema lets in whom it must": (
        "select format('%s: %s to %s', nspname, privilege_type, g) as name from (select n.nspname, a.privilege_type, n.nspowner,"
        " case a.grantee when 0 then 'public' else a.grantee::regrole::text end as g, a.grantee from pg_namespace n,"
        f" aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a where n.nspname in {OURS}) x where grantee <> nspowner"
        " and (nspname, privilege_type, g) not in (('pam', 'USAGE', 'anon'), ('pam', 'USAGE', 'authenticated'),"
        " ('pam_worker', 'USAGE', 'pam_worker'), ('pam_worker', 'USAGE', 'pam_sweeper'), ('pam_private', 'USAGE', 'pam_agent_sql'))",
        "grant usage on schema pam_private to authenticated",
    ),
    "no future object is granted by default": (
        f"select defaclobjtype::text as name from pg_default_acl where defaclnamespace::regnamespace::text in {OURS}",
        "alter default privileges in schema pam grant select on tables to anon",
    ),
    "a foreign key between tenants' rows carries the organisation": (
        "select k.conname as name from pg_constraint k where k.contype = 'f' and k.conrelid::regclass::text like 'pam.%'"
        " and (select attname from pg_attribute where attrelid = k.conrelid and attnum = k.conkey[1]) <> 'org_id'",
        "alter table pam.messages add foreign key (run_id) references pam.runs (id)",
    ),
    "uniqueness is per organisation": (
        # By random ids only may a row be unique over all organisations.
        "select i.indexrelid::regclass::text as name from pg_index i join pg_attribute a on a.attrelid = i.indrelid"
        " and a.attnum = i.indkey[0] where i.indisunique and i.indrelid::regclass::text like 'pam.%'"
        " and a.attname not in ('org_id', 'run_id') and not (i.indnatts = 1 and a.attname = 'id')",
        "create unique index places on pam.messages (position)",
    ),
    "no trigger stands on a table of somebody else": (
        "select t.tgname as name from pg_trigger t join pg_proc f on f.oid = t.tgfoid"
        f" where f.pronamespace::regnamespace::text in {OURS} and t.tgrelid::regclass::text !~ '^pam(_private)?[.]'",
        "create trigger mine after insert on public.tasks for each statement execute function pam_private.log_stands()",
    ),
}


async def test_no_lint_finds_anything(world: World) -> None:
    found = {name: [row["name"] for row in await world.database.admin(rule)] for name, (rule, _) in LINTS.items()}
    assert {name: rows for name, rows in found.items() if rows} == {}


async def test_every_lint_finds_its_planted_fault(world: World) -> None:
    async with await psycopg.AsyncConnection.connect(world.database.admin_dsn, autocommit=True) as connection:
        await connection.execute("create table if not exists public.tasks (id int)")
        for name, (rule, fault) in LINTS.items():
            async with connection.transaction(force_rollback=True):
                await connection.execute(fault.encode())
                assert await (await connection.execute(rule.encode())).fetchall(), name


# Who may execute what, by name. A new function without an entry fails.
_HELD = ("my_org_ids", "may_watch", "may_hear", "may_send")
EXECUTE = {
    "authenticated": {
        *(f"pam_private.{name}" for name in _HELD),
        *(
            f"pam.{name}"
            for name in (
                "create_organization", "set_member", "remove_member", "import_agent", "start_run", "cancel_run",
                "answer_question", "steer_run", "retry_run", "create_thread", "write_file", "read_file",
                "sealing_key", "add_connection", "rotate_connection", "remove_connection",
                "write_files", "read_workspace", "list_workspace", "record_checkout", "explain_changes",
                "read_policy", "set_policy", "reset_policy", "decide", "make_decision_link", "read_decision_link", "decide_by_link",
                "allow_host", "disallow_host", "set_budget", "read_budgets", "pause_run", "resume_run",
                "cancel_job", "retry_job",
            )
        ),
    },
    "pam_sweeper": {f"pam_worker.{name}" for name in (*SWEEPS, *SCHEDULING)},
    "pam_agent_sql": {
        f"pam_private.{name}"
        for name in ("bind", "bind_rehearsal", "bind_write", "count_from_here", "weigh_write", "settle_write")
    },
    "pam_agent": {f"pam_private.{name}" for name in ("bound_uid", "bound_claims", "is_open", "is_writable")},
    "anon": {"pam.read_decision_link", "pam.decide_by_link"},
    "service_role": set(),
}  # fmt: skip


async def _executable(database: Database, role: str) -> set[str]:
    rows = await database.admin(
        f"select name from ({_FUNCTIONS}) f where has_function_privilege(%s, oid, 'execute')", role
    )
    return {row["name"] for row in rows}


async def test_each_role_executes_its_own_functions_and_no_other(world: World) -> None:
    for role, expected in EXECUTE.items():
        assert await _executable(world.database, role) == expected, role
    rows = await world.database.admin(
        f"select name from ({_FUNCTIONS}) f where pronamespace = 'pam_worker'::regnamespace"
    )
    assert await _executable(world.database, "pam_worker") == {row["name"] for row in rows}


@pytest.mark.parametrize("login", ["pam_worker", "pam_sweeper", "pam_agent_sql", "pam_agent"])
async def test_a_login_has_no_attribute_and_no_membership_of_weight(world: World, login: str) -> None:
    (row,) = await world.database.admin(
        "select rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication as weighs, rolinherit, rolcanlogin"
        " from pg_roles where rolname = %s",
        login,
    )
    assert not row["weighs"]
    assert row["rolcanlogin"] is (login != "pam_agent")
    assert row["rolinherit"] is (login == "pam_agent")
    groups = await world.database.admin(
        "select roleid::regrole::text as name from pg_auth_members where member = %s::regrole and not admin_option",
        login,
    )
    assert {group["name"] for group in groups} == ({"pam_agent"} if login == "pam_agent_sql" else set())


async def _touchable(database: Database, login: str) -> set[str]:
    """Tables, columns and functions outside the built-in catalogues that a login can reach and use."""
    rows = await database.admin(
        f"""
        select n.nspname || '.' || c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname not in ('pg_catalog', 'information_schema', 'extensions') and n.nspname not like 'pg\\_%' and c.relkind in ('r', 'p', 'v', 'm', 'f')
           and has_schema_privilege('{login}', n.oid, 'usage')
           and (has_table_privilege('{login}', c.oid, 'select, insert, update, delete, truncate, references, trigger')
                or has_any_column_privilege('{login}', c.oid, 'select, insert, update'))
        union all
        select n.nspname || '.' || p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
         where n.nspname not in ('pg_catalog', 'information_schema', 'extensions')
           and has_schema_privilege('{login}', n.oid, 'usage') and has_function_privilege('{login}', p.oid, 'execute')
        union all
        select 'create in ' || nspname from pg_namespace where has_schema_privilege('{login}', oid, 'create')
        """
    )
    return {row["name"] for row in rows}


async def test_the_logins_reach_nothing_else_of_the_database(world: World) -> None:
    verbs = {
        row["name"]
        for row in await world.database.admin(
            f"select name from ({_FUNCTIONS}) f where pronamespace = 'pam_worker'::regnamespace"
        )
    }
    # What extensions put where everybody may read it is the platform's, and left out.
    assert await _touchable(world.database, "pam_worker") == verbs
    assert await _touchable(world.database, "pam_sweeper") == EXECUTE["pam_sweeper"]
    assert await _touchable(world.database, "pam_agent_sql") == EXECUTE["pam_agent_sql"]


TRIED = (
    "select * from pam.runs", "select * from pam_private.run_heads", "select * from auth.users",
    "select * from public.tasks", "select * from realtime.messages", "select * from net.http_request_queue",
    "insert into pam.audit (action, is_allowed) values ('x', true)", "select pam.cancel_run(gen_random_uuid())",
    "select pam.open_to_agent('public.tasks')", "select pam_private.hold(gen_random_uuid(), 1)",
    "select pam_private.my_org_ids()", "set role postgres", "set role authenticated", "set role service_role",
    "set role supabase_admin", "set role {other}", "set session authorization postgres", "create table public.t (a int)",
    "create schema s", "create function public.f() returns int language sql as 'select 1'", "create extension dblink",
    "alter role {self} superuser", "alter role {self} bypassrls", "grant postgres to {self}", "copy (select 1) to program 'id'",
    "copy (select 1) to '/tmp/x'", "select pg_read_file('/etc/passwd')", "select lo_import('/etc/passwd')",
    "select pg_reload_conf()", "alter system set port = 1", "drop schema pam cascade", "select net.http_post('http://x')",
    "select realtime.send('{{}}', 'e', 't')", "select * from pg_authid", "create publication p for all tables",
    "alter database {database} owner to {self}", "reassign owned by postgres to {self}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("login", "other"), [("worker", "pam_agent"), ("sweeper", "pam_worker"), ("agent", "pam_worker")]
)
async def test_a_login_that_tries_everything_gets_nowhere(world: World, login: str, other: str) -> None:
    dsn = getattr(world.database, f"{login}_dsn")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        row: Any = await (await connection.execute("select current_user, current_database()")).fetchone()
        await connection.execute("set default_transaction_read_only = off")
        for statement in TRIED:
            with pytest.raises(psycopg.Error) as caught:
                await connection.execute(statement.format(self=row[0], other=other, database=row[1]).encode())
            assert caught.value.sqlstate == "42501", (statement, caught.value)
