"""Asking the database as a person, so that row-level security decides what they see."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool

Connection = AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]
Row = dict[str, Any]


@asynccontextmanager
async def acting_as(pool: Pool, user_id: UUID) -> AsyncIterator[Connection]:
    """Open a transaction in which Postgres takes us for this person, as PostgREST does."""
    claims = json.dumps({"sub": str(user_id), "role": "authenticated"})
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        await connection.execute("set local role authenticated")
        yield connection
