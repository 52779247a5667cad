"""pg_net's deliveries: a request leaves the queue before it is sent, so it is made at most once, never again.

Source: supabase/pg_net. Its queue is unlogged and its worker does not retry; what came back, or why nothing
did, stands in net._http_response for six hours.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx
from psycopg_pool import AsyncConnectionPool

from infra.local.notices import Notices

AT_ONCE = 50
KEPT_HOURS = 6
PURGE_SECONDS = 600
MAX_KEPT_BYTES = 1_000_000  # of an answer's body


@dataclass(frozen=True, slots=True)
class _Request:
    id: int
    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    timeout_milliseconds: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    status_code: int | None = None
    headers: dict[str, str] | None = None
    content: str | None = None
    timed_out: bool = False
    error: str | None = None


class Deliveries:
    """Sends what net.http_post queued. `deliver` and `purge` are run again and again by the gateway."""

    def __init__(self, *, pool: AsyncConnectionPool, notices: Notices) -> None:
        self._pool = pool
        # No connection is used twice: one that its receiver closes meanwhile would cost the only try.
        self._client = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(None),  # each request brings its own limit
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._woken = notices.queue("net_requests")
        self._places = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()

    async def deliver(self) -> None:
        """Wait until woken, then send until the queue is empty, at most AT_ONCE at a time."""
        await self._woken.get()
        while not self._woken.empty():
            self._woken.get_nowait()
        while True:
            await self._places.acquire()
            try:
                request = await self._take()
            except BaseException:
                self._places.release()
                self._woken.put_nowait("")  # come back: what was not taken is still queued
                raise
            if request is None:
                self._places.release()
                return
            task = asyncio.create_task(self._send(request))
            self._under_way.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._places.release()
        if not task.cancelled() and (error := task.exception()):
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the outcome of a delivery could not be recorded", "exception": error}
            )

    async def stop(self) -> None:
        """Give up what is under way; like the real one, nothing of it is repeated."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._client.aclose()

    async def _take(self) -> _Request | None:
        async with self._pool.connection() as connection:  # autocommit: taken for good before it is sent
            cursor = await connection.execute(
                "delete from net.http_request_queue where id = (select id from net.http_request_queue"
                " order by id limit 1 for update skip locked)"
                " returning id, method, url, headers, body, timeout_milliseconds"
            )
            row = await cursor.fetchone()
        if row is None:
            return None
        number, method, url, headers, body, timeout = row
        texts = {str(name): str(value) for name, value in (headers or {}).items()}
        return _Request(number, method, url, texts, bytes(body or b""), timeout)

    async def _send(self, request: _Request) -> None:
        outcome = await self._ask(request)
        kind = (outcome.headers or {}).get("content-type")
        async with self._pool.connection() as connection:
            await connection.execute(
                "insert into net._http_response"
                " (id, status_code, content_type, headers, content, timed_out, error_msg)"
                " values (%s, %s, %s, %s::jsonb, %s, %s, %s)",
                (
                    request.id,
                    outcome.status_code,
                    kind,
                    json.dumps(outcome.headers) if outcome.headers is not None else None,
                    outcome.content,
                    outcome.timed_out,
                    outcome.error,
                ),
            )

    async def _ask(self, request: _Request) -> _Outcome:
        arguments: dict[str, Any] = {"headers": request.headers, "content": request.body}
        try:
            async with (
                asyncio.timeout(request.timeout_milliseconds / 1000),
                self._client.stream(request.method, request.url, **arguments) as response,
            ):
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk[: MAX_KEPT_BYTES - len(content)]
                    if len(content) >= MAX_KEPT_BYTES:
                        break
        except TimeoutError:
            return _Outcome(timed_out=True, error=f"Timeout of {request.timeout_milliseconds} ms reached")
        except Exception as error:  # an address may break its parser in any way: that is its outcome
            return _Outcome(error=f"{type(error).__name__}: {error}"[:500])
        text = content.decode(errors="replace").replace("\0", "")
        return _Outcome(response.status_code, dict(response.headers), text)

    async def purge(self) -> None:
        """Drop old answers, then wait."""
        async with self._pool.connection() as connection:
            await connection.execute(
                "delete from net._http_response where created < now() - make_interval(hours => %s)",
                (KEPT_HOURS,),
            )
        await asyncio.sleep(PURGE_SECONDS)
