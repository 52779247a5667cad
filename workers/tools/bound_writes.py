"""Runs one writing statement that a model wrote, as the person who asked: rehearsed, or committed once a call.

Every transaction has a connection of its own, because a commit keeps what a statement set for its session. What is
committed is what was agreed to: the same rows, with the content that was shown, under the database's own count.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import psycopg
from psycopg import sql as compose
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from workers.kernel.errors import Unavailable
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WATCHFUL
from workers.tools.failures import ToolRetry
from workers.tools.sql_limits import SqlLimits, execute_one, refuse_above, spoken
from workers.tools.sql_writes import CheckedWrite

MAX_ROWS = 1_000  # no table may be opened for more
_MAX_SAID_CHARACTERS = 20_000
_MAX_ROW_CHARACTERS = 200_000
_MAX_VALUE_CHARACTERS = 2_000
_SERIALIZATION = ("40001", "40P01")
_CHANGED = "The rows changed since they were shown ({now} now, {then} then): ask for the call again."


@dataclass(frozen=True)
class Change:
    """One row: its key, as it was, as it is, and what the statement's RETURNING says of it.

    The rows are JSON objects; a long value stands there as its beginning, its length and its digest. `said` is cut.
    """

    key: dict[str, Any]
    before: str | None
    after: str | None
    said: str | None


@dataclass(frozen=True)
class Written:
    """What a statement did. tables: rows by table as the server counted them, cascades and triggers too."""

    rows: int
    tables: dict[str, int]
    changes: tuple[Change, ...]
    digest: str
    is_repeat: bool = False


@dataclass(frozen=True)
class _Target:
    """The written table as the catalogue has it; every name is quoted."""

    name: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    clocks: frozenset[str]


@dataclass(frozen=True)
class _Row:
    key: dict[str, Any]
    sha256: str
    text: str
    said: str | None


class BoundWrites:
    """Transactions on the login pam_agent_sql that may write."""

    def __init__(self, *, dsn: str, limits: SqlLimits, max_connections: int = 2) -> None:
        self._dsn = make_conninfo(dsn, application_name="pam-agent-sql", **WATCHFUL)
        self._limits = limits
        self._turn = asyncio.Semaphore(max_connections)

    async def rehearse(self, hold: Hold, checked: CheckedWrite, parameters: list[Any]) -> Written:
        """What the statement would do. The database lets such a transaction never commit. Raises ToolRetry."""
        bound = compose.SQL("select pam_private.bind_rehearsal({}, {})").format(hold.run_id, hold.fence)
        async with self._transaction() as connection:
            answer = await _one(connection, bound)
            act = await self._prepared(connection, checked, parameters)
            return await act.perform(list(answer), "select pam_private.weigh_write(%s)", [])

    async def plan(self, hold: Hold, checked: CheckedWrite, parameters: list[Any]) -> str:
        """How Postgres would go about it; nothing runs."""
        bound = compose.SQL("select pam_private.bind_rehearsal({}, {})").format(hold.run_id, hold.fence)
        async with self._transaction() as connection:
            await _one(connection, bound)
            act = await self._prepared(connection, checked, parameters)
            return await act.plan()

    async def write(
        self, hold: Hold, call_id: UUID, checked: CheckedWrite, parameters: list[Any], *, agreed: dict[str, Any] | None
    ) -> Written:
        """Do it, once for this call, and commit; a repeat answers what was written then.

        agreed: what a person was shown. Raises ToolRetry, and nothing is kept, when anything else would happen by now.
        """
        bound = compose.SQL("select pam_private.bind_write({}, {}, {})").format(hold.run_id, hold.fence, call_id)
        async with self._transaction() as connection:
            try:
                answer = await _one(connection, bound)
            except psycopg.errors.UniqueViolation as error:  # the call's first try is not over on the server yet
                raise Unavailable("this call is being written at this moment") from error
            if (done := answer.get("written")) is not None:
                return Written(sum(done.values()), done, (), "", is_repeat=True)
            act = await self._prepared(connection, checked, parameters)
            done = await act.perform(answer["tables"], "select pam_private.settle_write(%s, %s)", [call_id])
            if agreed is not None and facts(done) != {name: agreed.get(name) for name in facts(done)}:
                raise ToolRetry(_CHANGED.format(now=sum(done.tables.values()), then=_total(agreed)))
            await connection.commit()
            return done

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """One connection for one transaction, undone unless it was committed, and closed."""
        try:
            async with self._turn, asyncio.timeout(self._limits.statement_seconds + 12):
                connection = await psycopg.AsyncConnection.connect(self._dsn, prepare_threshold=None)
                try:
                    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
                    yield connection
                finally:
                    await _left_clean(connection)
        except TimeoutError as error:
            raise Unavailable("the database did not answer in time") from error
        except psycopg.Error as error:
            if error.sqlstate in _SERIALIZATION:
                raise ToolRetry(
                    "Somebody changed these rows at the same time, so nothing was written: try again."
                ) from error
            raise spoken(error, self._limits, is_writing=True) from error

    async def _prepared(
        self, connection: psycopg.AsyncConnection[Any], checked: CheckedWrite, parameters: list[Any]
    ) -> "_Act":
        """Limits, role, and the plan's cost; the target as the catalogue has it."""
        await connection.execute(
            f"set local statement_timeout = '{self._limits.statement_seconds}s'; set local lock_timeout = '2s';"
            " set local idle_in_transaction_session_timeout = '30s'; set local standard_conforming_strings = on;"
            " set local work_mem = '16MB'; set local search_path = public, extensions".encode()
        )
        row = await (await connection.execute(_TARGET, [checked.schema, checked.table])).fetchone()
        await connection.execute(b"set local role pam_agent")
        target = _Target(row[0], tuple(row[1]), tuple(row[2]), frozenset(row[3])) if row and row[1] else None
        act = _Act(connection, checked, target, parameters)
        plan = await refuse_above(
            self._limits.max_plan_cost, psycopg.AsyncRawCursor(connection), checked.sql, parameters
        )
        if plan.get("Node Type") != "ModifyTable" or plan.get("Operation") != checked.verb.capitalize():
            raise ToolRetry("The statement would do something else than it says, so it was not run.")
        return act


