"""Supabase's log endpoint: statements built, and answers of its format read over real HTTP from a server of ours."""

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.logs.journal import NOON, events, query
from workers.kernel.errors import Unavailable
from workers.logs.moments import TimeRange
from workers.logs.query import Condition, LogQuery, LogsRefused, LogStore, Operator, Order, continued
from workers.logs.supabase_logs import HttpAnswer, SupabaseLogs, statement

REF, TOKEN = "abcdefghijklmnopqrst", "sbp_canary0123456789"


class Endpoint(ThreadingHTTPServer):
    """Answers `logs.all` as the Management API does: rows within the range asked for, or what a test put instead."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rows: list[dict[str, Any]] = []
        self.asked: list[dict[str, str]] = []
        self.instead: tuple[int, bytes] | None = None

    def answer(self, asked: dict[str, str]) -> tuple[int, bytes]:
        self.asked.append(asked)
        if self.instead:
            return self.instead
        since, until = (
            datetime.fromisoformat(asked[name]).timestamp() * 1_000_000
            for name in ("iso_timestamp_start", "iso_timestamp_end")
        )
        assert until - since <= 86_400_000_000, "a request reaches over 24 hours at most"
        rows = sorted(
            (row for row in self.rows if since <= row["timestamp"] <= until), key=lambda row: row["timestamp"]
        )
        return 200, json.dumps({"result": rows if " asc " in asked["sql"] else rows[::-1], "error": None}).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        told = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.headers["authorization"] != f"Bearer {TOKEN}":
            status, body = 401, b'{"message":"Unauthorized"}'
        elif url.path != f"/v1/projects/{REF}/analytics/endpoints/logs.all":
            status, body = 404, b"{}"
        else:
            status, body = self.server.answer(told)
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def logs(endpoint: Endpoint, *, source: str = "edge_logs", token: str = TOKEN, ref: str = REF) -> LogStore:
    async def fetch(url: str) -> HttpAnswer:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(url, headers={"authorization": f"Bearer {token}"})
        return HttpAnswer(answer.status_code, answer.content)

    return SupabaseLogs(project_ref=ref, source=source, fetch=fetch, api=f"http://127.0.0.1:{endpoint.server_port}")


def row(message: str, minutes: float = 0, **metadata: Any) -> dict[str, Any]:
    at = int((NOON + timedelta(minutes=minutes)).timestamp() * 1_000_000)
    return {"id": f"id-{message[:9]}", "timestamp": at, "event_message": message, "metadata": [metadata]}


def all_mine(**other: Any) -> LogQuery:
    return query(org_id=None, **other)


async def test_rows_become_lines_with_their_metadata_unpacked(endpoint: Endpoint) -> None:
    endpoint.rows = [
        row("GET | 200 | /rest/v1/tasks", request=[{"method": "GET"}], response=[{"status_code": 200}]),
        row("POST | 500 | /rest/v1/tasks", 1, request=[{"method": "POST"}], response=[{"status_code": 500}]),
        row('{"event": "told as JSON", "level": "error"}', 2),
        row("connection refused", 3, parsed=[{"error_severity": "FATAL"}], error_severity="FATAL"),
    ]
    store = logs(endpoint)
    assert len((await store.find(all_mine())).lines) == 4
    failed = Condition("response.status_code", Operator.GE, 500)
    assert events(await store.find(all_mine(conditions=(failed,)))) == ["POST | 500 | /rest/v1/tasks"]
    assert events(await store.find(all_mine(level="error"))) == ["connection refused", "told as JSON"]
    assert events(await store.find(all_mine(text="/REST/", order=Order.OLDEST, limit=1))) == [
        "GET | 200 | /rest/v1/tasks"
    ]


async def test_a_longer_range_is_asked_for_day_by_day_until_there_is_enough(endpoint: Endpoint) -> None:
    endpoint.rows = [row(f"day {day}", -1440 * day) for day in range(6)]
    week = TimeRange(NOON - timedelta(days=6, hours=1), NOON + timedelta(hours=1))
    store = logs(endpoint)
    assert events(await store.find(all_mine(range=week))) == [f"day {day}" for day in range(6)]
    assert len(endpoint.asked) == 7
    endpoint.asked.clear()
    page = await store.find(all_mine(range=week, limit=1))
    assert events(page) == ["day 0"]
    assert len(endpoint.asked) < 4
    assert page.cursor
    rest = continued(all_mine(limit=1), page.cursor)
    assert events(await store.find(rest)) == ["day 1"]
    with pytest.raises(LogsRefused, match="7 days at most"):
        await store.find(all_mine(range=TimeRange(NOON - timedelta(days=8), NOON)))


def test_a_statement_holds_safe_words_alone() -> None:
    assert statement(all_mine(text="time-out ' or 1=1 --"), "edge_logs") == (
        "select id, timestamp, event_message, metadata from edge_logs where regexp_contains(event_message, '(?i)time')"
        " and regexp_contains(event_message, '(?i)out') and regexp_contains(event_message, '(?i)or')"
        " order by timestamp desc limit 1000"
    )


@pytest.mark.parametrize("source", ["", "edge_logs;", "edge_logs where true", "auth.users", "`edge_logs`"])
def test_a_source_is_one_of_the_known(source: str) -> None:
    with pytest.raises(LogsRefused, match="There is no log source"):
        statement(all_mine(), source)


@pytest.mark.parametrize(
    ("instead", "error", "told"),
    [
        ((429, b"{}"), Unavailable, "slow down"),
        ((500, b"<html>"), Unavailable, "status 500"),
        ((400, b'{"message":"secret sbp_other"}'), LogsRefused, "did not answer this search"),
        ((200, b'{"result":[],"error":{"message":"bad sql"}}'), LogsRefused, "did not answer this search"),
        ((200, b"no JSON"), LogsRefused, "did not answer this search"),
        ((200, b"[" * 100_000), LogsRefused, "did not answer this search"),
    ],
)
async def test_what_goes_wrong_is_one_sentence(
    endpoint: Endpoint, instead: tuple[int, bytes], error: type[Exception], told: str
) -> None:
    endpoint.instead = instead
    with pytest.raises(error, match=told) as raised:
        await logs(endpoint).find(all_mine())
    assert "sbp_" not in str(raised.value)


async def test_a_foreign_token_and_a_foreign_project_are_told(endpoint: Endpoint) -> None:
    with pytest.raises(LogsRefused, match="its owner must renew it"):
        await logs(endpoint, token="sbp_wrong").find(all_mine())
    with pytest.raises(LogsRefused, match="no such project"):
        await logs(endpoint, ref="a" * 20).find(all_mine())


@pytest.mark.parametrize(
    "odd", [[], [1], [{}], [{"timestamp": "soon"}], [{"timestamp": 1e300}], [None], "rows", {"a": 1}]
)
async def test_rows_of_another_shape_are_passed_over(endpoint: Endpoint, odd: Any) -> None:
    endpoint.instead = (200, json.dumps({"result": odd}).encode())
    assert (await logs(endpoint).find(all_mine())).lines == ()


def test_a_reference_of_no_project_is_refused() -> None:
    async def fetch(url: str) -> HttpAnswer:
        raise AssertionError(url)

    for odd in ("../../v1/x", REF.upper(), f"{REF}\n", REF[1:], ""):
        with pytest.raises(LogsRefused):
            SupabaseLogs(project_ref=odd, source="edge_logs", fetch=fetch)
