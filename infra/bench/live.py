"""Figures of the way that logged events take to whoever watches: append, Realtime, the follower of the command line."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, LiteralString, cast
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from infra.bench.calls import held_run
from infra.bench.measure import MICROSECOND, Row, compared
from infra.bench.runs import Bench
from infra.cli.live import LoggedEvent
from workers.kernel.ledger import events
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WorkerGateway

EVENTS, BATCH = 2_000, 10
_PATIENCE_SECONDS = 120
_TABLE: LiteralString = """
create table public.bench_events (org_id uuid not null, run_id uuid not null, seq bigint not null, type text not null,
                                  payload jsonb not null, created_at timestamptz not null default clock_timestamp(),
                                  primary key (run_id, seq))"""
_INSERT: LiteralString = """
insert into public.bench_events (org_id, run_id, seq, type, payload)
select %(org)s, %(run)s, %(first)s + e.place - 1, e.event ->> 'type', e.event
  from jsonb_array_elements(%(batch)s) with ordinality as e (event, place)"""


@dataclass(frozen=True)
class _Seen:
    """What one pass brought: seconds from the first append to the last event seen, and the share that came live."""

    seconds: float
    live_share: float


def _batch(first: int, size: int) -> list[dict[str, Any]]:
    """Events as a run's own are: about 150 bytes each."""
    told = "A line of a program's output, as long as lines of output are."
    return [
        {"type": "CUSTOM", "name": "bench", "value": {"number": n, "text": told}, "timestamp": 1}
        for n in range(first, first + size)
    ]


async def events_to_a_client(bench: Bench, *, count: int = EVENTS, batch: int = BATCH, runs: int = 9) -> Row:
    """`count` events of one run, appended `batch` at a time one after another, until the follower has seen the last.

    The yardstick inserts the same rows into a bare table and sends the same frames over a bare websocket, with nobody
    in between. Raises RuntimeError when an event is lost, doubled or out of order.
    """
    gateway = WorkerGateway(dsn=bench.facts.worker_dsn)
    await gateway.open()
    passes: list[_Seen] = []
    try:
        async with (
            await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as database,
            _bare_socket() as (outbox, client),
        ):
            await database.execute("drop table if exists public.bench_events")
            await database.execute(_TABLE)

            async def through() -> float:
                run_id = await held_run(database, UUID(bench.org_id), UUID(bench.person.user_id))
                passes.append(await _followed(bench, Hold(gateway, run_id, 1), count, batch))
                return passes[-1].seconds / count

            async def bare() -> float:
                await database.execute("truncate public.bench_events")
                return await _bare(database, outbox, client, count, batch) / count

            row = await compared(
                "a logged event through to a client",
                through,
                "a bare insert and a bare websocket",
                bare,
                unit=MICROSECOND,
                runs=runs,
            )
            await database.execute("drop table public.bench_events")
    finally:
        await gateway.close()
    ours, other = (1e6 / median for median in (row.median, row.yardstick_median))
    share = min(seen.live_share for seen in passes)
    told = f"{ours:,.0f} events/s in batches of {batch} (bare {other:,.0f}), none lost; {share:.0%} at least came live"
    return replace(row, note=told)


async def _followed(bench: Bench, hold: Hold, count: int, batch: int) -> _Seen:
    """Append while the command line's follower looks on; it has joined when it tells of the first event of all."""
    follower = bench.person.follow(str(hold.run_id))
    await events.append(hold, _batch(0, 1))
    began, appending = 0.0, None
    async with (
        asyncio.timeout(_PATIENCE_SECONDS),
        aclosing(cast(AsyncGenerator[Any, None], follower.follow())) as items,
    ):
        async for item in items:
            if not isinstance(item, LoggedEvent):
                continue
            if appending is None:
                began, appending = time.perf_counter(), asyncio.create_task(_append(hold, count, batch))
            if item.seq == count + 1:
                break
    seconds = time.perf_counter() - began
    if appending is not None:
        await appending
    if follower.tally.seqs != list(range(1, count + 2)):
        raise RuntimeError(f"of {count + 1} events came {len(follower.tally.seqs)}, {follower.tally.gaps} are missing")
    return _Seen(seconds, follower.tally.live / count)


async def _append(hold: Hold, count: int, batch: int) -> None:
    for first in range(1, count + 1, batch):
        await events.append(hold, _batch(first, min(batch, count + 1 - first)))


@asynccontextmanager
async def _bare_socket() -> AsyncIterator[tuple[asyncio.Queue[str], ClientConnection]]:
    """A websocket with nothing at its server's end but a queue of frames, and its client."""
    outbox: asyncio.Queue[str] = asyncio.Queue()

    async def send(connection: ServerConnection) -> None:
        while frame := await outbox.get():
            await connection.send(frame)

    async with serve(send, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
            try:
                yield outbox, client
            finally:
                outbox.put_nowait("")  # the server waits for its end


async def _bare(
    database: psycopg.AsyncConnection[Any], outbox: asyncio.Queue[str], client: ClientConnection, count: int, batch: int
) -> float:
    """Seconds from the first insert until the client has read the last frame."""

    async def insert() -> None:
        ids = {"org": UUID(int=1), "run": UUID(int=2)}
        for first in range(1, count + 1, batch):
            rows = _batch(first, min(batch, count + 1 - first))
            await database.execute(_INSERT, {**ids, "first": first, "batch": Jsonb(rows)})
            payload = {"first": first, "last": first + len(rows) - 1, "events": rows}
            told = {"type": "broadcast", "event": "events", "payload": payload}
            outbox.put_nowait(json.dumps({"topic": "realtime:run", "event": "broadcast", "payload": told, "ref": None}))

    began = time.perf_counter()
    inserting = asyncio.create_task(insert())
    seen = 0
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while seen < count:
            seen += len(json.loads(await client.recv())["payload"]["payload"]["events"])
    await inserting
    return time.perf_counter() - began
