"""Figures of SQL that a model wrote: a million rows under the caps, against the same by a bare connection."""

import time
from uuid import UUID

import psycopg

from infra.bench.calls import held_run
from infra.bench.measure import Row, compared
from infra.bench.runs import Bench
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WorkerGateway
from workers.tools.bound_sql import BoundSql

ROWS = 1_000_000
_TABLE = """
create table public.bench_rows as select n as id, md5(n::text) as word from generate_series(1, 1000000) n;
alter table public.bench_rows enable row level security;
create policy "Everybody" on public.bench_rows for select to authenticated using (true);
grant select on public.bench_rows to authenticated;
analyze public.bench_rows;
select pam.open_to_agent('public.bench_rows')"""
_QUERY = "select id, word from public.bench_rows"


async def capped_select(bench: Bench) -> Row:
    """A SELECT that finds a million rows, capped on the server, against the same capped by its own LIMIT."""
    gateway, sql = WorkerGateway(dsn=bench.facts.worker_dsn), BoundSql(dsn=bench.facts.agent_dsn)
    await gateway.open()
    await sql.open()
    connection = await psycopg.AsyncConnection.connect(bench.facts.owner_dsn, autocommit=True)
    try:
        await connection.execute(_TABLE.encode())
        run_id = await held_run(connection, UUID(bench.org_id), UUID(bench.person.user_id))
        hold = Hold(gateway, run_id, 1)

        async def capped() -> float:
            began = time.perf_counter()
            answer = await sql.select(hold, _QUERY, [])
            if len(answer.rows) != 200 or not answer.is_cut:
                raise RuntimeError(f"{len(answer.rows)} rows came, not 200 of more")
            return time.perf_counter() - began

        async def bare() -> float:
            began = time.perf_counter()
            await (await connection.execute(f"{_QUERY} limit 201".encode())).fetchall()
            return time.perf_counter() - began

        return await compared(f"SELECT over {ROWS:,} rows under caps", capped, "the same with LIMIT, unbound", bare)
    finally:
        await connection.execute("select pam.close_to_agent(to_regclass('public.bench_rows'))")
        await connection.execute("drop table if exists public.bench_rows")
        await connection.close()
        await sql.close()
        await gateway.close()
