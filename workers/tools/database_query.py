"""Run one SQL statement as the person who asked, under their row-level security; a write is shown before it stays."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import Field

from workers.kernel.ledger import tables
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools import schema_page, sql_guard, sql_writes
from workers.tools.bound_writes import Change, Written, facts
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.sql_limits import ROWS
from workers.tools.tool import Arguments, Shown, Tool, ToolContext, ToolResult

Scalar = str | int | float | bool | None
SCHEMA = "schema of the database"
_SHOWN_ROWS = 20
_Checked = TypeVar("_Checked")
_EDITED = "The statement was edited after its rows were shown: ask for the call again, so that they are shown."


class Args(Arguments):
    """A statement with its parameters, or a look at the schema."""

    sql: str | None = Field(
        default=None,
        description="one SELECT (WITH, VALUES and set operations too), or with write: true one INSERT, UPDATE or"
        " DELETE; values as $1, $2 …",
    )
    parameters: Annotated[list[Scalar], Field(max_length=100)] = Field(default=[], description="values for $1, $2 …")
    write: bool = Field(
        default=False, description="the statement changes rows; a person is shown which ones before they change"
    )
    explain: bool = Field(
        default=False,
        description="answer the plan instead of the rows: with real times for a SELECT, without running a write",
    )
    describe: bool | str = Field(
        default=False,
        description="true: the tables that are open to you, with columns, indexes, keys, policies, sizes and what may"
        " be written, and the team's functions that you may call; or the name of one table",
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Rows as JSON lines, what was written, a plan, or the schema."""
    if bool(args.describe) == (args.sql is not None):
        raise ToolRetry("Give either sql, or describe: true to see the tables that are open to you.")
    if args.sql is None:
        if args.write:
            raise ToolRetry("Give sql with write: true.")
        name = args.describe if isinstance(args.describe, str) else None
        open_tables, functions = await tables.describe(context.hold), await tables.describe_functions(context.hold)
        return ToolResult(schema_page.page(open_tables, functions, name), origin=SCHEMA)
    if args.write:
        return await _write(args, context)
    checked = await _checked_read(args.sql, context)
    await _fits(args, context, checked.attributes, checked.parameter_count)
    sql = context.services.sql
    if args.explain:
        return ToolResult(await sql.explain(context.hold, checked.sql, args.parameters), origin=SCHEMA)
    answer = await sql.select(context.hold, checked.sql, args.parameters)
    head = f"{len(answer.rows)} rows" + (
        " (there are more: add a limit or a narrower condition)" if answer.is_cut else ""
    )
    return ToolResult("\n".join([head, *answer.rows]), origin=ROWS if answer.rows else None)


async def show(args: Args, context: ToolContext) -> Shown:
    """The rows as they are and as they would be, from a rehearsal that is undone."""
    checked = await _checked_write(args, context)
    done = await context.services.sql.writes.rehearse(context.hold, checked, args.parameters)
    if not done.tables:
        raise ToolRetry(f"The {checked.verb} would write no rows, so nobody is asked: look at its condition.")
    rows = [_row(change) for change in done.changes[:_SHOWN_ROWS]]
    more = len(done.changes) - len(rows)
    text = "\n".join([_head(checked.verb, done, "would"), *rows, *([f"… and {more} rows more"] if more else [])])
    return Shown(text, {**facts(done), "statement": _digest(args)})


async def _write(args: Args, context: ToolContext) -> ToolResult:
    checked = await _checked_write(args, context)
    writes = context.services.sql.writes
    if args.explain:
        return ToolResult(await writes.plan(context.hold, checked, args.parameters), origin=SCHEMA)
    agreed = context.agreed
    if agreed is not None and agreed.get("statement") != _digest(args):
        raise ToolRetry(_EDITED)
    done = await writes.write(context.hold, context.call_id, checked, args.parameters, agreed=agreed)
    head = _head(checked.verb, done, "did")
    if done.is_repeat:
        return ToolResult(f"{head} This call had written before, and nothing was written twice.")
    rows = [change.said or "" for change in done.changes] if checked.said is not None else []
    notes = {"pam.rows_written": done.tables}
    return ToolResult("\n".join([head, *rows]), notes=notes, origin=ROWS if rows else None)


