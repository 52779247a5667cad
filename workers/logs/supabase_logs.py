"""A project's own logs at Supabase, through the Management API; a statement of safe words, filtered again on our side.

Source: supabase.com/docs/reference/api, "Gets project's logs" (`/analytics/endpoints/logs.all`): one source a
statement, at most 24 hours a request.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from workers.kernel.errors import Unavailable
from workers.logs.lines import LogLine, moment_of, of_fields
from workers.logs.matching import matches, page_of
from workers.logs.moments import TimeRange
from workers.logs.query import LogQuery, LogsRefused, Order, Page, safe_words

SOURCES = (
    "edge_logs",
    "postgres_logs",
    "postgrest_logs",
    "auth_logs",
    "storage_logs",
    "realtime_logs",
    "function_logs",
    "function_edge_logs",
    "supavisor_logs",
    "pg_cron_logs",
)
API = "https://api.supabase.com"
_REF = re.compile(r"[a-z0-9]{20}")
_MAX_ROWS = 1_000
_MAX_DAYS = 7
_DAY = timedelta(hours=24)
_MAX_BYTES = 8_000_000


@dataclass(frozen=True)
class HttpAnswer:
    """A status and a whole body, as the guarded client hands them over."""

    status: int
    body: bytes


# GET of a URL with headers: the guarded client of workers/outbound, with the connection's credential put in by it.
Fetch = Callable[[str], Awaitable[HttpAnswer]]


def statement(query: LogQuery, source: str) -> str:
    """The statement for one source; a text is looked for in the message. Raises LogsRefused for an unknown source."""
    if source not in SOURCES:
        raise LogsRefused(f"There is no log source {source[:40]!r}: take one of {', '.join(SOURCES)}.")
    conditions = [f"regexp_contains(event_message, '(?i){word}')" for word in safe_words(query.text)]
    where = f" where {' and '.join(conditions)}" if conditions else ""
    order = "desc" if query.order is Order.NEWEST else "asc"
    columns = "id, timestamp, event_message, metadata"
    return f"select {columns} from {source}{where} order by timestamp {order} limit {_MAX_ROWS}"  # noqa: S608


class SupabaseLogs:
    """One source of one project's logs."""

    def __init__(self, *, project_ref: str, source: str, fetch: Fetch, api: str = API) -> None:
        if not _REF.fullmatch(project_ref):
            raise LogsRefused("The connection's project is no reference of one: twenty letters and digits.")
        self._url = f"{api}/v1/projects/{project_ref}/analytics/endpoints/logs.all"
        self._source = source
        self._fetch = fetch

    async def find(self, query: LogQuery) -> Page:
        """The lines that match, redacted. Raises Unavailable, or LogsRefused with what to change."""
        if query.range.until - query.range.since > timedelta(days=_MAX_DAYS):
            raise LogsRefused(f"Supabase's logs are searched over {_MAX_DAYS} days at most: name a shorter range.")
        lines: list[LogLine] = []
        caveat = None
        for window in _windows(query):
            rows = await self._asked(query, window)
            lines += [line for row in rows if (line := _line(row))]
            if len(rows) >= _MAX_ROWS:
                caveat = f"Supabase gave {_MAX_ROWS:,} lines of a day and has more: narrow the search."
            if sum(matches(line, query) for line in lines) > query.limit + query.skip:
                break
        return page_of(sorted(lines, key=lambda line: line.at, reverse=True), query, caveat=caveat)

    async def _asked(self, query: LogQuery, window: TimeRange) -> list[Any]:
        told = {
            "sql": statement(query, self._source),
            "iso_timestamp_start": window.since.isoformat(),
            "iso_timestamp_end": window.until.isoformat(),
        }
        answer = await self._fetch(f"{self._url}?{urlencode(told)}")
        if answer.status in (401, 403):
            raise LogsRefused("The connection's token may not read this project's logs: its owner must renew it.")
        if answer.status == 404:
            raise LogsRefused("There is no such project for this token: check the connection.")
        if answer.status == 429:
            raise Unavailable("Supabase asks us to slow down")
        if answer.status >= 500:
            raise Unavailable(f"Supabase's log search failed with status {answer.status}")
        try:
            body = json.loads(answer.body) if len(answer.body) <= _MAX_BYTES else None
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or answer.status >= 400 or body.get("error"):
            raise LogsRefused(
                f"Supabase did not answer this search ({answer.status}): narrow it, or say it more simply."
            )
        rows = body.get("result")
        return rows if isinstance(rows, list) else []


def _windows(query: LogQuery) -> Iterator[TimeRange]:
    """The range in pieces of a day, in the order asked for."""
    pieces, since = [], query.range.since
    while since < query.range.until:
        until = min(since + _DAY, query.range.until)
        pieces.append(TimeRange(since, until))
        since = until
    return iter(pieces if query.order is Order.OLDEST else reversed(pieces))


def _line(row: Any) -> LogLine | None:
    """A row as a line: the message, or its fields where it is JSON, and the metadata unpacked."""
    if not isinstance(row, dict) or (at := moment_of(row.get("timestamp"))) is None:
        return None
    message = row.get("event_message")
    try:
        told = json.loads(message) if isinstance(message, str) and message.startswith("{") else None
    except (ValueError, RecursionError):
        told = None
    metadata = _unpacked(row.get("metadata"), 12)
    own = metadata if isinstance(metadata, dict) else {}
    fields = told if isinstance(told, dict) else {"event": message}
    return of_fields({**own, "id": row.get("id"), "timestamp": at.isoformat(), **fields}, at=at)


def _unpacked(node: Any, levels: int) -> Any:
    """Lists of one record, as the log store nests them, as that record; what is null is left out."""
    if levels == 0:
        return None
    if isinstance(node, list) and len(node) == 1 and isinstance(node[0], dict):
        node = node[0]
    if isinstance(node, dict):
        return {str(key): _unpacked(value, levels - 1) for key, value in node.items() if value is not None}
    return node
