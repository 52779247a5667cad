"""A function of the team's own that is open to agents: which may be, what it reads, and what closes it."""

from typing import Any

import psycopg
import pytest

from tests.database.test_open_tables import OPEN, OWN, asking, prepared
from tests.support.database import Database

COUNT = """create function public.count_notes(wanted text default null) returns bigint language sql stable as
$$ select count(*) from public.notes n where n.kind = coalesce(wanted, n.kind) $$;
comment on function public.count_notes is 'How many notes.'"""
NAME = "public.count_notes(text)"
OPEN_IT = f"select pam.open_function_to_agent('{NAME}')"
CLOSE_IT = f"select pam.close_function_to_agent('{NAME}')"
PICTURE = (
    "select (select string_agg(p.proacl::text, ' ' order by p.oid) from pg_catalog.pg_proc p"
    " where p.pronamespace = 'public'::regnamespace) as functions,"
    " (select nspacl::text from pg_catalog.pg_namespace where nspname = 'public') as schema,"
    " (select count(*) from pam_private.opened_functions) as opened"
)

# What stays closed, with the reason that its owner is told.
CLOSED = {
    "past the policies": (
        "create function public.f() returns bigint language sql stable security definer set search_path = ''"
        " as $$ select count(*) from public.notes $$",
        "security definer",
    ),
    "one that may write": ("create function public.f() returns int language sql as $$ select 1 $$", "volatile"),
    "one nobody can read": (
        "create function public.f() returns double precision language internal stable as 'drandom'",
        "no function in SQL",
    ),
    "a procedure": ("create procedure public.f() language sql as $$ select 1 $$", "no function in SQL"),
    "an aggregate": (
        "create aggregate public.f(*) (sfunc = int8inc, stype = int8, initcond = '0')",
        "no function in SQL",
    ),
}


async def described(database: Database, held: Any) -> dict[str, bool]:
    rows = await database.worker("describe_functions", run_id=held.run_id, fence=held.fence)
    return {row["name"]: row["is_open"] for row in rows}


async def test_an_open_function_reads_what_the_person_may_read(database: Database) -> None:
    person, org = await prepared(database, OWN)
    for statement in (COUNT, OPEN, OPEN_IT):
        await database.owner(statement)
    async with asking(database, person, org) as (sql, held):
        (row,) = await database.worker("describe_functions", run_id=held.run_id, fence=held.fence)
        assert row == {
            "name": "public.count_notes", "arguments": "wanted text DEFAULT NULL::text", "returns": "bigint",
            "comment": "How many notes.", "is_open": True,
        }  # fmt: skip
        assert (await sql.select(held, "select public.count_notes() as n", [])).rows == ('{"n":2}',)
        assert (await sql.select(held, "select public.count_notes('draft') as n", [])).rows == ('{"n":1}',)


@pytest.mark.parametrize("kind", CLOSED)
async def test_what_nobody_can_vouch_for_is_not_opened(database: Database, kind: str) -> None:
    await prepared(database, OWN)
    make, reason = CLOSED[kind]
    await database.admin(make)  # as the superuser: nobody less makes one in C
    with pytest.raises(psycopg.errors.RaiseException, match=reason):
        await database.owner("select pam.open_function_to_agent('public.f()')")
    assert (await database.admin(PICTURE))[0]["opened"] == 0


@pytest.mark.parametrize("function", ["auth.uid()", "pam_private.my_org_ids(pam.member_role)", "pg_catalog.now()"])
async def test_the_platforms_own_functions_stay_closed(database: Database, function: str) -> None:
    with pytest.raises(psycopg.Error, match=r"belongs to the platform|permission denied"):
        await database.owner(f"select pam.open_function_to_agent('{function}')")


@pytest.mark.parametrize(
    "change",
    [
        COUNT.replace("create function", "create or replace function").replace("count(*)", "count(*) + 1"),
        f"alter function {NAME} security definer",
        f"alter function {NAME} volatile",
        f"alter function {NAME} set search_path = public",
        "create function public.count_notes(wanted int) returns bigint language sql stable as $$ select 1::bigint $$",
        f"revoke execute on function {NAME} from public, pam_agent",
    ],
)
async def test_a_change_or_an_overload_closes_it_until_it_is_opened_again(database: Database, change: str) -> None:
    person, org = await prepared(database, OWN)
    for statement in (COUNT, OPEN_IT):
        await database.owner(statement)
    async with asking(database, person, org) as (_, held):
        assert await described(database, held) == {"public.count_notes": True}
        await database.owner(change)
        assert await described(database, held) == {"public.count_notes": False}


async def test_opening_twice_and_closing_leave_nothing(database: Database) -> None:
    await prepared(database, OWN)
    await database.owner(COUNT)
    await database.owner("revoke execute on function public.count_notes(text) from public")
    (before,) = await database.admin(PICTURE)
    for statement in (OPEN_IT, OPEN_IT, OPEN, "select pam.close_to_agent('public.notes')", OPEN_IT, CLOSE_IT, CLOSE_IT):
        await database.owner(statement)
    assert await database.admin(PICTURE) == [before]


async def test_a_table_that_is_open_keeps_its_schema_when_a_function_closes(database: Database) -> None:
    person, org = await prepared(database, OWN)
    for statement in (COUNT, OPEN, OPEN_IT, CLOSE_IT):
        await database.owner(statement)
    async with asking(database, person, org) as (sql, held):
        assert await described(database, held) == {}
        assert len((await sql.select(held, "select id from public.notes", [])).rows) == 2


async def test_a_dropped_function_is_forgotten(database: Database) -> None:
    person, org = await prepared(database, OWN)
    for statement in (COUNT, OPEN_IT, f"drop function {NAME}"):
        await database.owner(statement)
    async with asking(database, person, org) as (_, held):
        assert await described(database, held) == {}
    await database.owner("select pam.close_function_to_agent(function_id) from pam_private.opened_functions")
    assert (await database.admin(PICTURE))[0]["opened"] == 0


async def test_only_the_owner_opens_and_closes(database: Database) -> None:
    person, _ = await prepared(database, OWN)
    await database.owner(COUNT)
    for statement in (OPEN_IT, CLOSE_IT):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.person(person) as connection:
                await connection.execute(statement.encode())
