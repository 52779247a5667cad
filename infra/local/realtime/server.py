"""The Realtime stand-in as Starlette routes, and the tasks that carry database messages to the sockets."""

import asyncio
from typing import Any

from psycopg_pool import AsyncConnectionPool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from infra.local.notices import Notices, drain
from infra.local.realtime.authorization import Authority, Caller, RightsUnknown, TokenRefused
from infra.local.realtime.channels import Channels, RateWindow
from infra.local.realtime.socket import Socket
from infra.local.realtime.wire import Broadcast, MalformedFrame, read_json

MAX_BODY_BYTES = 3_000_000
MAX_MESSAGES_PER_REQUEST = 100
MAX_REQUESTS_PER_SECOND = 500
MESSAGES_PER_READ = 200
PURGE_SECONDS = 3_600
KEPT_DAYS = 3  # as hosted drops its daily partitions


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.response = JSONResponse({"message": message}, status)


class Realtime:
    """Routes to mount at /realtime/v1, and the coroutines that the gateway runs beside them."""

    def __init__(self, *, authority: Authority, pool: AsyncConnectionPool, notices: Notices) -> None:
        self._authority = authority
        self._pool = pool
        self._channels = Channels()
        self._announced = notices.queue("realtime_messages")
        self._requests = RateWindow(MAX_REQUESTS_PER_SECOND)

    @property
    def routes(self) -> list[BaseRoute]:
        return [
            WebSocketRoute("/websocket", self._websocket),
            Route("/api/broadcast", self._send_many, methods=["POST"]),
            Route("/api/broadcast/{topic:path}/events/{event:path}", self._send_one, methods=["POST"]),
        ]

    async def _websocket(self, websocket: WebSocket) -> None:
        await Socket(websocket=websocket, authority=self._authority, channels=self._channels).serve()

    async def _send_many(self, request: Request) -> Response:
        """Messages that the caller may not send are left out in silence, as by the real one."""
        try:
            caller = self._caller(request)
            body = _read_json(await _read_body(request))
            messages = body.get("messages") if isinstance(body, dict) else None
            if not isinstance(messages, list) or len(messages) > MAX_MESSAGES_PER_REQUEST:
                raise _Refused(422, f"messages must be a list of at most {MAX_MESSAGES_PER_REQUEST}")
            checked = [_checked(message) for message in messages]
            may: dict[str, bool] = {}
            for topic, is_private, message in checked:
                if is_private and topic not in may:
                    may[topic] = await self._may_send(topic, caller)
                if not is_private or may[topic]:
                    self._channels.broadcast(topic, is_private, message)
        except _Refused as refused:
            return refused.response
        return Response(status_code=202)

    async def _send_one(self, request: Request) -> Response:
        topic, event = request.path_params["topic"], request.path_params["event"]
        is_private = request.query_params.get("private") == "true"
        try:
            caller = self._caller(request)
            body = await _read_body(request)
            is_binary = request.headers.get("content-type", "").startswith("application/octet-stream")
            payload = body if is_binary else _read_json(body)
            if is_private and not await self._may_send(topic, caller):
                raise _Refused(403, f"You do not have permissions to write to this Channel topic: {topic}")
            self._channels.broadcast(topic, is_private, Broadcast(event, payload))
        except _Refused as refused:
            return refused.response
        return Response(status_code=202)

    def _caller(self, request: Request) -> Caller:
        key = request.headers.get("apikey")
        if key is None or not self._authority.is_api_key(key):
            raise _Refused(401, "Unauthorized: send the publishable or secret key in the header apikey")
        if self._requests.is_exceeded():
            raise _Refused(429, "Too many requests")
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        try:
            return self._authority.verify(bearer if scheme.lower() == "bearer" and bearer else key)
        except TokenRefused as error:
            raise _Refused(401, str(error)) from error

    async def _may_send(self, topic: str, caller: Caller) -> bool:
        try:
            return "broadcast" in (await self._authority.rights(topic, caller)).write
        except RightsUnknown as error:
            raise _Refused(503, str(error)) from error

    async def pump(self) -> None:
        """Carry one batch of announced rows of realtime.messages to their topics, in order."""
        ids = drain(self._announced, await self._announced.get(), MESSAGES_PER_READ)
        if not ids:
            return
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select m.topic, m.private, m.event, m.payload, m.id::text"
                " from unnest(%s::uuid[]) with ordinality as announced (id, position)"
                " join realtime.messages as m using (id) order by announced.position",
                (ids,),
            )
            rows = await cursor.fetchall()
        for topic, is_private, event, payload, message_id in rows:
            message = Broadcast(event, payload, {"id": message_id})
            self._channels.broadcast(topic, bool(is_private), message)

    async def purge(self) -> None:
        """Drop old messages, then wait an hour."""
        async with self._pool.connection() as connection:
            await connection.execute(
                "delete from realtime.messages where inserted_at < now() - make_interval(days => %s)",
                (KEPT_DAYS,),
            )
        await asyncio.sleep(PURGE_SECONDS)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _Refused(413, f"a request has at most {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _read_json(body: bytes) -> Any:
    try:
        return read_json(body)
    except MalformedFrame as error:
        raise _Refused(422, "the body must be JSON") from error


def _checked(message: object) -> tuple[str, bool, Broadcast]:
    if not isinstance(message, dict):
        raise _Refused(422, "each message must be an object {topic, event, payload, private}")
    topic, event = message.get("topic"), message.get("event")
    if not isinstance(topic, str) or not isinstance(event, str) or "payload" not in message:
        raise _Refused(422, "each message needs topic, event and payload")
    return topic, message.get("private") is True, Broadcast(event, message["payload"])
