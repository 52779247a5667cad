"""A private Postgres with Supabase's roles and auth.uid(), and the sample's seed in it."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import AsyncConnection, OperationalError

from infra.sample.slow_list import POSTGRES_PROGRAMS

ROOT = Path(__file__).parents[2]
SEED = (ROOT / "supabase/seed.sql").read_text()
OPEN_PROJECTS = (42, 147, 259)

PLATFORM = """
create role anon nologin;
create role authenticated nologin;
create role service_role nologin bypassrls;
create role postgres login nosuperuser createrole createdb bypassrls;
grant anon, authenticated, service_role to postgres with admin option;
alter schema public owner to postgres;
grant usage on schema public to anon, authenticated, service_role;
create schema auth;
grant usage on schema auth to anon, authenticated, service_role, postgres;
create function auth.uid() returns uuid language sql stable as $$
  select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
"""


@dataclass(frozen=True)
class Database:
    """Where the private server listens, for its superuser and for the owner of the tables."""

    admin_dsn: str
    owner_dsn: str


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


async def _connected(dsn: str) -> AsyncConnection:
    """The first connection that a starting server accepts, within ten seconds."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await AsyncConnection.connect(dsn, autocommit=True)
            except OperationalError:
                await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
async def database() -> AsyncIterator[Database]:
    """A seeded server of its own, gone at the end."""
    # Postgres refuses to run as root: then `nobody` runs it.
    identity: dict[str, Any] = (
        {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory(prefix="pam-sample-", ignore_cleanup_errors=True) as folder:
        if identity:
            os.chown(folder, 65534, 65534)
        initdb = await asyncio.create_subprocess_exec(
            POSTGRES_PROGRAMS / "initdb",
            *("-D", f"{folder}/db", "-U", "supabase_admin", "--auth=trust", "--encoding=UTF8", "--no-sync"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            stdout=asyncio.subprocess.DEVNULL,
            **identity,
        )
        assert await initdb.wait() == 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = await asyncio.create_subprocess_exec(
            POSTGRES_PROGRAMS / "postgres",
            *("-D", f"{folder}/db", "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-c", "fsync=off"),
            stderr=asyncio.subprocess.DEVNULL,
            **identity,
        )
        try:
            address = f"host=127.0.0.1 port={port} dbname=postgres"
            served = Database(f"{address} user=supabase_admin", f"{address} user=postgres")
            async with await _connected(served.admin_dsn) as admin:
                await admin.execute(PLATFORM)
            async with await AsyncConnection.connect(served.owner_dsn, autocommit=True) as owner:
                await owner.execute(SEED.encode())
            yield served
        finally:
            server.terminate()
            await server.wait()


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
