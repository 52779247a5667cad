"""Topics and those who listen on them: broadcasts and presence, with a bounded queue per socket."""

import asyncio
import contextlib
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from infra.local.realtime.authorization import Caller, Rights
from infra.local.realtime.wire import Broadcast, Frame, encode, encode_broadcast

PREFIX = "realtime:"  # what clients put before a topic's name
QUEUED_FRAMES = 1_000  # a consumer that lags further behind is dropped


class RateWindow:
    """Counts what happens in a second. The limits are those of hosted's Pro plan, not of physics."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._since = 0.0
        self._count = 0

    def is_exceeded(self) -> bool:
        """Count one more, and say whether that is too many."""
        now = time.monotonic()
        if now - self._since >= 1:
            self._since, self._count = now, 0
        self._count += 1
        return self._count > self._per_second


class Outbox:
    """The way to one websocket: frames wait in a bounded queue, and nobody waits for a slow reader."""

    def __init__(self, *, websocket: WebSocket, version: str) -> None:
        self.version = version
        self.is_overrun = False
        self._websocket = websocket
        self._frames: asyncio.Queue[str | bytes] = asyncio.Queue(QUEUED_FRAMES)
        self._overrun = asyncio.Event()

    def put(self, data: str | bytes) -> None:
        try:
            self._frames.put_nowait(data)
        except asyncio.QueueFull:
            self.is_overrun = True
            self._overrun.set()

    def send(self, frame: Frame) -> None:
        self.put(encode(frame, self.version))

    async def drain(self) -> None:
        """Write until the socket closes."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # closed by its other side in mid-write
            while True:
                data = await self._frames.get()
                if isinstance(data, bytes):
                    await self._websocket.send_bytes(data)
                else:
                    await self._websocket.send_text(data)

    async def overrun(self) -> None:
        """Return when the reader lags too far behind."""
        await self._overrun.wait()


@dataclass(eq=False, slots=True)
class Subscription:
    """One joined channel of one socket."""

    outbox: Outbox
    topic: str  # as the client named it, with its prefix
    join_ref: str | None
    is_private: bool
    caller: Caller
    rights: Rights
    hears_itself: bool
    wants_ack: bool
    wants_presence: bool
    presence_key: str
    rate: RateWindow
    expiry: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        return self.topic.removeprefix(PREFIX)

    def push(self, event: str, payload: dict[str, Any], ref: str | None = None) -> None:
        self.outbox.send(Frame(self.topic, event, payload, ref, self.join_ref))

    def reply(self, ref: str | None, status: str, response: dict[str, Any]) -> None:
        self.push("phx_reply", {"status": status, "response": response}, ref)


@dataclass(slots=True)
class _Topic:
    members: set[Subscription] = field(default_factory=set)
    present: dict[str, dict[Subscription, dict[str, Any]]] = field(default_factory=dict)


class Channels:
    """All topics of this process. A private and a public topic of one name are two topics."""

    def __init__(self) -> None:
        self._topics: dict[tuple[str, bool], _Topic] = {}

    def join(self, subscription: Subscription) -> None:
        key = (subscription.name, subscription.is_private)
        self._topics.setdefault(key, _Topic()).members.add(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Forget the subscription, and tell the others that it is no longer present."""
        key = (subscription.name, subscription.is_private)
        topic = self._topics.get(key)
        if topic is None or subscription not in topic.members:
            return
        if subscription.expiry:
            subscription.expiry.cancel()
        topic.members.discard(subscription)
        self.untrack(subscription)
        if not topic.members:
            del self._topics[key]

    def broadcast(self, name: str, is_private: bool, message: Broadcast, sender: Subscription | None = None) -> None:
        """Send to all who joined the topic, with its privacy, and may read it; encode once per version."""
        topic = self._topics.get((name, is_private))
        if topic is None:
            return
        encoded: dict[str, str | bytes | None] = {}
        for member in topic.members:
            if "broadcast" not in member.rights.read or (member is sender and not member.hears_itself):
                continue
            version = member.outbox.version
            if version not in encoded:
                encoded[version] = encode_broadcast(PREFIX + name, message, version)
            data = encoded[version]
            if data is not None:
                member.outbox.put(data)

    def presence_state(self, subscription: Subscription) -> dict[str, Any]:
        topic = self._topics[(subscription.name, subscription.is_private)]
        return {key: {"metas": list(metas.values())} for key, metas in topic.present.items()}

    def track(self, subscription: Subscription, payload: dict[str, Any]) -> None:
        topic = self._topics[(subscription.name, subscription.is_private)]
        metas = topic.present.setdefault(subscription.presence_key, {})
        before = metas.get(subscription)
        after = {**payload, "phx_ref": uuid.uuid4().hex[:16]}
        if before:
            after["phx_ref_prev"] = before["phx_ref"]
        metas[subscription] = after
        self._announce(topic, subscription.presence_key, joined=after, left=before)

    def untrack(self, subscription: Subscription) -> None:
        topic = self._topics[(subscription.name, subscription.is_private)]
        metas = topic.present.get(subscription.presence_key, {})
        before = metas.pop(subscription, None)
        if before is None:
            return
        if not metas:
            del topic.present[subscription.presence_key]
        self._announce(topic, subscription.presence_key, joined=None, left=before)

    @staticmethod
    def _announce(topic: _Topic, key: str, joined: dict[str, Any] | None, left: dict[str, Any] | None) -> None:
        difference = {
            "joins": {key: {"metas": [joined]}} if joined else {},
            "leaves": {key: {"metas": [left]}} if left else {},
        }
        for member in topic.members:
            if member.wants_presence and "presence" in member.rights.read:
                member.push("presence_diff", difference)
