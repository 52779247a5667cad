"""The workers' gateway and its connections: one that died is replaced before a verb, one that lives is not asked."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from tests.support.database import Database
from workers.kernel.worker_gateway import WorkerGateway


@pytest.fixture
async def gateway(database: Database) -> AsyncIterator[WorkerGateway]:
    """One connection, which every verb must take."""
    opened = WorkerGateway(dsn=database.worker_dsn, max_connections=1)
    await opened.open()
    yield opened
    await opened.close()


async def claim_nothing(gateway: WorkerGateway) -> None:
    assert await gateway.call("claim_next", worker="w", lease_seconds=30) is None


async def test_a_connection_that_the_server_ended_is_replaced_before_the_next_verb(
    database: Database, gateway: WorkerGateway
) -> None:
    for _ in range(3):
        await claim_nothing(gateway)
        ended = await database.admin(
            "select pg_terminate_backend(pid, 5000) as is_gone from pg_stat_activity"
            " where application_name = 'pam-worker' and datname = current_database()"
        )
        assert [row["is_gone"] for row in ended] == [True]

        await claim_nothing(gateway)


async def test_a_connection_that_lives_is_not_asked_before_every_verb(
    gateway: WorkerGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    execute = psycopg.AsyncConnection.execute

    async def listened(connection: Any, statement: Any, *rest: Any, **options: Any) -> Any:
        said.append(statement)
        return await execute(connection, statement, *rest, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", listened)

    for _ in range(5):
        await claim_nothing(gateway)

    assert len(said) == 5, said
