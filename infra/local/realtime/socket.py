"""One websocket of the Realtime stand-in: joins, leaves, heartbeats, broadcasts, presence, token refresh."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from infra.local.realtime.authorization import (
    EVERYTHING,
    Authority,
    Caller,
    Rights,
    RightsUnknown,
    TokenRefused,
)
from infra.local.realtime.channels import PREFIX, Channels, Outbox, RateWindow, Subscription
from infra.local.realtime.wire import VERSIONS, Broadcast, Frame, MalformedFrame, decode

log = logging.getLogger(__name__)

MAX_CHANNELS = 100  # joined by one socket
MAX_JOINS_PER_SECOND = 100  # of one socket: each asks the database
MAX_MESSAGES_PER_SECOND = 500  # into one channel
MAX_TOPIC_BYTES = 246  # with its prefix it must fit the binary frame's one-byte length
POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013  # RFC 6455, and IANA's registry of close codes


def _section(payload: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = payload.get(name)
    return value if isinstance(value, dict) else {}


class Socket:
    """Serves one connection until either side leaves. Nothing that a client sends raises out of it."""

    def __init__(self, *, websocket: WebSocket, authority: Authority, channels: Channels) -> None:
        self._websocket = websocket
        self._authority = authority
        self._channels = channels
        self._api_key = websocket.query_params.get("apikey") or websocket.headers.get("x-api-key") or ""
        self._outbox = Outbox(websocket=websocket, version=websocket.query_params.get("vsn", "1.0.0"))
        self._joined: dict[str, Subscription] = {}
        self._joins = RateWindow(MAX_JOINS_PER_SECOND)

    async def serve(self) -> None:
        if not self._authority.is_api_key(self._api_key) or self._outbox.version not in VERSIONS:
            await self._websocket.close(POLICY_VIOLATION, "an apikey and vsn 1.0.0 or 2.0.0 are needed")
            return
        await self._websocket.accept()
        tasks = [asyncio.create_task(work) for work in (self._read(), self._outbox.drain(), self._outbox.overrun())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for subscription in list(self._joined.values()):
                self._channels.leave(subscription)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception):  # our fault: this socket ends, the others go on
                    log.error("a realtime socket failed", exc_info=outcome)
        if self._outbox.is_overrun:
            with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
                async with asyncio.timeout(1):
                    await self._websocket.close(TRY_AGAIN_LATER, "this reader is too slow")

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("text")
            try:
                frame = decode(data if data is not None else message["bytes"], self._outbox.version)
            except MalformedFrame:  # dropped, as by the real one: without a topic there is nobody to answer
                continue
            await self._handle(frame)

    async def _handle(self, frame: Frame) -> None:
        if frame.topic == "phoenix":
            if frame.event == "heartbeat":
                self._reply(frame, "ok", {})
            return
        if frame.event == "phx_join":
            await self._join(frame)
            return
        subscription = self._joined.get(frame.topic)
        if subscription is None:
            if frame.event == "phx_leave":
                self._reply(frame, "ok", {})
            else:
                self._reply(frame, "error", {"reason": "unmatched topic"})
            return
        match frame.event:
            case "phx_leave":
                self._forget(subscription)
                subscription.reply(frame.ref, "ok", {})
                subscription.push("phx_close", {}, subscription.join_ref)
            case "access_token":
                await self._refresh(subscription, frame.payload.get("access_token"))
            case "broadcast" | "presence" if subscription.rate.is_exceeded():
                self._shut(subscription, "Too many messages per second")
            case "broadcast":
                self._broadcast(subscription, frame)
            case "presence":
                self._presence(subscription, frame)
            case _:
                subscription.reply(frame.ref, "error", {"reason": f"unknown event {frame.event!r}"})

    def _reply(self, frame: Frame, status: str, response: dict[str, Any]) -> None:
        payload = {"status": status, "response": response}
        self._outbox.send(Frame(frame.topic, "phx_reply", payload, frame.ref, frame.join_ref))

    async def _join(self, frame: Frame) -> None:
        try:
            subscription = await self._admit(frame)
        except (TokenRefused, RightsUnknown) as error:
            self._reply(frame, "error", {"reason": str(error)})
            return
        if earlier := self._joined.get(frame.topic):
            self._forget(earlier)  # a rejoin takes the place of the channel it repeats
        self._joined[frame.topic] = subscription
        self._channels.join(subscription)
        self._expire_in_time(subscription)
        subscription.reply(frame.ref, "ok", {"postgres_changes": []})
        if subscription.wants_presence and "presence" in subscription.rights.read:
            subscription.push("presence_state", self._channels.presence_state(subscription))

    async def _admit(self, frame: Frame) -> Subscription:
        name = frame.topic.removeprefix(PREFIX)
        if not name or name == frame.topic:
            raise TokenRefused("TopicNameRequired: You must provide a topic name")
        if len(name.encode()) > MAX_TOPIC_BYTES:
            raise TokenRefused(f"TopicNameRequired: a topic name has at most {MAX_TOPIC_BYTES} bytes")
        if self._joins.is_exceeded():
            raise TokenRefused("ClientJoinRateLimitReached: Too many joins per second")
        if len(self._joined) >= MAX_CHANNELS and frame.topic not in self._joined:
            raise TokenRefused("ChannelRateLimitReached: Too many channels")
        config = _section(frame.payload, "config")
        if config.get("postgres_changes"):
            raise TokenRefused("Unsupported: the embedded stack has no postgres_changes; use broadcasts")
        token = frame.payload.get("access_token")
        caller = self._authority.verify(token if isinstance(token, str) and token else self._api_key)
        is_private = config.get("private") is True
        rights = await self._authority.rights(name, caller) if is_private else EVERYTHING
        if not rights.read:
            raise TokenRefused(_no_rights(name))
        broadcast, presence = _section(config, "broadcast"), _section(config, "presence")
        key = presence.get("key")
        return Subscription(
            outbox=self._outbox,
            topic=frame.topic,
            join_ref=frame.join_ref or frame.ref,
            is_private=is_private,
            caller=caller,
            rights=rights,
            hears_itself=broadcast.get("self") is True,
            wants_ack=broadcast.get("ack") is True,
            wants_presence=presence.get("enabled") is True,
            presence_key=key if isinstance(key, str) and key else str(uuid.uuid4()),
            rate=RateWindow(MAX_MESSAGES_PER_SECOND),
        )

    def _broadcast(self, subscription: Subscription, frame: Frame) -> None:
        event = frame.payload.get("event")
        if "broadcast" not in subscription.rights.write or not isinstance(event, str):
            return  # dropped in silence, as by the real one
        message = Broadcast(event, frame.payload.get("payload"))
        self._channels.broadcast(subscription.name, subscription.is_private, message, subscription)
        if subscription.wants_ack:
            subscription.reply(frame.ref, "ok", {})

    def _presence(self, subscription: Subscription, frame: Frame) -> None:
        if "presence" not in subscription.rights.write:
            subscription.reply(frame.ref, "error", {"reason": "Unauthorized: no presence on this topic"})
            return
        match frame.payload.get("event"):
            case "track":
                self._channels.track(subscription, dict(_section(frame.payload, "payload")))
                subscription.reply(frame.ref, "ok", {})
            case "untrack":
                self._channels.untrack(subscription)
                subscription.reply(frame.ref, "ok", {})
            case _:
                subscription.reply(frame.ref, "error", {"reason": "presence wants track or untrack"})

    async def _refresh(self, subscription: Subscription, token: object) -> None:
        """A new token extends the channel, if its bearer may still read; keys and null change nothing."""
        if not isinstance(token, str) or not token or token.startswith("sb_"):
            return
        try:
            caller = self._authority.verify(token)
            rights = await self._rights_again(subscription, caller)
        except (TokenRefused, RightsUnknown) as error:
            self._shut(subscription, str(error))
            return
        subscription.caller, subscription.rights = caller, rights
        self._expire_in_time(subscription)

    async def _rights_again(self, subscription: Subscription, caller: Caller) -> Rights:
        if not subscription.is_private:
            return EVERYTHING
        rights = await self._authority.rights(subscription.name, caller)
        if not rights.read:
            raise TokenRefused(_no_rights(subscription.name))
        return rights

    def _expire_in_time(self, subscription: Subscription) -> None:
        if subscription.expiry:
            subscription.expiry.cancel()
        if subscription.caller.expires_at is not None:
            seconds = max(0.0, subscription.caller.expires_at - time.time())
            loop = asyncio.get_running_loop()
            subscription.expiry = loop.call_later(
                seconds, self._shut, subscription, "InvalidJWTToken: Token has expired"
            )

    def _shut(self, subscription: Subscription, message: str) -> None:
        """Close a channel from our side: the reason as a system message, then phx_close."""
        if self._joined.get(subscription.topic) is not subscription:
            return
        self._forget(subscription)
        reason = {"channel": subscription.name, "extension": "system", "message": message, "status": "error"}
        subscription.push("system", reason)
        subscription.push("phx_close", {}, subscription.join_ref)

    def _forget(self, subscription: Subscription) -> None:
        self._joined.pop(subscription.topic, None)
        self._channels.leave(subscription)


def _no_rights(name: str) -> str:
    return f"Unauthorized: You do not have permissions to read from this Channel topic: {name}"
