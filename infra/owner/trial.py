"""Run a change's statements one by one and look at what they do; the caller rolls back or commits."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from infra.owner.snapshot import Connection
from workers.tools.schema_guard import GuardedStatement

SEARCH_PATH = "public, extensions"


@dataclass(frozen=True)
class OperatorLimits:
    """What a statement of a change, and the change as a whole, may take. Kept by the server."""

    lock_seconds: float = 2
    statement_seconds: float = 60
    transaction_seconds: float = 180
    max_rows: int = 100_000


class StatementFailed(Exception):
    """A statement did not run. `state` is the SQLSTATE; the sentence holds nothing of a row."""

    def __init__(self, number: int, sentence: str, state: str) -> None:
        super().__init__(f"Statement {number}: {sentence}")
        self.number = number
        self.state = state

    @property
    def may_pass(self) -> bool:
        """Whether trying again later may help."""
        return may_pass(self.state)


def may_pass(state: str) -> bool:
    """Whether an SQLSTATE says that somebody held what was needed, that it took too long, or that the server left."""
    return state in ("55P03", "40P01", "57014") or _is_away(state)


def _is_away(state: str) -> bool:
    return not state or state.startswith(("08", "57P"))


@dataclass(frozen=True)
class Ran:
    """One statement that ran: how long, what it locked of what was there before, and how many rows it changed."""

    number: int
    tag: str
    seconds: float
    locks: tuple[str, ...]
    rows: int | None

    def as_json(self) -> dict[str, Any]:
        """As the report keeps it."""
        return asdict(self)


# Triggers that a change of rows would set off, also by inheritance and by what foreign keys cascade to.
_TRIGGERS = """
with recursive touched as (
  select %(table)s::regclass::oid as oid
  union select r.oid from touched t cross join lateral (
    select i.inhrelid as oid from pg_catalog.pg_inherits i where i.inhparent = t.oid
    union all select k.conrelid from pg_catalog.pg_constraint k where k.confrelid = t.oid and k.contype = 'f'
     and (k.confdeltype in ('c', 'n', 'd') or k.confupdtype in ('c', 'n', 'd'))) r)
select g.tgname::text, g.tgrelid::regclass::text from touched t join pg_catalog.pg_trigger g on g.tgrelid = t.oid
  join pg_catalog.pg_proc f on f.oid = g.tgfoid join pg_catalog.pg_language l on l.oid = f.prolang
 where not g.tgisinternal and g.tgenabled <> 'D' and l.lanname not in ('c', 'internal') limit 1
"""
_LOCKS = """
select c.oid::regclass::text || ': ' || l.mode
  from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation
 where l.pid = pg_catalog.pg_backend_pid() and l.granted and l.mode <> 'AccessShareLock' and c.oid = any(%s) order by 1
"""


async def run_all(
    connection: Connection, statements: Sequence[GuardedStatement], limits: OperatorLimits, *, old: Sequence[int]
) -> list[Ran]:
    """Run the statements in the open transaction, which holds its locks until the end: the whole has a deadline.

    `old`: the relations whose locks matter. Raises StatementFailed.
    """
    deadline = time.monotonic() + limits.transaction_seconds
    for name, value in (
        ("lock_timeout", f"{limits.lock_seconds * 1000:.0f}ms"),
        ("idle_in_transaction_session_timeout", f"{limits.transaction_seconds * 1000:.0f}ms"),
        ("search_path", SEARCH_PATH),
        ("standard_conforming_strings", "on"),
        ("check_function_bodies", "on"),
    ):
        await connection.execute("select set_config(%s, %s, true)", [name, value])
    ran: list[Ran] = []
    held: set[str] = set()
    for number, statement in enumerate(statements, start=1):
        await _limit(connection, number, limits, deadline)
        try:
            for schema, table in statement.writes:
                await _refuse_triggers(connection, number, schema, table)
            began = time.perf_counter()
            rows = await run_one(connection, statement.sql)
            seconds = time.perf_counter() - began
        except psycopg.Error as error:
            raise _failed(number, error, limits, deadline) from error
        changed = rows if statement.writes else None
        if changed is not None and changed > limits.max_rows:
            raise StatementFailed(
                number, f"it changes {changed:,} rows, the limit is {limits.max_rows:,}: do it in parts.", "54000"
            )
        locks = {str(row[0]) for row in await (await connection.execute(_LOCKS.encode(), [list(old)])).fetchall()}
        ran.append(Ran(number, statement.tag, round(seconds, 4), tuple(sorted(locks - held)), changed))
        held |= locks
    await _limit(connection, len(statements), limits, deadline)
    try:
        await connection.execute("set constraints all immediate")
    except psycopg.Error as error:
        raise _failed(len(statements), error, limits, deadline) from error
    return ran


async def _limit(connection: Connection, number: int, limits: OperatorLimits, deadline: float) -> None:
    """Give the next statement its time, or what is left of the whole. Raises StatementFailed when nothing is."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise StatementFailed(number, _too_long(limits), "57014")
    seconds = min(limits.statement_seconds, left)
    await connection.execute(
        "select set_config('statement_timeout', %s, true)",
        [f"{max(seconds * 1000, 1):.0f}ms"],  # 0 is no limit
    )


