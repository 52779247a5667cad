"""Schema changes as rows: a text stands, a version is one, a call proposes once, and an end is an end."""

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.database.world import call, step
from tests.support.database import Database

SQL = "create table public.notes (id int)"


async def proposed(database: Database) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the hold, the change) of a trusted organisation's run."""
    owner, org = await database.new_organization()
    await database.owner("select pam.trust_organization_with_schema(%s)", org)
    run = await database.new_run(owner, org)
    held = {"run_id": run, "fence": await database.claimed(run)}
    planned = call("supabase_migrate", action="propose")
    await database.worker("record_step", **held, step=step(), calls=[planned], events=[])
    await database.worker("begin_call", **held, id=planned["id"])
    change = await database.worker(
        "propose_change", **held, call=UUID(planned["id"]), name="notes", sql=SQL, findings=[], acknowledged={}
    )
    return held, change


@pytest.mark.parametrize("column", ["name", "version", "sql", "org_id", "proposed_by"])
async def test_what_was_proposed_stands(database: Database, column: str) -> None:
    await proposed(database)
    value = {"name": "other", "version": "20990101000000", "sql": "drop table public.tasks"}.get(column, str(uuid4()))
    more = (
        ", sql_sha256 = encode(sha256(convert_to('drop table public.tasks', 'UTF8')), 'hex')" if column == "sql" else ""
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="keeps its text"):
        await database.owner(f"update pam.schema_changes set {column} = %s{more}", value)


async def test_an_end_is_an_end(database: Database) -> None:
    await proposed(database)
    await database.owner("update pam.schema_changes set status = 'failed'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="and its end"):
        await database.owner("update pam.schema_changes set status = 'checked'")


async def test_a_digest_is_the_texts(database: Database) -> None:
    _, change = await proposed(database)
    with pytest.raises(psycopg.errors.CheckViolation):
        await database.owner(
            "insert into pam.schema_changes (org_id, name, version, sql, sql_sha256, proposed_by)"
            " values (%s, 'x', '20990101000000', 'x', 'y', gen_random_uuid())",
            change["org_id"],
        )


async def test_a_call_proposes_once_and_a_version_is_one(database: Database) -> None:
    await proposed(database)
    copy = "insert into pam.schema_changes (org_id, name, version, sql, sql_sha256, proposed_by, call_id) select org_id, name, {0}, sql, sql_sha256, proposed_by, {1} from pam.schema_changes"
    for version, planned in (("version", "null"), ("'20990101000000'", "call_id")):
        with pytest.raises(psycopg.errors.UniqueViolation):
            await database.owner(copy.format(version, planned))


async def test_versions_follow_each_other_and_the_history(database: Database) -> None:
    held, first = await proposed(database)
    await database.owner(
        "create schema supabase_migrations; create table supabase_migrations.schema_migrations (version text primary key);"
        " insert into supabase_migrations.schema_migrations values ('20880101235959')"
    )
    planned = call("supabase_migrate", action="propose")
    await database.worker("record_step", **held, step=step(2), calls=[planned], events=[])
    await database.worker("begin_call", **held, id=planned["id"])
    again = await database.worker(
        "propose_change", **held, call=UUID(planned["id"]), name="more", sql=SQL, findings=[], acknowledged={}
    )
    assert first["version"] < again["version"] == "20880102000000"


async def test_nothing_is_proposed_exported_or_handed_on_beside_the_ledger(database: Database) -> None:
    held, change = await proposed(database)
    late = call("supabase_migrate", action="apply")
    await database.worker("record_step", **held, step=step(2), calls=[late], events=[])
    more = {"name": "more", "sql": SQL, "findings": [], "acknowledged": {}}
    for id in (late["id"], uuid4()):
        with pytest.raises(psycopg.Error, match="has no recorded intent"):
            await database.worker("propose_change", **held, call=id, **more)
        with pytest.raises(psycopg.Error, match="has no recorded intent"):
            await database.worker("export_change", **held, call=id, change=change["id"])
        with pytest.raises(psycopg.Error, match="has no recorded intent"):
            await database.admin("update pam.schema_changes set approval_call = %s", id)
    (row,) = await database.admin("select status, approval_call from pam.schema_changes")
    assert (row["status"], row["approval_call"]) == ("proposed", None)
    assert await database.admin("select 1 from pam.files") == []
