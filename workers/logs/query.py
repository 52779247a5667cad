"""What is looked for in a log, in our own words, and the page of lines that comes back."""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from workers.logs.lines import LogLine
from workers.logs.moments import MAX_DAYS, TimeRange

Scalar = str | int | float | bool | None
CORRELATION_FIELDS = ("correlation_id", "request_id", "trace_id", "run_id", "call_id", "thread_id", "job_id")
_INSTANT = timedelta(microseconds=1)
_MAX_SKIP = 100_000
_WORD = re.compile(r"[A-Za-z0-9_]{2,60}", re.ASCII)
_MAX_WORDS = 8


class Order(StrEnum):
    """Which lines come first."""

    NEWEST = "newest"
    OLDEST = "oldest"


class Operator(StrEnum):
    """How a field is compared."""

    EQ = "eq"
    NE = "ne"
    GT = "gt"
    GE = "ge"
    LT = "lt"
    LE = "le"
    CONTAINS = "contains"
    EXISTS = "exists"


@dataclass(frozen=True)
class Condition:
    """A field (dots lead into nested ones) compared with a value."""

    field: str
    operator: Operator
    value: Scalar


@dataclass(frozen=True)
class LogQuery:
    """A search. `org_id` None means that the store holds one organisation's lines alone, by its own credentials.

    `skip`: lines at the very moment where the page begins that an earlier page has shown.
    """

    org_id: UUID | None
    range: TimeRange
    level: str | None = None
    text: str | None = None
    conditions: tuple[Condition, ...] = ()
    correlation_id: str | None = None
    order: Order = Order.NEWEST
    limit: int = 50
    skip: int = 0

    @property
    def digest(self) -> str:
        """Equal for pages of one listing: everything but the place where a page begins."""
        conditions = [[c.field, c.operator.value, c.value] for c in self.conditions]
        told = [str(self.org_id), self.level, self.text, conditions, self.correlation_id, self.order.value]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Page:
    """Lines in the order asked for, where to go on (None: that was all), and what was left unread, as a sentence."""

    lines: tuple[LogLine, ...]
    cursor: str | None = None
    caveat: str | None = None


class LogStore(Protocol):
    """A place where lines lie."""

    async def find(self, query: LogQuery) -> Page:
        """The lines that match, redacted. Raises Unavailable, or LogsRefused with what to change."""
        ...


class LogsRefused(Exception):
    """The store cannot be searched like this; the sentence says what to change."""


class CursorUnknown(Exception):
    """The cursor was not given out by this listing."""


def safe_words(text: str | None) -> list[str]:
    """Words of a text that a query of another language may hold as they stand: letters, digits and _ alone."""
    words = _WORD.findall(text or "")
    return [word for word in words if "redacted" not in word.lower()][:_MAX_WORDS]


def continued(query: LogQuery, cursor: str) -> LogQuery:
    """The query from where an earlier page ended. A cursor holds a stretch of time and nothing else.

    The range was said in words ("last 2 h") and has moved on meanwhile: the first page's range holds.
    Raises CursorUnknown for one of another listing or organisation.
    """
    try:
        digest, since, until, skip = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        rest = TimeRange(datetime.fromisoformat(since).astimezone(UTC), datetime.fromisoformat(until).astimezone(UTC))
        is_ours = digest == query.digest and isinstance(skip, int) and 0 <= skip <= _MAX_SKIP
        is_range = timedelta(0) < rest.until - rest.since <= timedelta(days=MAX_DAYS)
    except (binascii.Error, ValueError, TypeError, RecursionError, OverflowError):
        raise CursorUnknown from None
    if not is_ours or not is_range:
        raise CursorUnknown
    return replace(query, range=rest, skip=skip)


def cursor_after(query: LogQuery, lines: tuple[LogLine, ...]) -> str:
    """Where the next page begins: the last line's moment, and how many lines of that moment were shown."""
    at = lines[-1].at
    shown = sum(1 for line in lines if line.at == at)
    if query.order is Order.NEWEST:
        is_first, rest = at == query.range.until - _INSTANT, TimeRange(query.range.since, at + _INSTANT)
    else:
        is_first, rest = at == query.range.since, TimeRange(at, query.range.until)
    if is_first:  # all of this page still lies in the moment where the page before ended
        shown += query.skip
    told = [query.digest, rest.since.isoformat(), rest.until.isoformat(), shown]
    return base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")
