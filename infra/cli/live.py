"""Follows one run live: a private Realtime channel, and the log read by seq on every join, gap and silence."""

import ast
import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from postgrest.exceptions import APIError
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

from supabase import AsyncClient

SILENCE_SECONDS = 10.0
TERMINAL = ("RUN_FINISHED", "RUN_ERROR")
_WIRE_LOG = "realtime._async.client"


@dataclass(frozen=True)
class LoggedEvent:
    """An event of the log; `is_live` when the websocket brought it, not a read."""

    seq: int
    payload: dict[str, Any]
    is_live: bool


@dataclass(frozen=True)
class PreviewFrame:
    """Text that is still being written: of a message, or of a call's program when `is_output`."""

    message_id: str
    offset: int
    text: str
    is_output: bool = False


@dataclass(frozen=True)
class Cut:
    """The connection is gone; the log brings what it would have brought."""


@dataclass
class Tally:
    """What was seen of a run: each seq once, in order, or not."""

    seqs: list[int] = field(default_factory=list)
    live: int = 0
    frames: int = 0

    @property
    def gaps(self) -> int:
        """Missing numbers up to the last."""
        return (max(self.seqs) if self.seqs else 0) - len(set(self.seqs))

    @property
    def duplicates(self) -> int:
        """Events handed out twice."""
        return len(self.seqs) - len(set(self.seqs))


class FrameRecorder(logging.Handler):
    """Writes each raw websocket frame with its time, as the client library saw it."""

    def __init__(self, *, file: Path) -> None:
        super().__init__(level=logging.DEBUG)
        self._file = file.open("a")

    def emit(self, record: logging.LogRecord) -> None:
        """Keep `receive:` lines only."""
        message = record.getMessage()
        if message.startswith("receive: "):
            raw = ast.literal_eval(message.removeprefix("receive: "))
            self._file.write(
                json.dumps({"at": time.time(), "frame": raw if isinstance(raw, str) else raw.hex()}) + "\n"
            )
            self._file.flush()

    @contextlib.contextmanager
    def recording(self) -> Any:
        """Record while the context lasts."""
        wire = logging.getLogger(_WIRE_LOG)
        before, propagate = wire.level, wire.propagate
        wire.addHandler(self)
        wire.setLevel(logging.DEBUG)
        wire.propagate = False
        try:
            yield self
        finally:
            wire.removeHandler(self)
            wire.setLevel(before)
            wire.propagate = propagate


