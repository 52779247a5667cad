"""Figures of the database: what row-level security costs a list at a million rows."""

import json
import time
from typing import LiteralString
from uuid import UUID

import psycopg

from infra.bench.measure import Row, Timed, compared
from infra.bench.runs import Bench

ROWS, CHUNK, ORGANIZATIONS, LOOKS = 1_000_000, 100_000, 200, 20
_FILL: LiteralString = """
insert into pam.runs (org_id, thread_id, agent_id, agent_version, user_id, status, max_steps, max_tokens, max_cost_usd,
                      deadline_at, request_sha256, created_at, ended_at)
select case when n %% 2 = 0 then %(org)s else md5((n %% %(organizations)s)::text)::uuid end, gen_random_uuid(),
       gen_random_uuid(), 1, gen_random_uuid(), 'succeeded', 30, 1000, 1, now(), '',
       now() - n * interval '1 second', now()
  from generate_series(%(first)s::int, %(last)s::int) n
"""
_LIST: LiteralString = (
    "select id, status, created_at from pam.runs where org_id = %s order by created_at desc, id desc limit 20"
)


async def fill(bench: Bench, rows: int) -> None:
    """So many ended runs, half of them the organisation's; tells after each hundred thousand that they are there."""
    values = {"org": UUID(bench.org_id), "organizations": ORGANIZATIONS}
    async with await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as connection:
        await connection.execute("set session_replication_role = replica")  # the threads and agents are left out
        for first in range(1, rows + 1, CHUNK):
            last = min(first + CHUNK - 1, rows)
            await connection.execute(_FILL, {**values, "first": first, "last": last})
            bench.tell(f"{last:,} of {rows:,} runs are there")
        await connection.execute("vacuum analyze pam.runs")


def _list(dsn: str, org_id: str, before: tuple[str, ...]) -> Timed:
    async def once() -> float:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            for statement in before:
                await connection.execute(statement.encode())
            await connection.execute(_LIST, [org_id])  # what a new connection must first read is not the list's
            began = time.perf_counter()
            for _ in range(LOOKS):
                found = await (await connection.execute(_LIST, [org_id])).fetchall()
            taken = (time.perf_counter() - began) / LOOKS
            if len(found) != 20:
                raise RuntimeError(f"the list has {len(found)} rows, not 20")
            return taken

    return once


async def list_runs(bench: Bench, *, rows: int = ROWS) -> Row:
    """The newest 20 runs as PostgREST asks for a person, against the same without row-level security."""
    await fill(bench, rows)
    claims = json.dumps({"sub": bench.person.user_id, "role": "authenticated"})
    as_person = (f"select set_config('request.jwt.claims', '{claims}', true)", "set local role authenticated")
    return await compared(
        f"list of 20 runs under RLS, {rows:,} rows",
        _list(bench.facts.owner_dsn, bench.org_id, as_person),
        "the same without RLS",
        _list(bench.facts.admin_dsn, bench.org_id, ()),
        must=1.8,
        aim=1.4,
    )
