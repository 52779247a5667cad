"""Runs that stand in the order of the queue, put there by SQL and with no bell: a measurement rings itself."""

import asyncio
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from infra.bench.runs import Bench

_FILL: LiteralString = """
with agent as (select a.id, a.version from pam.agents a where a.org_id = %(org)s limit 1),
     threads as (insert into pam.threads (org_id, created_by)
                 select %(org)s, %(user)s from generate_series(1, %(runs)s) returning id),
     runs as (insert into pam.runs (org_id, thread_id, agent_id, agent_version, user_id, max_steps, max_tokens,
                                    max_cost_usd, deadline_at, request_sha256)
              select %(org)s, threads.id, agent.id, agent.version, %(user)s, 200, 400000, 1, now() + interval '1 h', ''
                from threads, agent returning id, thread_id),
     asked as (insert into pam.messages (org_id, thread_id, run_id, role, content)
               select %(org)s, thread_id, id, 'user', %(question)s from runs),
     heads as (insert into pam_private.run_heads (run_id) select id from runs)
select id from runs
"""


async def queue_runs(
    database: psycopg.AsyncConnection[Any], bench: Bench, count: int, *, question: str = "Well?"
) -> list[UUID]:
    """So many runs of the bench's person, each in a thread of its own, as the superuser puts them in; answers ids."""
    values = {"org": UUID(bench.org_id), "user": UUID(bench.person.user_id), "runs": count, "question": question}
    async with database.transaction():
        await database.execute("set local session_replication_role = replica")
        return [row[0] for row in await (await database.execute(_FILL, values)).fetchall()]


async def are_unfinished(database: psycopg.AsyncConnection[Any], ids: list[UUID]) -> bool:
    """Whether any of these runs has not ended."""
    query: LiteralString = "select 1 from pam.runs where id = any (%s) and ended_at is null limit 1"
    return await (await database.execute(query, [ids])).fetchone() is not None


async def until_ended(database: psycopg.AsyncConnection[Any], ids: list[UUID]) -> None:
    """Wait until all of these runs have ended."""
    while await are_unfinished(database, ids):
        await asyncio.sleep(0.02)
