"""Runs one statement that a model wrote, as the person who asked: bound, read-only, always rolled back."""

import contextlib
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql as compose
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from workers.kernel.errors import AccessRevoked, FenceLost, Unavailable
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WATCHFUL
from workers.tools.failures import ToolRetry


@dataclass(frozen=True)
class SqlLimits:
    """Kept by the server, set for each transaction anew."""

    statement_seconds: int = 15
    max_rows: int = 200
    max_row_characters: int = 20_000


@dataclass(frozen=True)
class SqlRows:
    """Rows as JSON texts, in order; `is_cut` when there were more."""

    rows: tuple[str, ...]
    is_cut: bool


class BoundSql:
    """Connections on the login pam_agent_sql, which may bind a transaction to a run's person and become pam_agent."""

    def __init__(self, *, dsn: str, limits: SqlLimits | None = None, max_connections: int = 2) -> None:
        self._limits = limits or SqlLimits()
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
            f"select left(row_to_json(pam_row)::text, {limits.max_row_characters + 1})"  # noqa: S608 - bound and read-only
            f" from (\n{statement}\n) as pam_row limit {limits.max_rows + 1}"
        )
        rows = [str(row[0]) for row in await self._run(hold, capped, parameters)]
        if any(len(row) > limits.max_row_characters for row in rows):
            raise ToolRetry(
                f"A row holds more than {limits.max_row_characters:,} characters: select fewer or shorter columns."
            )
        return SqlRows(tuple(rows[: limits.max_rows]), len(rows) > limits.max_rows)

    async def explain(self, hold: Hold, statement: str, parameters: list[Any]) -> str:
        """The plan with real times and row counts."""
        plan = await self._run(hold, f"explain (analyze, buffers)\n{statement}", parameters)
        return "\n".join(str(row[0]) for row in plan)

    async def _run(self, hold: Hold, statement: str, parameters: list[Any]) -> list[tuple[Any, ...]]:
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
                    # binary=True forces the extended protocol, which takes one statement only.
                    await cursor.execute(statement.encode(), parameters, binary=True)
                    return await cursor.fetchall()
                finally:
                    # A session's advisory lock outlives the rollback; one statement could hold the sweeper's for good.
                    with contextlib.suppress(psycopg.Error):  # a connection that is lost must not hide a cancel
                        if connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                            await connection.execute(b"rollback; select pg_advisory_unlock_all()")
        except PoolTimeout as error:
            raise Unavailable("the database did not answer within 10 s: check PAM_AGENT_DATABASE_URL") from error
        except psycopg.Error as error:
            raise _spoken(error, self._limits) from error


def _spoken(error: psycopg.Error, limits: SqlLimits) -> Exception:
    """The database's complaint in words that a model can act on."""
    state, message, hint = error.sqlstate or "", error.diag.message_primary or "", error.diag.message_hint
    match state:
        case "PM002":
            return FenceLost(message)
        case "PM003":
            return AccessRevoked(message)
        case "PM005":
            return ToolRetry(f"{message}. A person must review the change and open the table again.")
        case "57014":
            return ToolRetry(
                f"The statement ran longer than {limits.statement_seconds} s and was stopped: narrow or explain it."
            )
        case "42501":
            return ToolRetry(
                f"{message}: this table or function is not open to agents, or not to the person you work for. "
                "Use describe to see what is open."
            )
        case "25006":
            return ToolRetry("This tool reads only: propose a change as a migration file instead.")
        case _ if not state or state.startswith(("08", "57P")) or state == "53300":
            # Other operational errors (too complex, locked, no such state) are the statement's own.
            return Unavailable(f"the database did not answer: {type(error).__name__}")
        case _:
            return ToolRetry(f"{message} (SQLSTATE {state})" + (f". {hint}" if hint else ""))
