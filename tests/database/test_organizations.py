"""Organisations, members and agents: each verb allowed and refused, and what the audit log says of it."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.database.world import become
from tests.support.database import DEFINITION, Database


def code(answer: Any) -> str:
    """The refusal's code; empty when it was allowed."""
    refused = answer.get("refused") or {}
    assert not refused or len(refused["message"]) > 10
    return str(refused.get("code", ""))


async def audit(database: Database, org: UUID | None, action: str) -> list[bool]:
    """Whether each act of this kind was allowed, oldest first."""
    rows = await database.admin(
        "select is_allowed from pam.audit where org_id is not distinct from %s and action = %s order by id", org, action
    )
    return [row["is_allowed"] for row in rows]


async def role(database: Database, org: UUID, person: UUID) -> str | None:
    rows = await database.admin("select role from pam.members where org_id = %s and user_id = %s", org, person)
    return str(rows[0]["role"]) if rows else None


async def test_a_person_makes_an_organisation_and_owns_it(database: Database) -> None:
    person = await database.new_person()
    org = UUID((await database.rpc(person, "create_organization", name="  Team  "))["org_id"])
    assert await role(database, org, person) == "owner"
    assert (await database.admin("select name from pam.organizations"))[0]["name"] == "Team"
    assert await audit(database, org, "organization.create") == [True]


async def test_an_organisation_without_a_proper_name_is_refused(database: Database) -> None:
    person = await database.new_person()
    for name in (None, "", "   ", "x" * 121):
        assert code(await database.rpc(person, "create_organization", name=name)) == "invalid", name


async def test_nobody_is_signed_out_and_makes_an_organisation(database: Database) -> None:
    async with database.person(None) as connection:
        row: Any = await (await connection.execute("select pam.create_organization('Team') as answer")).fetchone()
        assert code(row["answer"]) == "signed_out"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with database.person(None, role="anon") as connection:
            await connection.execute("select pam.create_organization('Team')")


async def test_one_person_makes_twenty_organisations_even_at_once(database: Database) -> None:
    person = await database.new_person()
    answers = await asyncio.gather(*(database.rpc(person, "create_organization", name="Team") for _ in range(24)))
    assert sorted(code(answer) for answer in answers) == [""] * 20 + ["limit"] * 4
    assert await audit(database, None, "organization.create") == [False] * 4


# (who asks, whose role, what it was, what it shall be, the answer's code)
SET = [
    ("owner", None, "owner", ""), ("owner", None, "viewer", ""), ("owner", "owner", "viewer", ""),
    ("owner", "viewer", "owner", ""), ("admin", None, "admin", ""), ("admin", "viewer", "developer", ""),
    ("admin", None, "owner", "forbidden"), ("admin", "owner", "viewer", "forbidden"), ("admin", "admin", "viewer", ""),
    ("developer", None, "viewer", "forbidden"), ("developer", "viewer", "viewer", "forbidden"),
    ("viewer", None, "viewer", "forbidden"), ("stranger", None, "viewer", "not_found"),
    ("owner", None, None, "invalid"),
]  # fmt: skip


@pytest.mark.parametrize(("asker", "before", "after", "expected"), SET)
async def test_roles_are_set_by_admins_and_never_above_their_own(
    database: Database, asker: str, before: str | None, after: str | None, expected: str
) -> None:
    owner, org = await database.new_organization()
    me = (
        owner
        if asker == "owner"
        else await database.new_person()
        if asker == "stranger"
        else await database.new_member(org, asker)
    )
    whom = await database.new_member(org, before) if before else await database.new_person()
    assert code(await database.rpc(me, "set_member", org_id=org, user_id=whom, role=after)) == expected
    assert await role(database, org, whom) == (before if expected else after)
    assert await audit(database, org, "member.set") == ({"": [True], "forbidden": [False]}.get(expected, []))


async def test_nobody_raises_their_own_role(database: Database) -> None:
    _, org = await database.new_organization()
    for mine, wanted in (("admin", "owner"), ("developer", "admin"), ("viewer", "developer")):
        person = await database.new_member(org, mine)
        assert code(await database.rpc(person, "set_member", org_id=org, user_id=person, role=wanted)) == "forbidden"
        assert await role(database, org, person) == mine


