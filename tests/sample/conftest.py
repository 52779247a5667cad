"""The sample on a database of its own, and people in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from psycopg import AsyncConnection

from tests.support.database import Database, Template

ROOT = Path(__file__).parents[2]
SEED = (ROOT / "supabase/seed.sql").read_text()
OPEN_PROJECTS = (42, 147, 259)


@asynccontextmanager
async def as_person(dsn: str, user_id: UUID) -> AsyncIterator[AsyncConnection]:
    """A transaction in which Postgres takes us for this person, as PostgREST does."""
    async with await AsyncConnection.connect(dsn) as connection:
        await connection.execute(
            "select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text, true)",
            [user_id],
        )
        await connection.execute("set local role authenticated")
        yield connection


@pytest.fixture(scope="session")
async def database(template: Template) -> AsyncIterator[Database]:
    """One seeded database for all tests of the sample."""
    async with template.clone() as cloned:
        yield cloned


@pytest.fixture(scope="session")
async def member(database: Database) -> UUID:
    """A fresh person who joined the three projects that have open invitations, as a browser would."""
    user_id = uuid4()
    async with as_person(database.owner_dsn, user_id) as connection:
        for project_id in OPEN_PROJECTS:
            await connection.execute(
                "insert into public.members (project_id, user_id, role) values (%s, %s, 'member')",
                [project_id, user_id],
            )
    return user_id
