"""Run one reading SQL statement as the person who asked, under their row-level security."""

import asyncio
from typing import Annotated

from pydantic import Field

from workers.kernel.ledger import tables
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools import sql_guard
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

Scalar = str | int | float | bool | None
MAX_RESULT_CHARACTERS = 60_000


class Args(Arguments):
    """A statement with its parameters, or a look at the schema."""

    sql: str | None = Field(
        default=None, description="one SELECT (WITH, VALUES and set operations too), values as $1, $2 …"
    )
    parameters: Annotated[list[Scalar], Field(max_length=100)] = Field(default=[], description="values for $1, $2 …")
    explain: bool = Field(default=False, description="answer the plan with real times instead of the rows")
    describe: bool = Field(
        default=False,
        description="answer the tables that are open to you: columns, indexes, foreign keys, policies, sizes",
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Rows as JSON lines, a plan, or the schema."""
    if args.describe == (args.sql is not None):
        raise ToolRetry("Give either sql, or describe: true to see the tables that are open to you.")
    if args.sql is None:
        return ToolResult(_described(await tables.describe(context.hold)))
    try:
        checked = await asyncio.to_thread(sql_guard.check, args.sql)  # up to 0.7 s for the longest statements
    except sql_guard.StatementRefused as refusal:
        raise ToolRefused(str(refusal)) from refusal
    if checked.attributes and (called := await tables.find_row_functions(context.hold, tuple(checked.attributes))):
        raise ToolRefused(
            f"{', '.join(called)} behind a dot would call a function of the team's, not read a column: leave it out."
        )
    if checked.parameter_count != len(args.parameters):
        raise ToolRetry(
            f"The statement names {checked.parameter_count} parameters; {len(args.parameters)} values were given."
        )
    if args.explain:
        return ToolResult(_capped(await context.services.sql.explain(context.hold, checked.sql, args.parameters)))
    answer = await context.services.sql.select(context.hold, checked.sql, args.parameters)
    head = f"{len(answer.rows)} rows" + (
        " (there are more: add a limit or a narrower condition)" if answer.is_cut else ""
    )
    return ToolResult(_capped("\n".join([head, *answer.rows])))


def _described(found: list[tables.OpenTable]) -> str:
    if not found:
        return "No table is open to agents yet: its owner runs select pam.open_to_agent('public.table')."
    parts = []
    for table in found:
        parts.append(
            "\n".join(
                [
                    f"{table.table} (about {table.estimated_rows:,} rows, {table.size})"
                    + (f": {table.comment}" if table.comment else ""),
                    *(f"  {column}" for column in table.columns),
                    *(f"  foreign key: {key}" for key in table.foreign_keys),
                    *(f"  index: {index}" for index in table.indexes),
                    *(
                        f"  policy {p.name!r} for {p.command}"
                        + (f" using {p.using}" if p.using else "")
                        + (f" check {p.check}" if p.check else "")
                        for p in table.policies
                    ),
                ]
            )
        )
    return _capped("\n".join(parts))


def _capped(text: str) -> str:
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    rest = len(text) - MAX_RESULT_CHARACTERS
    return f"{text[:MAX_RESULT_CHARACTERS]}\n[cut: {rest:,} characters more; select fewer rows or columns]"


TOOL = Tool(
    name="database_query",
    description="Read the team's database as the person you work for: you see exactly the rows that they may see. "
    "One SELECT per call, values as $1, $2 in parameters; describe: true shows the open tables with columns, "
    "indexes and policies; explain: true answers the plan with real times. At most 200 rows and 15 s. It never writes.",
    arguments=Args,
    run=run,
    effect=CallEffect.READ,
    timeout_seconds=30,
    is_repeatable=True,
)
