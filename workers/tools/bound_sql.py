"""Runs one statement that a model wrote, as the person who asked: bound, read-only, always rolled back."""

import contextlib
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql as compose
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from workers.kernel.errors import Unavailable
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WATCHFUL
from workers.tools import query_plan
from workers.tools.bound_writes import BoundWrites
from workers.tools.failures import ToolRetry
from workers.tools.sql_limits import SqlLimits, execute_one, refuse_above, spoken

__all__ = ["BoundSql", "SqlLimits", "SqlRows"]


@dataclass(frozen=True)
class SqlRows:
    """Rows as JSON texts, in order; `is_cut` when there were more."""

    rows: tuple[str, ...]
    is_cut: bool


class BoundSql:
    """Connections on the login pam_agent_sql, which may bind a transaction to a run's person and become pam_agent."""

    def __init__(self, *, dsn: str, limits: SqlLimits | None = None, max_connections: int = 2) -> None:
        self._limits = limits or SqlLimits()
        self.writes = BoundWrites(dsn=dsn, limits=self._limits)
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=0,
            max_size=max_connections,
            open=False,
            timeout=10,
            check=AsyncConnectionPool.check_connection,
            kwargs={"prepare_threshold": None, "application_name": "pam-agent-sql", **WATCHFUL},
        )

    async def open(self) -> None:
        """Make the pool; connections come with the first statement."""
        await self._pool.open()

    async def close(self) -> None:
        """Return every connection."""
        await self._pool.close()

    async def select(self, hold: Hold, statement: str, parameters: list[Any]) -> SqlRows:
        """Rows of a reading statement, capped on the server. Raises ToolRetry with the database's reason."""
        limits = self._limits
        capped = (
            f"select left(row_to_json(pam_row)::text, {limits.max_row_characters + 1}) as line"  # noqa: S608 - bound and read-only
            f" from (\n{statement}\n) as pam_row limit {limits.max_rows + 1}"
        )
        summed = (
            "select case when so_far <= $B then line end from ("  # noqa: S608
            "select line, sum(octet_length(line)) over (rows unbounded preceding) as so_far"
            f" from ({capped}) as pam_capped) as pam_summed"
        ).replace("$B", str(limits.max_bytes))
        found = [row[0] for row in await self._run(hold, summed, parameters)]
        rows = [str(line) for line in found if line is not None]
        if any(len(row) > limits.max_row_characters for row in rows):
            raise ToolRetry(
                f"A row holds more than {limits.max_row_characters:,} characters: select fewer or shorter columns."
            )
        return SqlRows(tuple(rows[: limits.max_rows]), len(found) > min(len(rows), limits.max_rows))

    async def explain(self, hold: Hold, statement: str, parameters: list[Any]) -> str:
        """The plan with real times, as query_plan shows it."""
        plan = await self._run(hold, statement, parameters, prefix="explain (analyze, format json)\n")
        return query_plan.told(plan[0][0][0])

    async def _run(
        self, hold: Hold, statement: str, parameters: list[Any], *, prefix: str = ""
    ) -> list[tuple[Any, ...]]:
        try:
            async with self._pool.connection() as connection:
                try:
                    cursor = psycopg.AsyncRawCursor(connection)
                    await cursor.execute(compose.SQL("select pam_private.bind({}, {})").format(hold.run_id, hold.fence))
                    await connection.execute(
                        f"set transaction read only; set local statement_timeout = '{self._limits.statement_seconds}s';"
                        " set local lock_timeout = '2s'; set local idle_in_transaction_session_timeout = '30s';"
                        " set local standard_conforming_strings = on; set local work_mem = '16MB';"
                        " set local search_path = public, extensions; set local role pam_agent".encode()
                    )
                    await refuse_above(self._limits.max_plan_cost, cursor, statement, parameters)
                    await execute_one(cursor, prefix + statement, parameters)
                    return await cursor.fetchall()
                finally:
                    # A session's advisory lock outlives the rollback; one statement could hold the sweeper's for good.
                    with contextlib.suppress(psycopg.Error):  # a connection that is lost must not hide a cancel
                        if connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                            await connection.execute(b"rollback; select pg_advisory_unlock_all()")
        except PoolTimeout as error:
            raise Unavailable("the database did not answer within 10 s: check PAM_AGENT_DATABASE_URL") from error
        except psycopg.Error as error:
            raise spoken(error, self._limits) from error