class _Act:
    """One statement in its bound transaction."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        checked: CheckedWrite,
        target: _Target | None,
        parameters: list[Any],
    ) -> None:
        self._connection = connection
        self._checked = checked
        self._target = target
        self._parameters = parameters

    async def plan(self) -> str:
        """EXPLAIN without running it."""
        cursor = psycopg.AsyncRawCursor(self._connection)
        await execute_one(cursor, f"explain\n{self._checked.sql}", self._parameters)
        return "\n".join(str(row[0]) for row in await cursor.fetchall())

    async def perform(self, tables: list[int], weigh: str, values: list[Any]) -> Written:
        """Try it, look at the rows as they were, do it again for good, and let the database weigh it."""
        if self._target is None:
            raise ToolRetry(f"{self._checked.table} is not open to you for writing: use describe to see what is.")
        await self._connection.execute(b"savepoint pam_rehearsal")
        found = await self._run()
        await self._connection.execute(b"rollback to savepoint pam_rehearsal")
        before = await self._before(found)
        if self._checked.verb != "insert" and len(before) != len(found):
            raise ToolRetry(
                "The statement changes rows that the person may not read, or twice: say which rows by their key."
            )
        await self._as_login("select pam_private.count_from_here()", [])
        rows = await self._run()
        # Without row-level security a write reaches anything: asked under the statement's lock, not of a snapshot.
        naked = await (await self._connection.execute(_NAKED, [tables])).fetchone()
        if naked is None or naked[0]:
            raise ToolRetry("A table that is open to agents lost its row-level security: a person must look at it.")
        counts = await self._as_login(weigh, [*values, len(rows)])
        return self._told(rows, before, counts)

    async def _run(self) -> list[_Row]:
        """The statement, with the rows that it leaves behind. The extended protocol takes one statement only."""
        checked, target = self._checked, self._target
        assert target is not None
        cursor = psycopg.AsyncRawCursor(self._connection)
        said = "null::text"
        if checked.said is not None:
            listed = _listed(checked.row, target.columns) if checked.said == "*" else checked.said
            said = (
                f"(select pg_catalog.left(pg_catalog.row_to_json(r)::text, {_MAX_SAID_CHARACTERS})"  # noqa: S608 - bound
                f" from (select {listed}\n) as r)"
            )
        statement = f"{checked.sql}\nreturning {_image(checked.row, target)}, {said}"
        rows: list[_Row] = []
        streamed = cast(AsyncGenerator[Any, None], cursor.stream(statement.encode(), self._parameters, binary=True))
        async with aclosing(streamed) as stream:
            async for row in stream:
                if len(rows) == MAX_ROWS:
                    raise ToolRetry(f"The statement writes more than {MAX_ROWS:,} rows: narrow it.")
                rows.append(_Row(row[0], row[1], row[2], row[3]))
        await self._connection.execute(b"set local role pam_agent")
        return rows

    async def _before(self, rows: list[_Row]) -> dict[str, _Row]:
        """The same rows as they were, by key; those that an INSERT made are not there."""
        target = self._target
        assert target is not None
        join = " and ".join(f"pam_old.{key} = pam_key.{key}" for key in target.keys)
        statement = (
            f"select {_image('pam_old', target)} from {target.name} as pam_old"  # noqa: S608 - names of the catalogue
            f" join pg_catalog.jsonb_populate_recordset(null::{target.name}, $1::pg_catalog.jsonb) as pam_key on {join}"
        )
        cursor = psycopg.AsyncRawCursor(self._connection)
        await cursor.execute(statement.encode(), [json.dumps([row.key for row in rows])])
        return {_name(row[0]): _Row(row[0], row[1], row[2], None) for row in await cursor.fetchall()}

    async def _as_login(self, statement: str, values: list[Any]) -> Any:
        """A function of PAM's own, which the statement's role may not call."""
        await self._connection.execute(b"set local role none")
        row = await (await self._connection.execute(statement.encode(), values or None)).fetchone()
        await self._connection.execute(b"set local role pam_agent")
        return row[0] if row else None

    def _told(self, rows: list[_Row], before: dict[str, _Row], counts: dict[str, int]) -> Written:
        is_gone = self._checked.verb == "delete"
        rows = sorted(rows, key=lambda row: _name(row.key)) if before else rows
        changes = [
            Change(
                row.key,
                old.text if (old := before.get(_name(row.key))) else None,
                None if is_gone else row.text,
                row.said,
            )
            for row in rows
        ]
        seen = [[_name(row.key), old.sha256] for row in rows if (old := before.get(_name(row.key)))]
        if (found := self._checked.found) is not None:
            seen += sorted(["new", _sha256(json.dumps(self._found(row, found), sort_keys=True))] for row in rows)
        return Written(len(rows), counts, tuple(changes), _sha256(json.dumps(seen)))

    def _found(self, row: _Row, names: tuple[str, ...]) -> dict[str, Any]:
        """Of a new row what the statement itself found; the time of day differs from one moment to the next."""
        assert self._target is not None
        try:
            whole = json.loads(row.text)
        except ValueError:  # cut
            return {"": row.sha256}
        return {name: whole.get(name) for name in names or tuple(whole) if name not in self._target.clocks}


def _listed(row: str, columns: tuple[str, ...]) -> str:
    return ", ".join(f"{row}.{column}" for column in columns)


def _image(row: str, target: _Target) -> str:
    """A row's key, the digest of what may be read of it, and its text with long values cut by the server."""
    value = "pg_catalog.length(e.value::text)"
    short = (
        f"case when {value} <= {_MAX_VALUE_CHARACTERS} then e.value"
        f" else pg_catalog.to_jsonb(pg_catalog.concat(pg_catalog.left(e.value::text, {_MAX_VALUE_CHARACTERS}),"
        f" ' [cut: ', {value}, ' characters, sha256 ',"
        " pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(e.value::text, 'UTF8')), 'hex'), ']')) end"
    )
    whole = f"(select pg_catalog.to_jsonb(r)::text as t from (select {_listed(row, target.columns)}) as r) as w"  # noqa: S608
    return (
        f"(select pg_catalog.to_jsonb(k) from (select {_listed(row, target.keys)}) as k),"  # noqa: S608 - quoted names
        f" (select pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(t, 'UTF8')), 'hex') from {whole}),"
        f" (select pg_catalog.left(pg_catalog.jsonb_object_agg(e.key, {short})::text, {_MAX_ROW_CHARACTERS})"
        f" from {whole}, pg_catalog.jsonb_each(w.t::pg_catalog.jsonb) as e)"
    )


