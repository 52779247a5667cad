"""Statements: what the database's own statistics say of everybody's statements, for those trusted with them."""

from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold


class StatementOrder(StrEnum):
    """What puts a statement first."""

    TOTAL_TIME = "total_time"
    MEAN_TIME = "mean_time"
    CALLS = "calls"
    ROWS = "rows"
    READS = "reads"


class Statement(BaseModel):
    """A statement with $1 for each constant, and what it cost since the statistics began."""

    model_config = ConfigDict(frozen=True)

    query: str
    calls: int
    total_ms: Decimal
    mean_ms: Decimal
    max_ms: Decimal
    rows: int
    blocks_hit: int
    blocks_read: int
    temp_blocks_written: int
    role: str


async def read(hold: Hold, *, order: StatementOrder, words: str | None, max_rows: int) -> list[Statement]:
    """The statements that cost most. Raises Refused(forbidden) unless the project's owner trusts the organisation."""
    rows = await hold.call("read_statements", order_by=order.value, words=words, max_rows=max_rows)
    return [Statement.model_validate(row) for row in rows]
