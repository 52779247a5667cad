"""What SQL that a model wrote may cost, and the database's complaints in words that a model can act on."""

from dataclasses import dataclass
from typing import Any

import psycopg

from workers.kernel.errors import AccessRevoked, FenceLost, Unavailable
from workers.tools.failures import ToolRetry

ROWS = "rows of the database"


@dataclass(frozen=True)
class SqlLimits:
    """Kept by the server, set for each transaction anew. How many rows a write may touch is the opened table's to say.

    max_plan_cost: in the planner's units; a table of a million rows costs some 20,000 to read.
    """

    statement_seconds: int = 15
    max_rows: int = 200
    max_row_characters: int = 20_000
    max_bytes: int = 1_048_576
    max_plan_cost: float = 100_000_000


async def execute_one(cursor: psycopg.AsyncRawCursor[Any], statement: str, parameters: list[Any]) -> None:
    """Send a text that holds a model's. binary=True forces the extended protocol, which takes one statement only."""
    await cursor.execute(statement.encode(), parameters, binary=True)


async def refuse_above(
    max_plan_cost: float, cursor: psycopg.AsyncRawCursor[Any], statement: str, parameters: list[Any]
) -> dict[str, Any]:
    """Ask the planner first, and answer its plan's root. Raises ToolRetry when it would cost more."""
    await execute_one(cursor, f"explain (format json)\n{statement}", parameters)
    row = await cursor.fetchone()
    plan: dict[str, Any] = row[0][0]["Plan"] if row else {}
    cost = float(plan.get("Total Cost", 0))
    if cost > max_plan_cost:
        raise ToolRetry(f"The plan costs {cost:,.0f}, the limit is {max_plan_cost:,.0f}: join on keys, or narrow it.")
    return plan


def spoken(error: psycopg.Error, limits: SqlLimits, *, is_writing: bool = False) -> Exception:
    """The database's complaint, without its detail. What may quote a row all the same is marked as rows are."""
    state, message, hint = error.sqlstate or "", error.diag.message_primary or "", error.diag.message_hint
    match state:
        case "PM002":
            return FenceLost(message)
        case "PM003":
            return AccessRevoked(message)
        case "PM005":
            return ToolRetry(f"{message}. A person must review the change and open the table again.")
        case "PM006":
            return ToolRetry(f"Nothing was written: {message}.")
        case "PM007":
            return ToolRetry(f"Nothing was written: {message}. Narrow it, or write in several calls.")
        case "57014":
            return ToolRetry(
                f"The statement ran longer than {limits.statement_seconds} s and was stopped: narrow or explain it."
            )
        case "55P03":
            return ToolRetry("Somebody else holds a lock on these rows for longer than 2 s: try again later.")
        case "42501" if "row-level security" in message:
            return ToolRetry(f"{message}: the person you work for may not write such a row, or not see it afterwards.")
        case "42501":
            what = "this table, column or function is not open to agents for this"
            return ToolRetry(f"{message}: {what}, or not to the person you work for. Use describe to see what is open.")
        case "25006":
            return ToolRetry("This statement writes: it needs write: true. A change of the schema is a migration file.")
        case _ if not state or state.startswith(("08", "57P")) or state == "53300":
            # Other operational errors (too complex, locked, no such state) are the statement's own.
            return Unavailable(f"the database did not answer: {type(error).__name__}")
        case _:
            kept = "Nothing was written: " if is_writing else ""
            origin = None if state.startswith("42") else ROWS  # 42: of the statement's own words
            return ToolRetry(f"{kept}{message} (SQLSTATE {state})" + (f". {hint}" if hint else ""), origin=origin)