def facts(done: Written) -> dict[str, Any]:
    """What a person agrees to: how many rows of which tables, and that they are these."""
    return {"rows": done.rows, "tables": done.tables, "digest": done.digest}


def _total(agreed: dict[str, Any]) -> int:
    tables = agreed.get("tables")
    return sum(tables.values()) if isinstance(tables, dict) else 0


async def _one(connection: psycopg.AsyncConnection[Any], statement: compose.Composed) -> Any:
    row = await (await connection.execute(statement)).fetchone()
    return row[0] if row else None


async def _left_clean(connection: psycopg.AsyncConnection[Any]) -> None:
    """Nothing of a session outlives it, not even on a connection that a pooler keeps."""
    with contextlib.suppress(psycopg.Error):
        if connection.info.transaction_status is not TransactionStatus.IDLE:
            await connection.rollback()
        await connection.set_autocommit(True)
        await connection.execute(b"discard all")
    await connection.close()


def _name(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# The table that a name means here, its key and what the agent's role may read of it.
_TARGET = b"""
select pg_catalog.format('%%I.%%I', n.nspname, c.relname),
       (select coalesce(pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) order by a.attnum), '{}')
          from pg_catalog.pg_index i
          join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
         where i.indrelid = c.oid and i.indisprimary),
       (select coalesce(pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) order by a.attnum), '{}')
          from pg_catalog.pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           and pg_catalog.has_column_privilege('pam_agent', c.oid, a.attnum, 'select')),
       (select coalesce(pg_catalog.array_agg(a.attname::text), '{}') from pg_catalog.pg_attribute a
         where a.attrelid = c.oid
           and a.atttypid = any ('{timestamptz,timestamp,date,time,timetz}'::pg_catalog.regtype[]))
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.oid = pg_catalog.to_regclass(
         pg_catalog.concat_ws('.', pg_catalog.quote_ident(%s::text), pg_catalog.quote_ident(%s::text)))
   and pg_catalog.has_schema_privilege('pam_agent', n.oid, 'usage')"""
_NAKED = (
    b"select pg_catalog.count(*) from pg_catalog.unnest(%s::oid[]) as o where not pg_catalog.row_security_active(o)"
)