async def test_a_missing_person_is_refused_and_an_unknown_role_too(database: Database) -> None:
    owner, org = await database.new_organization()
    assert code(await database.rpc(owner, "set_member", org_id=org, user_id=None, role="viewer")) == "invalid"
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        await database.rpc(owner, "set_member", org_id=org, user_id=uuid4(), role="god")


REMOVE = [
    ("owner", "owner", ""), ("owner", "viewer", ""), ("admin", "admin", ""), ("admin", "owner", "forbidden"),
    ("developer", "viewer", "forbidden"), ("viewer", "viewer", "forbidden"), ("stranger", "viewer", "not_found"),
    ("owner", None, "not_found"),
]  # fmt: skip


@pytest.mark.parametrize(("asker", "whose", "expected"), REMOVE)
async def test_members_are_removed_by_admins_and_never_above_their_own_role(
    database: Database, asker: str, whose: str | None, expected: str
) -> None:
    owner, org = await database.new_organization()
    me = (
        owner
        if asker == "owner"
        else await database.new_person()
        if asker == "stranger"
        else await database.new_member(org, asker)
    )
    whom = await database.new_member(org, whose) if whose else await database.new_person()
    assert code(await database.rpc(me, "remove_member", org_id=org, user_id=whom)) == expected
    assert await role(database, org, whom) == (whose if expected else None)
    assert await audit(database, org, "member.remove") == ({"": [True], "forbidden": [False]}.get(expected, []))


async def test_anybody_may_leave_but_the_last_owner(database: Database) -> None:
    owner, org = await database.new_organization()
    viewer = await database.new_member(org, "viewer")
    assert code(await database.rpc(viewer, "remove_member", org_id=org, user_id=viewer)) == ""
    assert code(await database.rpc(owner, "remove_member", org_id=org, user_id=owner)) == "conflict"
    assert code(await database.rpc(owner, "set_member", org_id=org, user_id=owner, role="admin")) == "conflict"
    second = await database.new_member(org, "owner")
    assert code(await database.rpc(owner, "remove_member", org_id=org, user_id=owner)) == ""
    assert await role(database, org, second) == "owner"


async def test_two_owners_who_demote_each_other_at_once_leave_one(database: Database) -> None:
    for _ in range(5):
        one, org = await database.new_organization()
        other = await database.new_member(org, "owner")
        await asyncio.gather(
            database.rpc(one, "set_member", org_id=org, user_id=other, role="viewer"),
            database.rpc(other, "remove_member", org_id=org, user_id=one),
        )
        rows = await database.admin("select 1 from pam.members where org_id = %s and role = 'owner'", org)
        assert len(rows) == 1


async def test_who_is_being_removed_cannot_add_themselves_again(database: Database) -> None:
    owner, org = await database.new_organization()
    admin = await database.new_member(org, "admin")
    async with await psycopg.AsyncConnection.connect(database.owner_dsn) as removing:
        await become(removing, "authenticated", {"sub": owner, "role": "authenticated"})
        await removing.execute("select pam.remove_member(%s, %s)", [org, admin])
        again = asyncio.create_task(database.rpc(admin, "set_member", org_id=org, user_id=admin, role="admin"))
        await _waits_for_a_lock(database, "set_member")
        await removing.commit()
        assert code(await again) == "not_found"
    assert await role(database, org, admin) is None


async def test_who_is_being_removed_cannot_take_others_along(database: Database) -> None:
    owner, org = await database.new_organization()
    admin, viewer = await database.new_member(org, "admin"), await database.new_member(org, "viewer")
    async with await psycopg.AsyncConnection.connect(database.owner_dsn) as removing:
        await become(removing, "authenticated", {"sub": owner, "role": "authenticated"})
        await removing.execute("select pam.remove_member(%s, %s)", [org, admin])
        along = asyncio.create_task(database.rpc(admin, "remove_member", org_id=org, user_id=viewer))
        await _waits_for_a_lock(database, "remove_member")
        await removing.commit()
        assert code(await along) == "not_found"
    assert await role(database, org, viewer) == "viewer"


async def _waits_for_a_lock(database: Database, word: str) -> None:
    async with asyncio.timeout(10):
        while not await database.admin(
            "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like %s",
            f"%{word}%",
        ):
            await asyncio.sleep(0.01)


