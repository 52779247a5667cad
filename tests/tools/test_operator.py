"""The operator beside the tool: the server that it rebuilds schemas on, and what it does with a change that breaks it."""

# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names in this module

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from infra.owner import snapshot
from infra.owner.rebuild import Rebuild
from infra.owner.trial import OperatorLimits
from tests.support.database import Database
from tests.support.migrations import Project, operating, operator_process, project
from workers.kernel.ledger import schema_changes, tool_calls

COLUMN = "alter table public.tasks add column estimate int"


async def rebuilt(rebuild: Rebuild, database: Database) -> list[str]:
    """The rebuilt schemas that the throw-away server has while a clone of this database's is there."""
    async with await psycopg.AsyncConnection.connect(database.owner_dsn, autocommit=True) as connection:
        wanted = await snapshot.take(connection)
    async with (
        rebuild.database(database.owner_dsn, wanted) as copy,
        await psycopg.AsyncConnection.connect(copy, autocommit=True) as connection,
    ):
        cursor = await connection.execute("select datname from pg_database where datname like 'rebuilt%'")
        return [str(row[0]) for row in await cursor.fetchall()]


async def test_of_rebuilt_schemas_the_last_is_kept_and_none_that_went_wrong(project: Project, rebuild: Rebuild) -> None:
    database = project.database
    (first,) = await rebuilt(rebuild, database)
    assert await rebuilt(rebuild, database) == [first]
    await database.owner("create table public.of_pam (org_id uuid references pam.organizations)")
    for _ in range(2):
        _, text = await project.checked(COLUMN)
        assert "the rebuild is not the same" in text
    await database.owner("drop table public.of_pam; create table public.other (id int)")
    (last,) = await rebuilt(rebuild, database)
    assert last != first


async def test_a_server_that_died_is_replaced_and_folders_of_the_dead_are_thrown_away(
    database: Database, rebuild: Rebuild
) -> None:
    assert await rebuilt(rebuild, database)
    living = rebuild._folder
    assert living is not None
    left = Path(tempfile.mkdtemp(prefix="pam-rebuild-"))
    for old in (left, living):
        os.utime(old, (0, 0))
    other = Rebuild()
    try:
        assert await rebuilt(other, database)
        assert (left.exists(), living.exists()) == (False, True)
        server, folder = other._server, other._folder
        assert server is not None
        assert folder is not None
        server.child.process.kill()
        await server.child.process.wait()
        assert await rebuilt(other, database)
        assert (other._server is server, folder.exists()) == (False, False)
    finally:
        await other.close()
    assert await rebuilt(rebuild, database)


async def waiting(project: Project) -> str:
    """A change that was checked and approved, and that no operator has taken yet."""
    change, _ = await project.checked(COLUMN)
    decided = await project.bench.decided(*await project.asked(change), verdict="approve")
    await project.stop_operator()
    await tool_calls.begin(project.bench.hold, decided)
    row = await project.row(change)
    await schema_changes.approve(project.bench.hold, decided.id, UUID(change), sql_sha256=row["sql_sha256"])
    return change


async def ended(project: Project, change: str) -> dict[str, Any]:
    """The change once it is no longer under way."""
    async with asyncio.timeout(10):
        while (row := await project.row(change))["status"] in ("approved", "applying"):
            await asyncio.sleep(0.02)
    return row


async def test_a_change_that_breaks_the_operator_fails_and_the_next_ones_turn_comes(project: Project) -> None:
    change = await waiting(project)
    await project.database.admin("update pam.schema_changes set report = '[]' where id = %s", change)
    async with operating(project.database, None):
        row = await ended(project, change)
        _, text = await project.checked(COLUMN)
    assert (row["status"], "broke inside PAM" in row["failure"]) == ("failed", True)
    assert "· checked ·" in text


async def test_a_change_whose_own_connection_is_lost_may_be_applied_again(project: Project) -> None:
    change = await waiting(project)
    async with operating(project.database, None, limits=OperatorLimits(lock_seconds=30)):
        async with await psycopg.AsyncConnection.connect(project.database.owner_dsn) as other:
            async with asyncio.timeout(10):
                await other.execute("lock table public.tasks in share mode")
                stopped: list[dict[str, Any]] = []
                while not stopped:
                    stopped = await project.database.admin(
                        "select pg_terminate_backend(l.pid) from pg_locks l join pg_stat_activity a using (pid)"
                        " where not l.granted and a.application_name = 'pam-operator'"
                    )
        row = await ended(project, change)
        assert (row["status"], "the database went away" in row["failure"]) == ("checked", True)
        assert (await project.bench.agreed("supabase_migrate", action="apply", change=change))[0] == "succeeded"


async def test_an_operator_that_came_back_waits_no_longer_the_next_time(database: Database) -> None:
    async with operator_process(database) as process:
        assert process.stderr is not None
        pauses = []
        async with asyncio.timeout(20):
            for _ in range(3):
                await database.admin(
                    "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pam-operator' and datname = current_database()"
                )
                while b"operator ready" not in (line := await process.stderr.readline()):
                    pauses += [json.loads(line)["pause_seconds"]] if b"went away" in line else []
    assert pauses == [0.5, 0.5, 0.5]
