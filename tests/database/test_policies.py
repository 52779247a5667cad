"""Row-level security, table by table as the catalogue has them: own rows exactly, foreign rows never, and nobody writes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.database.world import ROLES, World, become

MEMBERS, ADMINS, NOBODY = ("owner", "admin", "developer", "viewer"), ("owner", "admin"), ()
# Who of an organisation reads its rows. A table that is not here fails the first test.
READERS = {
    "pam.organizations": MEMBERS,
    "pam.members": MEMBERS,
    "pam.audit": ADMINS,
    "pam.agents": MEMBERS,
    "pam.agent_versions": MEMBERS,
    "pam.threads": MEMBERS,
    "pam.runs": MEMBERS,
    "pam.messages": MEMBERS,
    "pam.events": MEMBERS,
    "pam.steps": MEMBERS,
    "pam.tool_calls": MEMBERS,
    "pam.files": MEMBERS,
    "pam.file_versions": MEMBERS,
    "pam.workspaces": MEMBERS,
    "pam.checkouts": MEMBERS,
    "pam.tool_policies": MEMBERS,
    "pam.approvals": MEMBERS,
    "pam.budgets": MEMBERS,
    "pam.usage": (*ADMINS, "developer"),  # whose own it is
    "pam.call_outputs": MEMBERS,
    "pam.allowed_hosts": MEMBERS,
    "pam.connections": MEMBERS,
    "pam_private.connection_secrets": NOBODY,
    "pam_private.sealing_keys": NOBODY,
    "pam.jobs": MEMBERS,
    "pam.schedules": MEMBERS,
    "pam.sent_messages": MEMBERS,
    "pam_private.settings": NOBODY,
    "pam_private.migrations": NOBODY,
    "pam_private.run_heads": NOBODY,
    "pam_private.run_claims": NOBODY,
    "pam_private.preview_meter": NOBODY,
    "pam_private.agent_bindings": NOBODY,
    "pam_private.opened_tables": NOBODY,
    "pam_private.opened_functions": NOBODY,
    "pam_private.opened_writes": NOBODY,
    "pam_private.agent_writes": NOBODY,
    "pam_private.decision_links": NOBODY,
    "pam_private.diagnostics_trust": NOBODY,
    "pam.schema_changes": MEMBERS,
    "pam_private.trusted_organizations": NOBODY,
    "pam_private.operator_pulse": NOBODY,
}
TENANT = tuple(table for table in READERS if table.startswith("pam."))
WRITES = (
    "insert into {0} default values",
    "insert into {0} default values on conflict do nothing",
    "update {0} set {1} = {1}",
    "delete from {0}",
    "truncate {0}",
    "truncate {0} cascade",
    "merge into {0} using (select 1) s on true when matched then delete",
    "copy {0} from stdin",
    "lock table {0} in exclusive mode",
    "select * from {0} for update",
    "create trigger mine before insert on {0} for each row execute function suppress_redundant_updates_trigger()",
    "alter table {0} disable row level security",
)


def organisation_column(table: str) -> str:
    return "id" if table == "pam.organizations" else "org_id"


@asynccontextmanager
async def asking(world: World, role: str, claims: Any) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A transaction as this claimant, undone at the end."""
    async with await psycopg.AsyncConnection.connect(world.database.owner_dsn) as connection:
        await become(connection, role, claims)
        yield connection
        await connection.rollback()


async def attempt(connection: psycopg.AsyncConnection[Any], statement: str) -> tuple[str, list[Any]]:
    """(SQLSTATE, rows) of a statement in a savepoint."""
    try:
        async with connection.transaction(force_rollback=True):
            cursor = await connection.execute(statement.encode())
            return "", await cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        return error.sqlstate or "?", []


def claimants(world: World) -> dict[str, tuple[str, Any]]:
    """Everybody who may see nothing at all: name → (database role, claims)."""
    owner = world.b.people["owner"]
    return {
        "anonymous": ("anon", {"role": "anon"}),
        "anonymous with somebody's id": ("anon", {"sub": owner, "role": "authenticated"}),
        "removed member": ("authenticated", {"sub": world.b.removed, "role": "authenticated"}),
        "stranger": ("authenticated", {"sub": world.stranger, "role": "authenticated"}),
        "nobody": ("authenticated", {"sub": uuid4(), "role": "authenticated"}),
        "no claims": ("authenticated", ""),
        "empty claims": ("authenticated", {}),
        "null subject": ("authenticated", {"sub": None}),
        "empty subject": ("authenticated", {"sub": ""}),
        "subject that is no id": ("authenticated", {"sub": "' or true --"}),
        "subject that is a list": ("authenticated", {"sub": [str(owner)]}),
        "claims that are a list": ("authenticated", [{"sub": str(owner)}]),
        "claims that are a string": ("authenticated", '"owner"'),
        "claims that are no JSON": ("authenticated", "{not json"),
        "claims of metadata only": (
            "authenticated",
            {"user_metadata": {"sub": owner, "org_id": world.b.org}, "app_metadata": {"sub": owner}},
        ),
    }