async def test_an_agent_is_imported_once_and_its_next_card_is_its_next_version(database: Database) -> None:
    owner, org = await database.new_organization()
    given = {"org_id": org, "name": "helper", "definition": DEFINITION}
    first = await database.rpc(owner, "import_agent", **given, source="# one")
    again = await database.rpc(owner, "import_agent", **given, source="# one")
    second = await database.rpc(owner, "import_agent", **given, source="# two")
    back = await database.rpc(owner, "import_agent", **given, source="# one")
    assert (first["version"], again, second["version"], back["version"]) == (1, first, 2, 3)
    assert await audit(database, org, "agent.import") == [True] * 4  # the new organisation's own agent, and three


async def test_two_cards_imported_at_once_are_two_versions(database: Database) -> None:
    owner, org = await database.new_organization()
    answers = await asyncio.gather(
        *(
            database.rpc(owner, "import_agent", org_id=org, name="helper", definition=DEFINITION, source=f"# {n}")
            for n in range(8)
        )
    )
    assert sorted(answer["version"] for answer in answers) == list(range(1, 9))


BAD_CARDS: list[tuple[str, Any]] = [
    ("name", ""), ("name", None), ("name", "9lives"), ("name", "a b"), ("name", "x" * 64), ("name", "a\n"), ("name", "é"),
    ("definition", []), ("definition", {}), ("definition", {"tools": [], "instructions": ""}),
    ("definition", {"tools": "all", "instructions": "x"}), ("definition", {"tools": [], "instructions": "x" * 300_000}),
    ("definition", {"tools": [], "instructions": "x", "limits": [1]}),
    ("definition", {"tools": [], "instructions": "x", "limits": "many"}),
    ("source", ""), ("source", None), ("source", "x" * 65_537),
]  # fmt: skip


async def test_a_bad_card_is_refused(database: Database) -> None:
    owner, org = await database.new_organization()
    for field, value in BAD_CARDS:
        given = {"org_id": org, "name": "helper", "definition": DEFINITION, "source": "# card", field: value}
        assert code(await database.rpc(owner, "import_agent", **given)) == "invalid", (field, str(value)[:60])
    assert len(await database.admin("select 1 from pam.agents where org_id = %s", org)) == 1


async def test_only_admins_import_agents_and_only_into_their_own_organisation(database: Database) -> None:
    _, org = await database.new_organization()
    given = {"org_id": org, "name": "helper", "definition": DEFINITION, "source": "# card"}
    for who, expected in (("admin", ""), ("developer", "forbidden"), ("viewer", "forbidden")):
        assert code(await database.rpc(await database.new_member(org, who), "import_agent", **given)) == expected
    foreign, _ = await database.new_organization()
    assert code(await database.rpc(foreign, "import_agent", **given)) == "not_found"
    assert await audit(database, org, "agent.import") == [True, True, False, False]


@pytest.mark.parametrize(
    "statement", ["update pam.audit set action = 'x'", "delete from pam.audit", "truncate pam.audit"]
)
async def test_the_audit_log_stands_against_its_owner_too(database: Database, statement: str) -> None:
    await database.new_organization()
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        await database.owner(statement)


async def test_a_foreign_and_an_absent_organisation_answer_alike(database: Database) -> None:
    person, _ = await database.new_organization()
    _, foreign = await database.new_organization()
    for verb, arguments in (
        ("set_member", {"user_id": person, "role": "viewer"}),
        ("remove_member", {"user_id": person}),
        ("import_agent", {"name": "a", "definition": DEFINITION, "source": "#"}),
        ("start_run", {"agent": "engineer", "message": "x"}),
        ("create_thread", {"title": "x"}),
        ("write_file", {"path": "a", "content": "x"}),
        ("read_file", {"path": "a"}),
        ("write_files", {"files": [{"path": "a", "text": "x"}]}),
        ("read_workspace", {}),
        (
            "record_checkout",
            {"remote": "https://example.com/r", "path": "", "ref": "main", "commit_id": "0" * 40, "since": None},
        ),
    ):
        answers = [await database.rpc(person, verb, org_id=org, **arguments) for org in (foreign, uuid4())]
        assert answers[0] == answers[1], verb
        assert code(answers[0]) == "not_found", verb
