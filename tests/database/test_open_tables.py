"""Opening a team's table to agents: its policies mirrored exactly, what cannot be mirrored refused, drift closed, all taken back."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.database.tracker import bound_sql, hold
from tests.support.database import Database
from workers.kernel.ledger.hold import Hold
from workers.tools.bound_sql import BoundSql
from workers.tools.failures import ToolRetry

NOTES = """
create table public.notes (id int primary key, owner_id uuid, kind text not null default 'plain', tenant text, body text, secret text);
alter table public.notes enable row level security;
grant select on public.notes to authenticated;
revoke all on public.notes from anon;
"""
OWN = "create policy own on public.notes for select to authenticated using (owner_id = (select auth.uid()))"


@asynccontextmanager
async def asking(database: Database, person: UUID, org: UUID) -> AsyncIterator[tuple[BoundSql, Hold]]:
    async with bound_sql(database) as sql:
        yield sql, await hold(database, person, org)


async def notes(sql: BoundSql, held: Hold, columns: str = "id") -> list[Any]:
    rows = await sql.select(held, f"select {columns} from public.notes order by 1", [])
    return [json.loads(row) for row in rows.rows]


async def ids(sql: BoundSql, held: Hold) -> list[int]:
    return [row["id"] for row in await notes(sql, held)]


async def as_postgrest_shows(database: Database, person: UUID, **claims: Any) -> list[int]:
    async with database.person(person, **claims) as connection:
        return [
            row["id"] for row in await (await connection.execute("select id from public.notes order by 1")).fetchall()
        ]


async def prepared(database: Database, *policies: str) -> tuple[UUID, UUID]:
    """The table with its policies and a row of each kind: (person, organisation)."""
    person, org = await database.new_organization()
    for statement in (NOTES, *policies):
        await database.owner(statement)
    for n, (owner, kind, tenant) in enumerate(
        [(person, "plain", "acme"), (person, "draft", "acme"), (None, "public", "other"), (None, "plain", "acme")],
        start=1,
    ):
        await database.owner(
            "insert into public.notes values (%s, %s, %s, %s, 'b', 's')",
            n,
            owner or await database.new_person(),
            kind,
            tenant,
        )
    return person, org


OPEN = "select pam.open_to_agent('public.notes') as n"
CLOSE = "select pam.close_to_agent('public.notes')"

# Policies that are mirrored; each list stands on the table together, and agents must see what people see.
MIRRORED: dict[str, list[str]] = {
    "own rows": [OWN],
    "uid asked for row by row": [
        "create policy own on public.notes for select to authenticated using (owner_id = auth.uid())"
    ],
    "literals on both sides of uid": [
        "create policy own on public.notes to authenticated using (kind = 'plain' and owner_id = auth.uid() and tenant = 'acme')"
    ],
    "a quote in a literal": [
        "create policy own on public.notes to authenticated using (kind <> 'it''s' and owner_id = auth.uid() and body <> E'\\\\''')"
    ],
    "several permissive": [
        OWN,
        "create policy pub on public.notes for select to authenticated using (kind = 'public')",
    ],
    "to public": ["create policy pub on public.notes for select using (kind = 'public' or owner_id = auth.uid())"],
    "restrictive": [
        OWN,
        "create policy no_drafts on public.notes as restrictive for select to authenticated using (kind <> 'draft')",
    ],
    "for all": [
        "create policy own on public.notes for all to authenticated using (owner_id = auth.uid()) with check (true)"
    ],
    "the role": [
        "create policy r on public.notes for select to authenticated using (auth.role() = 'authenticated' and kind = 'plain')"
    ],
    "claims of the app": [
        "create policy t on public.notes for select to authenticated using (tenant = (select auth.jwt() -> 'app_metadata' ->> 'tenant'))"
    ],
    "claims as text": [
        "create policy t on public.notes for select to authenticated using ((auth.jwt() ->> 'sub')::uuid = owner_id and auth.jwt() ->> 'role' = 'authenticated')"
    ],
    "a command that is no reading": [OWN, "create policy w on public.notes for update to authenticated using (true)"],
    "names that differ at the end only": [
        f'create policy "{"n" * 58}a" on public.notes for select to authenticated using (owner_id = auth.uid())',
        f"create policy \"{'n' * 58}b\" on public.notes for select to authenticated using (kind = 'public')",
    ],
    "a name like PAM's own": [
        'create policy "pam: 1 own" on public.notes for select to authenticated using (owner_id = auth.uid())',
    ],
    "restrictive by a group of authenticated": [
        OWN,
        "do $$ begin if not exists (select from pg_roles where rolname = 'test_group') then create role test_group; end if; end $$",
        "grant test_group to authenticated",
        "create policy g on public.notes as restrictive for select to test_group using (kind <> 'draft')",
    ],
}


async def test_agents_see_exactly_the_rows_that_their_person_sees(database: Database) -> None:
    app = {"tenant": "acme"}
    for name, policies in MIRRORED.items():
        person, org = await prepared(database, *policies)
        await database.admin("update auth.users set raw_app_meta_data = %s where id = %s", json.dumps(app), person)
        await database.owner(OPEN)
        async with asking(database, person, org) as (sql, held):
            seen = await ids(sql, held)
        assert seen == await as_postgrest_shows(database, person, app_metadata=app), name
        assert 0 < len(seen) < 4, name
        await database.owner(CLOSE)
        await database.owner("drop table public.notes")
    await database.admin("drop owned by test_group; drop role test_group")


async def test_app_metadata_is_read_afresh_at_every_statement_and_a_token_cannot_bring_its_own(
    database: Database,
) -> None:
    person, org = await prepared(database, MIRRORED["claims of the app"][0])
    await database.owner(OPEN)
    async with database.person(person, app_metadata={"tenant": "other"}, user_metadata={"x": 1}) as connection:
        answer: Any = await (
            await connection.execute("select pam.start_run(%s, 'engineer', 'Look.') as run", [org])
        ).fetchone()
    run = UUID(answer["run"]["run_id"])
    async with asking(database, person, org) as (sql, other):
        held = Hold(other.gateway, run, await database.claimed(run))
        assert await ids(sql, held) == []  # the token said so, the account does not
        for tenant, expected in (("other", [3]), ("acme", [1, 2, 4]), ("none", [])):
            await database.admin(
                "update auth.users set raw_app_meta_data = %s where id = %s", json.dumps({"tenant": tenant}), person
            )
            assert await ids(sql, held) == expected


# Fault → (statements before, the policy or what stands in its place, a word of the refusal).
REFUSED: dict[str, tuple[str, str]] = {
    "an opaque function": (
        "create function public.mine(o uuid) returns boolean language sql stable as 'select o = auth.uid()';"
        "create policy p on public.notes for select to authenticated using (public.mine(owner_id))",
        "cannot mirror",
    ),
    "an opaque function in a subselect": (
        "create function public.who() returns uuid language sql stable as 'select auth.uid()';"
        "create policy p on public.notes for select to authenticated using (owner_id = (select public.who()))",
        "cannot mirror",
    ),
    "a view": (
        "create view public.friends as select auth.uid() as id;"
        "create policy p on public.notes for select to authenticated using (owner_id in (select id from public.friends))",
        "cannot mirror",
    ),
    "a setting": (
        "create policy p on public.notes for select to authenticated using (tenant = current_setting('app.tenant', true))",
        "cannot mirror",
    ),
    "claims read from the setting": (
        "create policy p on public.notes for select to authenticated using"
        " (owner_id::text = current_setting('request.jwt.claims', true)::jsonb ->> 'sub')",
        "cannot mirror",
    ),
    "the database's user": (
        "create policy p on public.notes for select to authenticated using (current_user = 'authenticated')",
        "cannot mirror",
    ),
    "the session's user": (
        "create policy p on public.notes for select to authenticated using (session_user <> 'x')",
        "cannot mirror",
    ),
    "a right of the session": (
        "create policy p on public.notes for select to authenticated using (has_table_privilege('public.notes', 'select'))",
        "cannot mirror",
    ),
    "a literal that looks like uid": (
        "create policy p on public.notes for select to authenticated using (body <> 'auth.uid()' and owner_id = auth.uid())",
        "cannot mirror",
    ),
    "another helper of auth": (
        "create policy p on public.notes for select to authenticated using (body = auth.email())",
        "cannot mirror",
    ),
    "a domain with a check": (
        "create domain public.kinds as text check (value <> ''); create policy p on public.notes for select to authenticated using (kind::public.kinds = 'x')",
        "cannot mirror",
    ),
    "an operator of the team's": (
        "create function public.eq(text, text) returns boolean language sql as 'select true';"
        "create operator public.=== (leftarg = text, rightarg = text, function = public.eq);"
        "create policy p on public.notes for select to authenticated using (kind operator(public.===) 'x')",
        "cannot mirror",
    ),
    "one bad policy beside a good one": (
        f"{OWN}; create policy p on public.notes as restrictive for select to authenticated using (session_user <> 'x')",
        "cannot mirror",
    ),
    "no policy": ("select 1", "nothing to open"),
    "policies for others only": ("create policy p on public.notes for select to anon using (true)", "nothing to open"),
    "policies for writing only": (
        "create policy p on public.notes for insert to authenticated with check (true)",
        "nothing to open",
    ),
    "no row-level security": (f"{OWN}; alter table public.notes disable row level security", "no row-level security"),
    "no grant": (f"{OWN}; revoke all on public.notes from authenticated", "may not select"),
    "a view in place of a table": (
        "drop table public.notes; create view public.notes as select 1 as id; grant select on public.notes to authenticated",
        "is no table",
    ),
}


async def test_what_cannot_be_mirrored_is_refused_and_leaves_nothing_behind(database: Database) -> None:
    person, org = await database.new_organization()
    async with await psycopg.AsyncConnection.connect(database.owner_dsn) as connection:
        for name, (setup, word) in REFUSED.items():
            async with connection.transaction(force_rollback=True):
                await connection.execute((NOTES + setup).encode())
                with pytest.raises(psycopg.Error, match=word):
                    async with connection.transaction():
                        await connection.execute(OPEN.encode())
                row: Any = await (
                    await connection.execute(
                        "select has_any_column_privilege('pam_agent', 'public.notes', 'select'),"
                        " exists (select from pg_policy where 'pam_agent'::regrole = any (polroles)),"
                        " exists (select from pam_private.opened_tables)"
                    )
                ).fetchone()
                assert row == (False, False, False), name
    for table in ("pam.runs", "pam_private.settings", "auth.users", "realtime.messages", "net.http_request_queue"):
        with pytest.raises(psycopg.Error, match="platform"):
            await database.admin(f"alter table {table} enable row level security; select pam.open_to_agent('{table}')")
    async with asking(database, person, org) as (sql, held):
        with pytest.raises(ToolRetry, match="does not exist"):
            await notes(sql, held)


async def test_a_table_that_was_never_opened_stays_closed(database: Database) -> None:
    person, org = await prepared(database, OWN)
    await database.owner(
        "create table public.unopened (id int); grant select on public.unopened to authenticated, public"
    )
    async with asking(database, person, org) as (sql, held):
        with pytest.raises(ToolRetry, match="not open to agents"):
            await notes(sql, held)
        # Granted to everybody in the database, it is everybody's: said in the documentation, not PAM's to close.
        await database.owner("revoke all on public.unopened from public")
        with pytest.raises(ToolRetry, match="not open to agents"):
            await sql.select(held, "select * from public.unopened", [])


DRIFTS = {
    "a policy changed": "alter policy own on public.notes using (true)",
    "a policy dropped": "drop policy own on public.notes",
    "a policy added": "create policy extra on public.notes as restrictive for select to authenticated using (kind <> 'draft')",
    "a policy renamed": "alter policy own on public.notes rename to mine",
    "a policy for others": "alter policy own on public.notes to anon",
    "a check changed": "create policy w on public.notes for insert to authenticated with check (true)",
    "a right taken back": "revoke select on public.notes from authenticated; grant select (id) on public.notes to authenticated",
    "row-level security off": "alter table public.notes disable row level security",
}


async def test_a_drift_closes_the_table_with_a_sentence_until_it_is_opened_again(database: Database) -> None:
    for name, drift in DRIFTS.items():
        person, org = await prepared(database, OWN)
        await database.owner(OPEN)
        async with asking(database, person, org) as (sql, held):
            assert await ids(sql, held) == [1, 2], name
            await database.owner(drift)
            with pytest.raises(ToolRetry, match=r"notes .*(policies changed|switched off).*open the table again"):
                await notes(sql, held)
            await database.owner("alter table public.notes enable row level security")
            if name in ("a policy dropped", "a policy for others"):
                await database.owner(
                    "create policy again on public.notes to authenticated using (owner_id = auth.uid())"
                )
            await database.owner(OPEN)
            assert await ids(sql, held) == await as_postgrest_shows(database, person), name
        await database.owner(CLOSE)
        await database.owner("drop table public.notes")


async def test_column_grants_are_mirrored(database: Database) -> None:
    person, org = await prepared(database, OWN)
    await database.owner(
        "revoke all on public.notes from authenticated; grant select (id, owner_id, body) on public.notes to authenticated"
    )
    await database.owner(OPEN)
    async with asking(database, person, org) as (sql, held):
        assert await notes(sql, held, "id, body") == [{"id": 1, "body": "b"}, {"id": 2, "body": "b"}]
        for columns in ("secret", "*", "n::text from public.notes n union select 'x'"):
            with pytest.raises(ToolRetry, match="not open to agents"):
                await notes(sql, held, columns)


async def test_closing_takes_everything_back(database: Database) -> None:
    await prepared(
        database,
        OWN,
        'create policy "pam: a policy of the team\'s" on public.notes for select to authenticated using (false)',
    )
    picture = (
        "select (select jsonb_agg(to_jsonb(p) - 'oid' order by polname) from pg_policy p) as policies,"
        " has_schema_privilege('pam_agent', 'public', 'usage') as inside,"
        " (select count(*) from pg_namespace n, aclexplode(n.nspacl) a where a.grantee = 'pam_agent'::regrole) as schemas,"
        " (select count(*) from pg_class c, aclexplode(c.relacl) a where a.grantee = 'pam_agent'::regrole) as tables,"
        " (select count(*) from pg_attribute c, aclexplode(c.attacl) a where a.grantee = 'pam_agent'::regrole) as columns,"
        " (select count(*) from pam_private.opened_tables) as opened"
    )
    before = await database.admin(picture)
    assert (await database.owner(OPEN))[0]["n"] == 2
    assert await database.admin(picture) != before
    await database.owner(CLOSE)
    assert await database.admin(picture) == before
    await database.owner(
        "revoke all on public.notes from authenticated; grant select (id) on public.notes to authenticated"
    )
    before = await database.admin(picture)
    await database.owner(OPEN)
    await database.owner(OPEN)  # again, changes nothing
    await database.owner(CLOSE)
    assert await database.admin(picture) == before


async def test_a_dropped_table_is_forgotten(database: Database) -> None:
    person, org = await prepared(database, OWN)
    await database.owner(OPEN)
    await database.owner("drop table public.notes")
    async with asking(database, person, org) as (sql, held):
        assert (await sql.select(held, "select 1 as one", [])).rows == ('{"one":1}',)
        assert await database.worker("describe_tables", run_id=held.run_id, fence=held.fence) == []
    await database.owner("select pam.close_to_agent(table_id) from pam_private.opened_tables")
    assert await database.admin("select 1 from pam_private.opened_tables") == []


async def test_what_is_open_is_described_with_the_teams_own_policies_only(database: Database) -> None:
    person, org = await prepared(database, OWN)
    await database.owner(OPEN)
    held = await hold(database, person, org)
    (table,) = await database.worker("describe_tables", run_id=held.run_id, fence=held.fence)
    assert table["table"] == "public.notes"
    assert [policy["name"] for policy in table["policies"]] == ["own"]
    assert "id integer not null" in table["columns"]


async def test_only_the_owner_opens_and_closes(database: Database) -> None:
    person, _ = await prepared(database, OWN)
    for statement in (OPEN, CLOSE):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.person(person) as connection:
                await connection.execute(statement.encode())
