"""CloudWatch Logs through Insights: a narrow query built from safe words alone, polled, and filtered again on our side.

No quote, bracket, pipe, backslash or line end of a caller ever stands in a query: what cannot be said with letters,
digits and a few signs is left out of it and decided here (`matching`), so there is nothing to escape and to get wrong.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from workers.kernel.errors import Unavailable
from workers.logs.lines import LogLine, moment_of, read_line
from workers.logs.matching import page_of
from workers.logs.query import CORRELATION_FIELDS, LogQuery, LogsRefused, Operator, Order, Page, safe_words
from workers.logs.redaction import REDACTED

_GROUP = re.compile(r"[A-Za-z0-9_/.#-]{1,512}")  # CreateLogGroup's own rule
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+){1,3}-\d")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}(?:\.[A-Za-z_][A-Za-z0-9_]{0,63}){0,5}")
_VALUE = re.compile(r"[A-Za-z0-9_:@/ -]{1,200}")
_MAX_RESULTS = 10_000  # Insights' own limit
_ENDED = ("Complete", "Failed", "Cancelled", "Timeout", "Unknown")


@dataclass(frozen=True)
class CloudWatchPlace:
    """Where lines lie. The keys are a connection's; without them the process's own role counts."""

    log_group: str
    region: str
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None

    def __repr__(self) -> str:
        return f"CloudWatchPlace({self.log_group!r}, {self.region!r})"


def client_of(place: CloudWatchPlace) -> Any:
    """boto3's client for the place; loads boto3, so only where one is used. Raises LogsRefused."""
    if not _GROUP.fullmatch(place.log_group):
        raise LogsRefused("The connection's log group is no name of one: letters, digits and _ / . # - alone.")
    if not _REGION.fullmatch(place.region):
        raise LogsRefused("The connection's region is no name of one, such as eu-central-1.")
    import boto3
    from botocore.config import Config

    return boto3.client(
        "logs",
        region_name=place.region,
        endpoint_url=place.endpoint_url,
        aws_access_key_id=place.access_key_id,
        aws_secret_access_key=place.secret_access_key,
        config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 1}),
    )


def insights_query(query: LogQuery, *, limit: int) -> str:
    """The query for Insights: at least every line that fits, and always the organisation's condition.

    Source: docs.aws.amazon.com, "CloudWatch Logs Insights language query syntax".
    """
    conditions = [f'org_id = "{_whole(query.org_id)}"'] if query.org_id else []
    conditions += [f"@message like /(?i){word}/" for word in safe_words(query.text)]
    if query.correlation_id and _VALUE.fullmatch(query.correlation_id):
        named = " or ".join(f'{name} = "{query.correlation_id}"' for name in CORRELATION_FIELDS)
        conditions.append(f"({named})")
    conditions += [
        f'{condition.field} = "{condition.value}"'
        for condition in query.conditions
        if condition.operator is Operator.EQ
        and isinstance(condition.value, str)
        and _VALUE.fullmatch(condition.value)
        and not _is_number(condition.value)
        and _FIELD.fullmatch(condition.field)
    ]
    parts = ["fields @timestamp, @message", *(f"filter {condition}" for condition in conditions)]
    parts += [f"sort @timestamp {'desc' if query.order is Order.NEWEST else 'asc'}", f"limit {int(limit)}"]
    return " | ".join(parts)


class CloudWatchLogs:
    """One log group. `max_seconds` bounds a search, its polling and its answer."""

    def __init__(
        self, *, place: CloudWatchPlace, make: Callable[[CloudWatchPlace], Any] = client_of, max_seconds: float = 20
    ) -> None:
        self._place = place
        self._make = make
        self._max_seconds = max_seconds
        self._client: Any = None

    async def find(self, query: LogQuery) -> Page:
        """The lines that match, redacted. Raises Unavailable, or LogsRefused with what to change."""
        return await asyncio.to_thread(self._find, query)  # boto3 blocks

    def _find(self, query: LogQuery) -> Page:
        if self._client is None:
            self._client = self._make(self._place)
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            rows = self._asked(query)
        except ClientError as error:
            raise _refused(error) from None
        except BotoCoreError as error:
            raise Unavailable(f"CloudWatch did not answer: {type(error).__name__}") from None
        is_cut = len(rows) >= _MAX_RESULTS
        lines = sorted(_lines(rows, self._place.secret_access_key), key=lambda line: line.at, reverse=True)
        return page_of(
            lines, query, caveat="CloudWatch gave 10,000 lines and has more: narrow the search." if is_cut else None
        )

    def _asked(self, query: LogQuery) -> list[list[dict[str, str]]]:
        """Start the query and poll until it has ended; one that takes too long is stopped."""
        ends_at = time.monotonic() + self._max_seconds
        started = self._client.start_query(
            logGroupName=self._place.log_group,
            startTime=int(query.range.since.timestamp()),
            endTime=int(query.range.until.timestamp()) + 1,
            queryString=insights_query(query, limit=_MAX_RESULTS),
        )
        try:
            return self._polled(started["queryId"], ends_at)
        except Exception:
            with contextlib.suppress(Exception):  # it ended by itself, or nobody answers: what went wrong is told
                self._client.stop_query(queryId=started["queryId"])
            raise

    def _polled(self, query_id: str, ends_at: float) -> list[list[dict[str, str]]]:
        pause = 0.05
        while True:
            told = self._client.get_query_results(queryId=query_id)
            if told["status"] == "Complete":
                return list(told["results"])
            if told["status"] in _ENDED:
                raise Unavailable(f"CloudWatch ended the search as {told['status']}")
            if time.monotonic() + pause > ends_at:
                raise Unavailable(f"CloudWatch was not done after {self._max_seconds:g} s: narrow the range of time")
            time.sleep(pause)
            pause = min(pause * 2, 1)


def _lines(rows: Iterable[list[dict[str, str]]], secret: str | None) -> Iterable[LogLine]:
    """The rows as lines. An application may have logged the very secret that reads its logs."""
    for row in rows:
        told = {cell.get("field"): cell.get("value", "") for cell in row}
        stamp = told.get("@timestamp") or ""  # "2026-11-24 12:00:00.000", or milliseconds where AWS is stood in for
        at = moment_of(int(stamp) if stamp.isdecimal() else stamp)
        message = told.get("@message") or ""
        message = message.replace(secret, REDACTED) if secret else message
        if at is not None and (line := read_line(message, at=at)):
            yield line


def _whole(org_id: UUID | None) -> str:
    return str(UUID(str(org_id)))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refused(error: Any) -> Exception:
    """AWS' word for it in ours, without its text: that may quote the query, an account or a key."""
    code = str(error.response.get("Error", {}).get("Code", ""))[:60]
    match code:
        case "ResourceNotFoundException":
            return LogsRefused("There is no such log group in this account and region: check the connection.")
        case (
            "AccessDeniedException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException"
            | "ExpiredTokenException"
        ):
            return LogsRefused("The connection's credentials may not search this log group: its owner must renew them.")
        case "LimitExceededException" | "ThrottlingException":
            return Unavailable("CloudWatch asks us to slow down")
        case "MalformedQueryException" | "InvalidParameterException":
            return LogsRefused("CloudWatch refuses this search: say it more simply.")
        case _:
            return Unavailable(f"CloudWatch answered {code or 'an error'}")