async def catalogue(world: World) -> set[str]:
    rows = await world.database.admin(
        "select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('pam', 'pam_private', 'pam_worker') and c.relkind in ('r', 'p', 'v', 'm', 'f')"
    )
    return {row["name"] for row in rows}


async def test_every_table_of_the_catalogue_has_an_expectation(world: World) -> None:
    assert await catalogue(world) == set(READERS)


@pytest.mark.parametrize("role", ROLES)
async def test_a_member_sees_exactly_the_rows_of_their_own_organisation(world: World, role: str) -> None:
    for team, foreign in ((world.a, world.b), (world.b, world.a)):
        async with asking(world, "authenticated", {"sub": team.people[role], "role": "authenticated"}) as connection:
            for table, readers in READERS.items():
                if table not in TENANT:
                    assert (await attempt(connection, f"select * from {table}"))[0] == "42501", table
                    continue
                column = organisation_column(table)
                whole = (
                    await world.database.admin(f"select count(*) as n from {table} where {column} = %s", team.org)
                )[0]["n"]
                assert whole > 0, f"{table} is empty: this test would show nothing"
                state, rows = await attempt(connection, f"select {column}, count(*) from {table} group by 1")
                assert (state, rows) == ("", [(team.org, whole)] if role in readers else []), (table, role)
                state, rows = await attempt(connection, f"select 1 from {table} where {column} = '{foreign.org}'")
                assert (state, rows) == ("", []), (table, role)


async def test_everybody_else_sees_nothing(world: World) -> None:
    for name, (role, claims) in claimants(world).items():
        async with asking(world, role, claims) as connection:
            for table in READERS:
                state, rows = await attempt(connection, f"select * from {table}")
                # 22P02 and 22023: claims that cannot be read are an error, never somebody.
                assert not rows, (name, table)
                assert state in {"", "42501", "22P02", "22023"}, (name, table, state)


async def test_nobody_writes_a_table_but_through_a_verb(world: World) -> None:
    others = ("anonymous", "removed member", "stranger", "no claims", "claims that are no JSON")
    everybody: dict[str, tuple[str, Any]] = {n: who for n, who in claimants(world).items() if n in others} | {
        role: ("authenticated", {"sub": world.a.people[role], "role": "authenticated"}) for role in ROLES
    }
    everybody["the service key"] = ("service_role", {"role": "service_role"})
    columns = {
        table: (
            await world.database.admin(
                "select attname as n from pg_attribute where attrelid = %s::regclass and attnum > 0 and attidentity = ''"
                " order by attnum limit 1",
                table,
            )
        )[0]["n"]
        for table in READERS
    }
    for name, (role, claims) in everybody.items():
        async with asking(world, role, claims) as connection:
            for table in READERS:
                for write in WRITES:
                    state, _ = await attempt(connection, write.format(table, columns[table]))
                    assert state == "42501", (name, table, write, state)


async def test_a_forged_role_and_metadata_change_nothing(world: World) -> None:
    viewer, foreign = world.a.people["viewer"], world.b
    forged: dict[str, dict[str, Any]] = {
        "service role": {"role": "service_role"},
        "superuser": {"role": "supabase_admin"},
        "owner in user_metadata": {
            "user_metadata": {"role": "owner", "org_id": str(foreign.org), "org_ids": [str(foreign.org)]}
        },
        "owner in app_metadata": {"app_metadata": {"role": "owner", "org_id": str(foreign.org)}},
        "another subject beside": {"user_id": str(foreign.people["owner"]), "Sub": str(foreign.people["owner"])},
    }

    async def seen(claims: dict[str, Any]) -> dict[str, list[Any]]:
        async with asking(world, "authenticated", claims) as connection:
            return {t: sorted((await attempt(connection, f"select * from {t}"))[1], key=repr) for t in TENANT}

    plain = await seen({"sub": viewer, "role": "authenticated"})
    assert plain["pam.runs"]
    assert not plain["pam.audit"]
    for name, extra in forged.items():
        assert await seen({"sub": viewer, "role": "authenticated", **extra}) == plain, name


