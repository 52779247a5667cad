"""Pages: a list cut into parts, and the opaque cursor that says where the next one begins."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from workers.kernel.errors import Refused


class Dated(Protocol):
    """A row with the two columns that order it."""

    @property
    def id(self) -> UUID: ...
    @property
    def created_at(self) -> datetime: ...


@dataclass(frozen=True)
class Cursor:
    """The last row of a page that lists newest first."""

    created_at: datetime
    id: UUID

    @property
    def older(self) -> str:
        """What follows it, in PostgREST's `or` syntax; times are quoted, since they hold reserved signs."""
        at = f'"{self.created_at.isoformat()}"'
        return f"created_at.lt.{at},and(created_at.eq.{at},id.lt.{self.id})"

    def __str__(self) -> str:
        plain = f"{self.created_at.isoformat()}|{self.id}"
        return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor back. Raises Refused(invalid) for what no page gave out."""
        try:
            plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
            at, _, row_id = plain.partition("|")
            created_at = datetime.fromisoformat(at)
            if created_at.tzinfo is None:
                raise ValueError("no time zone")
            return cls(created_at, UUID(row_id))
        except (ValueError, binascii.Error):
            raise Refused("invalid", "This cursor is not one that a page gave out.") from None


Row = TypeVar("Row")
DatedRow = TypeVar("DatedRow", bound=Dated)


class Page(BaseModel, Generic[Row]):
    """A part of a list."""

    model_config = ConfigDict(frozen=True)

    items: list[Row]
    next: str | None = Field(description="cursor of the next page; null when this is the last")

    @staticmethod
    def newest(rows: "Sequence[DatedRow]", limit: int) -> "Page[DatedRow]":
        """Cut limit + 1 rows, newest first, to a page."""
        kept = list(rows[:limit])
        more = len(rows) > limit
        return Page(items=kept, next=str(Cursor(kept[-1].created_at, kept[-1].id)) if more else None)