def _failed(number: int, error: psycopg.Error, limits: OperatorLimits, deadline: float) -> StatementFailed:
    is_late = error.sqlstate == "57014" and time.monotonic() >= deadline
    return StatementFailed(number, _too_long(limits) if is_late else spoken(error, limits), error.sqlstate or "")


def _too_long(limits: OperatorLimits) -> str:
    return f"the change took longer than {limits.transaction_seconds:g} s in all and was stopped: do it in parts."


async def run_one(connection: Connection, statement: str) -> int:
    """Run one statement. binary=True forces the extended protocol, which takes one statement only."""
    cursor = psycopg.AsyncRawCursor(connection)
    await cursor.execute(statement.encode(), [], binary=True)
    return cursor.rowcount


async def _refuse_triggers(connection: Connection, number: int, schema: str, table: str) -> None:
    name = psycopg.sql.Identifier(schema, table).as_string(connection)
    kind = await (
        await connection.execute("select relkind::text from pg_catalog.pg_class where oid = %s::regclass", [name])
    ).fetchone()
    if kind and kind[0] not in ("r", "p"):
        raise StatementFailed(number, f"{name} is no table: change the rows of the tables below it.", "0A000")
    row = await (await connection.execute(_TRIGGERS.encode(), {"table": name})).fetchone()
    if row:
        raise StatementFailed(
            number,
            f"changing rows of {name} would set off the trigger {row[0]} on {row[1]} with the owner's rights: "
            "a person must carry the rows over.",
            "0A000",
        )


async def old_relations(connection: Connection, schemas: Sequence[str]) -> list[int]:
    """The relations that are there now."""
    rows = await connection.execute(
        "select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = any(%s)",
        [list(schemas)],
    )
    return [int(row[0]) for row in await rows.fetchall()]


def spoken(error: psycopg.Error, limits: OperatorLimits) -> str:
    """The database's complaint without a word of anybody's rows: the asker may see fewer rows than the owner."""
    state, diag = error.sqlstate or "", error.diag
    match state:
        case "55P03":
            return f"somebody else holds a lock on what it needs for over {limits.lock_seconds:g} s: try again later."
        case "57014":
            return f"it ran longer than {limits.statement_seconds:g} s and was stopped: do it in parts."
        case "40P01":
            return "it would have waited in a circle with somebody else's transaction: try again later."
        case "23505":
            return f"existing rows are not unique by {diag.constraint_name or 'it'}."
        case _ if state.startswith("23"):
            what = diag.constraint_name or diag.column_name or "it"
            return f"existing rows break {what} of {diag.table_name or 'a table'} (SQLSTATE {state})."
        case _ if state.startswith(("22", "P0", "38", "39", "XX")):
            return f"existing rows, or a constant, do not fit (SQLSTATE {state})."
        case _ if _is_away(state):
            return f"the database went away: {type(error).__name__}."
        case _:
            return f"{diag.message_primary or 'it failed'} (SQLSTATE {state})."