async def test_a_removed_member_sees_nothing_at_the_next_statement(world: World) -> None:
    person = await world.database.new_member(world.a.org, "admin")
    async with await psycopg.AsyncConnection.connect(world.database.owner_dsn) as connection:
        await become(connection, "authenticated", {"sub": person, "role": "authenticated"})
        for expected in (True, False):
            for table in TENANT:
                _, rows = await attempt(connection, f"select * from {table} limit 1")
                assert bool(rows) is expected, table
            if expected:
                await world.database.rpc(world.a.people["owner"], "remove_member", org_id=world.a.org, user_id=person)


ODD_TOPICS = (
    "run:", "run", "", "RUN:{run}", "Run:{run}", "run:{run} ", " run:{run}", "run:{run}:x", "run:{run}\n", "run:{upper}",
    "run:{bare}", "run:{{{run}}}", "run:not-a-uuid", "run:00000000-0000-0000-0000-000000000000", "run:" + "a" * 10_000,
    "run:{run}' or true --", "run:%", "run:*", "room:{run}", "realtime:run:{run}", "run:{foreign}",
)  # fmt: skip


async def test_only_ones_own_runs_can_be_watched_and_odd_topics_raise_no_error(world: World) -> None:
    """What Realtime asks before a join: may this person select from realtime.messages under this topic?"""
    run, foreign = str(world.a.run), str(world.b.run)
    probe = (
        "insert into realtime.messages (payload, event, topic, private, extension)"
        " select '{}', 'e', current_setting('realtime.topic'), true, 'broadcast'"
    )
    look = "select count(*) from realtime.messages where topic = current_setting('realtime.topic')"

    async def watches(person: Any, topic: str) -> int:
        async with await psycopg.AsyncConnection.connect(world.database.admin_dsn) as connection:
            await connection.execute("select set_config('realtime.topic', %s, true)", [topic])
            await connection.execute(probe.encode())
            await become(connection, "authenticated", {"sub": person, "role": "authenticated"})
            row = await (await connection.execute(look.encode())).fetchone()
            await connection.rollback()
        return int(row[0]) if row else 0

    for role in ROLES:
        assert await watches(world.a.people[role], f"run:{run}") > 0, role
    for person in (world.a.removed, world.stranger, world.b.people["owner"]):
        assert await watches(person, f"run:{run}") == 0
    for odd in ODD_TOPICS:
        topic = odd.format(run=run, upper=run.upper(), bare=run.replace("-", ""), foreign=foreign)
        assert await watches(world.a.people["owner"], topic) == 0, topic[:60]


async def test_nobody_sends_on_a_runs_topic_but_the_verbs(world: World) -> None:
    for person in (world.a.people["owner"], world.stranger):
        async with asking(world, "authenticated", {"sub": person, "role": "authenticated"}) as connection:
            await connection.execute("select set_config('realtime.topic', %s, true)", [f"run:{world.a.run}"])
            state, _ = await attempt(
                connection,
                "insert into realtime.messages (payload, event, topic, private, extension)"
                f" values ('{{}}', 'events', 'run:{world.a.run}', true, 'broadcast')",
            )
            assert state == "42501"


async def test_an_organisations_topic_is_heard_by_members_and_spoken_on_by_developers(world: World) -> None:
    topic = f"org:{world.a.org}"
    look = f"select id from realtime.messages where topic = '{topic}'"
    say = f"insert into realtime.messages (topic, extension) values ('{topic}', 'broadcast')"
    expected = {"owner": ("", True), "admin": ("", True), "developer": ("", True), "viewer": ("42501", True)}
    people = {**world.a.people, "removed": world.a.removed, "stranger": world.b.people["owner"]}
    for name, person in people.items():
        async with asking(world, "authenticated", {"sub": person, "role": "authenticated"}) as connection:
            await connection.execute("select set_config('realtime.topic', %s, true)", [topic])
            speaks, hears = (await attempt(connection, say))[0], bool((await attempt(connection, look))[1])
        assert (speaks, hears) == expected.get(name, ("42501", False)), name


@pytest.mark.parametrize("table", TENANT)
async def test_a_policy_is_one_initplan_and_an_index_scan(world: World, table: str) -> None:
    person = world.a.people["owner"]
    async with asking(world, "authenticated", {"sub": person, "role": "authenticated"}) as connection:
        await connection.execute("set local enable_seqscan = off")
        rows = await (await connection.execute(f"explain (costs off) select * from {table}".encode())).fetchall()
    plan = [str(row[0]).strip() for row in rows]
    column = organisation_column(table)
    assert any(line.startswith("InitPlan") for line in plan), plan
    assert any(line.startswith("Index Cond: ") and f"{column} = ANY" in line for line in plan), plan
    assert not any("my_org_ids" in line or "auth." in line for line in plan), plan