class RunFollower:
    """Yields a run's events, each once and in order, whatever happens to the connection."""

    def __init__(self, *, client: AsyncClient, url: str, publishable_key: str, run_id: str) -> None:
        self._client = client
        self._url = url
        self._key = publishable_key
        self.run_id = run_id
        self.tally = Tally()
        self._last = 0
        self._inbox: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._socket: AsyncRealtimeClient | None = None
        self._token = ""
        self._blind_until = 0.0

    async def follow(self) -> AsyncIterator[LoggedEvent | PreviewFrame | Cut]:
        """Until the run's terminal event; an interrupt is one, too."""
        try:
            while True:
                if not await self._join():
                    async for event in self._catch_up():
                        yield event
                        if await self._is_over(event):
                            return
                    await asyncio.sleep(0.5)
                    continue
                async for item in self._listen():
                    yield item
                    if isinstance(item, LoggedEvent) and await self._is_over(item):
                        return
        finally:
            await self._leave()

    def cut(self, *, seconds: float) -> None:
        """Tear the connection as a lost network does, and stay away for a while."""
        self._blind_until = time.monotonic() + seconds
        connection = (
            self._socket._ws_connection if self._socket else None
        )  # the library has no call for tearing a socket
        if connection is not None:
            connection.transport.abort()

    async def _is_over(self, event: LoggedEvent) -> bool:
        """Whether nothing follows this event: the end of the run, or a question that still waits for its answer."""
        if event.payload["type"] not in TERMINAL:
            return False
        if (event.payload.get("outcome") or {}).get("type") != "interrupt":
            return True
        rows: Any = (
            await self._client.schema("pam").from_("runs").select("status").eq("id", self.run_id).execute()
        ).data
        return not rows or rows[0]["status"] == "interrupted"

    async def _join(self) -> bool:
        """Connect and join the run's private topic as the person; False when that does not work now."""
        await self._leave()
        pause = self._blind_until - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        session = await self._client.auth.get_session()
        self._token = session.access_token if session else ""
        socket = AsyncRealtimeClient(f"{self._url}/realtime/v1", self._key, auto_reconnect=False)
        joined: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def told(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if not joined.done():
                joined.set_result(state is RealtimeSubscribeStates.SUBSCRIBED)
            elif state is not RealtimeSubscribeStates.SUBSCRIBED:
                self._inbox.put_nowait(("cut", {}))

        try:
            await socket.connect()
            await socket.set_auth(self._token)
            channel = socket.channel(
                f"run:{self.run_id}",
                {
                    "config": {
                        "private": True,
                        "broadcast": {"ack": False, "self": False},
                        "presence": {"key": "", "enabled": False},
                    }
                },
            )
            channel.on_broadcast("events", lambda message: self._inbox.put_nowait(("events", dict(message["payload"]))))
            channel.on_broadcast(
                "preview", lambda message: self._inbox.put_nowait(("preview", dict(message["payload"])))
            )
            await channel.subscribe(told)
            self._socket = socket
            return await asyncio.wait_for(joined, 10)
        except Exception:  # the library raises whatever its socket raised; the log is read meanwhile
            with contextlib.suppress(Exception):
                await socket.close()
            return False

    async def _leave(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(Exception):
                await self._socket.close()
            self._socket = None

    async def _listen(self) -> AsyncIterator[LoggedEvent | PreviewFrame | Cut]:
        async for event in self._catch_up():  # what was said before we joined, or while we were away
            yield event
        while True:
            try:
                kind, message = await asyncio.wait_for(self._inbox.get(), SILENCE_SECONDS)
            except TimeoutError:
                async for event in self._catch_up():  # a lost last message leaves no gap to see
                    yield event
                await self._refresh()
                continue
            if kind == "cut":
                yield Cut()
                return
            self.tally.frames += 1
            if kind == "preview":
                is_output = "call_id" in message
                id = message["call_id" if is_output else "message_id"]
                yield PreviewFrame(id, message["offset"], message["text"], is_output)
                continue
            if message["first"] > self._last + 1 or message["events"] is None:
                async for event in self._catch_up():
                    yield event
                continue
            for seq, payload in enumerate(message["events"], start=message["first"]):
                if seq > self._last:
                    yield self._took(seq, payload, is_live=True)

    async def _catch_up(self) -> AsyncIterator[LoggedEvent]:
        """Read the log behind the last seq."""
        while True:
            try:
                answer = await (
                    self._client.schema("pam")
                    .from_("events")
                    .select("seq,payload")
                    .eq("run_id", self.run_id)
                    .gt("seq", self._last)
                    .order("seq")
                    .limit(500)
                    .execute()
                )
            except (httpx.HTTPError, OSError, APIError):
                await asyncio.sleep(0.5)
                return
            rows: list[dict[str, Any]] = answer.data  # type: ignore[assignment]
            for row in rows:
                if row["seq"] > self._last:
                    yield self._took(int(row["seq"]), row["payload"], is_live=False)
            if len(rows) < 500:
                return

    def _took(self, seq: int, payload: dict[str, Any], *, is_live: bool) -> LoggedEvent:
        self._last = seq
        self.tally.seqs.append(seq)
        self.tally.live += is_live
        return LoggedEvent(seq, payload, is_live)

    async def _refresh(self) -> None:
        """Hand a refreshed token to the channel before the old one runs out."""
        session = await self._client.auth.get_session()
        if session and self._socket and session.access_token != self._token:
            self._token = session.access_token
            await self._socket.set_auth(self._token)
