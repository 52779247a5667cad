"""Search logs: PAM's own of this organisation, the team's application by connection, the database's statements."""

import json
from datetime import UTC, datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from workers.kernel.ledger import statements
from workers.kernel.ledger.statements import StatementOrder
from workers.kernel.ledger.tool_calls import CallEffect
from workers.logs.moments import TimeRange, TimeUnknown, read_range
from workers.logs.query import (
    Condition,
    CursorUnknown,
    LogQuery,
    LogsRefused,
    LogStore,
    Operator,
    Order,
    Scalar,
    continued,
)
from workers.tools.connected_logs import connected_logs
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

FIELD = r"^[A-Za-z_@][A-Za-z0-9_@-]{0,63}(\.[A-Za-z_@][A-Za-z0-9_@-]{0,63}){0,5}$"
Text = Annotated[str, Field(max_length=200)]


class Comparison(Arguments):
    """Another comparison than equality: exactly one of them."""

    ne: Scalar = None
    gt: Text | int | float | None = None
    ge: Text | int | float | None = None
    lt: Text | int | float | None = None
    le: Text | int | float | None = None
    contains: Text | None = None
    exists: bool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of ne, gt, ge, lt, le, contains, exists")
        return self


class Args(Arguments):
    """Where, when, and what the lines must say."""

    store: Literal["pam", "application", "statements"] = Field(
        default="pam",
        description="pam: what PAM's own processes logged for this organisation; application: the team's application, "
        "by connection; statements: pg_stat_statements, the database's slowest statements",
    )
    connection: str | None = Field(default=None, max_length=63, description="application: the connection's name")
    source: str | None = Field(
        default=None, max_length=40, description="application at Supabase: edge_logs, postgres_logs, function_logs …"
    )
    since: str = Field(
        default="last 1 h",
        max_length=100,
        description="'last 2 h', '30 min ago', 'yesterday', 'yesterday 14:00-15:00 Europe/Berlin', "
        "'2026-11-24T10:00Z'; UTC unless a zone is named",
    )
    until: str | None = Field(default=None, max_length=100, description="now if left out; the same words")
    level: Literal["debug", "info", "warning", "error", "critical"] | None = Field(
        default=None, description="this level and above"
    )
    text: str | None = Field(default=None, min_length=1, max_length=200, description="stands in the line, in any case")
    fields: Annotated[
        dict[Annotated[str, Field(pattern=FIELD)], Text | bool | int | float | Comparison | None], Field(max_length=10)
    ] = Field(default={}, description='field: value, or field: {"gt": 5}; dots lead into nested fields')
    run_id: UUID | None = Field(default=None, description="lines of this run")
    correlation_id: str | None = Field(
        default=None, min_length=1, max_length=200, description="lines whose request_id, trace_id, call_id … is this"
    )
    order: Order = Field(default=Order.NEWEST, description="which lines come first")
    order_by: StatementOrder = Field(
        default=StatementOrder.TOTAL_TIME, description="statements: what puts a statement first"
    )
    limit: int = Field(default=50, ge=1, le=200, description="lines a page")
    cursor: str | None = Field(
        default=None, min_length=1, max_length=400, description="where a search goes on, as the last answer said"
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Lines of JSON, each as it was logged but for its secrets."""
    if args.store == "statements":
        return await _statements(args, context)
    store, org_id = await _store(args, context)
    try:
        query = _query(args, org_id)
        page = await store.find(query)
    except (TimeUnknown, LogsRefused) as error:
        raise ToolRetry(str(error)) from None
    except CursorUnknown:
        raise ToolRetry("This cursor belongs to no page of this search: begin without one.") from None
    between = f"between {query.range.since:%Y-%m-%dT%H:%M:%SZ} and {query.range.until:%Y-%m-%dT%H:%M:%SZ}"
    head = f"{len(page.lines)} lines {between}, {args.order.value} first"
    rest = [f"[more: go on with cursor {page.cursor}]"] if page.cursor else []
    rest += [f"[{page.caveat}]"] if page.caveat else []
    text = "\n".join([head, *(line.text for line in page.lines), *rest])
    return ToolResult(text, origin=f"log {args.store}" if page.lines else None)


async def _store(args: Args, context: ToolContext) -> tuple[LogStore, UUID | None]:
    """The store, and the organisation whose lines alone it may show; a connection's lines are all its owner's."""
    if args.store == "pam":
        if args.connection is not None or args.source is not None:
            raise ToolRetry("connection and source belong to the store application.")
        if context.services.own_logs is None:
            raise ToolRefused(
                "PAM's own logs cannot be searched here: the operator sets PAM_LOG_FOLDER or PAM_LOG_GROUP."
            )
        return context.services.own_logs, context.org_id
    if args.connection is None:
        raise ToolRetry("Name the connection whose logs you want.")
    try:
        return await connected_logs(context, args.connection, args.source), None
    except LogsRefused as refusal:
        raise ToolRetry(str(refusal)) from None


def _query(args: Args, org_id: UUID | None) -> LogQuery:
    """The search in our own words. Raises TimeUnknown or CursorUnknown."""
    now = datetime.now(UTC)
    query = LogQuery(
        org_id=org_id,
        range=TimeRange(now, now) if args.cursor else read_range(args.since, args.until, now=now),
        level=args.level,
        text=args.text,
        conditions=tuple(_condition(name, wanted) for name, wanted in args.fields.items())
        + ((Condition("run_id", Operator.EQ, str(args.run_id)),) if args.run_id else ()),
        correlation_id=args.correlation_id,
        order=args.order,
        limit=args.limit,
    )
    return continued(query, args.cursor) if args.cursor else query


def _condition(name: str, wanted: Scalar | Comparison) -> Condition:
    if isinstance(wanted, Comparison):
        operator = next(iter(wanted.model_fields_set))
        return Condition(name, Operator(operator), getattr(wanted, operator))
    return Condition(name, Operator.EQ, wanted)


async def _statements(args: Args, context: ToolContext) -> ToolResult:
    """The database's dearest statements. They have no time, level or fields: these are refused, not passed over."""
    given = args.model_fields_set - {"store", "text", "order_by", "limit"}
    if given:
        raise ToolRetry(f"{', '.join(sorted(given))} cannot narrow statements: give text, order_by and limit alone.")
    found = await statements.read(context.hold, order=args.order_by, words=args.text, max_rows=min(args.limit, 100))
    lines = [json.dumps(each.model_dump(mode="json"), ensure_ascii=False) for each in found]
    head = f"{len(lines)} statements by {args.order_by.value} since the statistics began, each constant as $1"
    return ToolResult("\n".join([head, *lines]), origin="log statements" if lines else None)


TOOL = Tool(
    name="log_search",
    description="Search structured logs by time, level, text, field and correlation id; answers lines of JSON. Use "
    "store pam to see what happened in this organisation's runs and tool calls, application (with the name of a "
    "connection) for the team's own service at CloudWatch or Supabase, statements for the database's slowest or most "
    "frequent statements (only where the project's owner allows it). Not for rows: use database_query. Begin narrow: a "
    "short time, a level or a word. Secrets in lines are replaced by [redacted] and cannot be searched for.",
    arguments=Args,
    run=run,
    effect=CallEffect.READ,
    timeout_seconds=45,
    is_repeatable=True,
    max_parallel=2,
)
