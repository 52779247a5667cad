"""The stack's own parts, each with the real client of what it stands for."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import psycopg
import pytest

from infra.local.facts import StackFacts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def platform(stack: StackFacts) -> StackFacts:
    """The session's stack."""
    return stack


@pytest.fixture(scope="session")
def migrate(platform: StackFacts) -> Callable[[str], Awaitable[None]]:
    """Run SQL as `postgres`, and return when PostgREST has reloaded its schema cache."""

    async def apply(text: str) -> None:
        marker = f"reloaded_{uuid.uuid4().hex}"
        done = f"create function public.{marker}() returns int language sql as 'select 1';"
        async with await psycopg.AsyncConnection.connect(platform.owner_dsn, autocommit=True) as connection:
            await connection.execute(f"{text};{done} notify pgrst, 'reload schema'".encode())
            headers = {"apikey": platform.secret_key}
            async with asyncio.timeout(10), httpx.AsyncClient(base_url=platform.url, headers=headers) as http:
                while (await http.post(f"/rest/v1/rpc/{marker}", json={})).status_code == 404:
                    await connection.execute("select pg_sleep(0.02)")

    return apply