async def _checked_read(sql: str, context: ToolContext) -> sql_guard.CheckedStatement:
    """Which functions are open is asked only when the statement calls one that is not built in."""
    try:
        return await _judged(sql_guard.check, sql)
    except ToolRefused as refusal:
        if not isinstance(refusal.__cause__, sql_guard.FunctionClosed):
            raise
    opened = frozenset(one.name for one in await tables.describe_functions(context.hold) if one.is_open)
    return await _judged(partial(sql_guard.check, opened_functions=opened), sql)


async def _checked_write(args: Args, context: ToolContext) -> sql_writes.CheckedWrite:
    checked = await _judged(sql_writes.check, args.sql or "")
    await _fits(args, context, checked.attributes, checked.parameter_count)
    return checked


async def _judged(check: Callable[[str], _Checked], sql: str) -> _Checked:
    try:
        return await asyncio.to_thread(check, sql)  # up to 0.7 s for the longest statements
    except sql_guard.StatementRefused as refusal:
        raise ToolRefused(str(refusal)) from refusal


async def _fits(args: Args, context: ToolContext, attributes: tuple[str, ...], parameter_count: int) -> None:
    if attributes and (called := await tables.find_row_functions(context.hold, attributes)):
        raise ToolRefused(
            f"{', '.join(called)} behind a dot would call a function of the team's, not read a column: leave it out."
        )
    if parameter_count != len(args.parameters):
        raise ToolRetry(f"The statement names {parameter_count} parameters; {len(args.parameters)} values were given.")


def _head(verb: str, done: Written, mood: str) -> str:
    counted = ", ".join(f"{rows} of {table}" for table, rows in sorted(done.tables.items())) or "no rows"
    if mood == "would":
        return f"The {verb} would write {counted}:"
    return f"The {verb} wrote {counted}."


def _row(change: Change) -> str:
    """A row for an approver: a new or old one whole, of a changed one its key and what changes."""
    try:
        before: dict[str, Any] | None = json.loads(change.before) if change.before is not None else None
        after: dict[str, Any] | None = json.loads(change.after) if change.after is not None else None
    except ValueError:
        raise ToolRetry("A row is too long to be shown to a person: write fewer or shorter columns.") from None
    if before is None or after is None:
        return f"+ {_line(after or {})}" if before is None else f"- {_line(before)}"
    changed = [name for name in after if after[name] != before.get(name)]
    if not changed:
        return f"= {_line(change.key)} stays as it is"
    return "\n".join(
        f"{sign} {_line({**change.key, **{name: row.get(name) for name in changed}})}"
        for sign, row in (("-", before), ("+", after))
    )


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _digest(args: Args) -> str:
    return hashlib.sha256(json.dumps([args.sql, args.parameters]).encode()).hexdigest()


def effect_of(args: Args) -> CallEffect:
    """A plan of a write, and a look at the schema, write nothing."""
    return CallEffect.WRITE if args.write and args.sql and not args.explain else CallEffect.READ


TOOL = Tool(
    name="database_query",
    description="Read and change the team's database as the person you work for: you see and change exactly the rows"
    " that they may. One statement per call, values as $1, $2 in parameters. Begin with describe: true (or a table's"
    " name): tables with columns, keys, indexes, policies, and what may be written. A SELECT answers at most 200 rows"
    " as JSON lines within 15 s; explain: true answers its plan with real times. An INSERT, or an UPDATE or DELETE with"
    " a WHERE, needs write: true: a person is shown the rows first and decides, few rows at a time, and only what was"
    " shown is written. RETURNING answers rows. The schema is never changed here: propose a migration for that.",
    arguments=Args,
    run=run,
    effect=CallEffect.WRITE,
    effect_of=effect_of,
    show=show,
    timeout_seconds=30,
    is_repeatable=True,
)
