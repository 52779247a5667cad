"""Upstash's REST face over a real Redis: one command, a pipeline, or a transaction a request.

Source: upstash-redis 1.8 (`http.py`, `format.py`): strings come back in base64 if the client asks,
recursively; integers, null and the literal OK as they are.
"""

import base64
import hmac
import json
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

MAX_BODY_BYTES = 1_000_000  # as Upstash's request limit
MAX_COMMANDS = 1_000

# They would hold or change a connection that others use next, or belong to the server's owner.
_REFUSED_NAMES = (
    "subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe monitor watch unwatch multi exec"
    " discard blpop brpop blmove brpoplpush bzpopmin bzpopmax blmpop bzmpop wait waitaof select auth hello"
    " client quit reset"
    " shutdown config debug sync psync replicaof slaveof module acl failover cluster"
)
_NOT_OVER_HTTP = frozenset(_REFUSED_NAMES.split())


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.response = JSONResponse({"error": message}, status)


class Upstash:
    """Routes to mount at /upstash. The client speaks RESP2 and keeps replies as Redis gave them."""

    def __init__(self, *, redis_url: str, token: str) -> None:
        self._redis = Redis.from_url(redis_url, protocol=2, socket_timeout=10, health_check_interval=30)
        self._redis.response_callbacks.clear()  # flat lists, not dicts: what Upstash's own clients expect
        self._token = token

    @property
    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.command, methods=["POST"]),
            Route("/pipeline", self._pipeline, methods=["POST"]),
            Route("/multi-exec", self._transaction, methods=["POST"]),
        ]

    async def stop(self) -> None:
        await self._redis.aclose()

    async def command(self, request: Request) -> Response:
        """One command; also the answer to a POST without the final slash."""
        try:
            command = _command(await self._body(request))
            reply = await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
            result = _result(reply, request)
        except ResponseError as error:
            return JSONResponse({"error": _sentence(error)}, 400)
        except RedisError:
            return JSONResponse({"error": "ERR the Redis behind this door does not answer"}, 503)
        except _Refused as refused:
            return refused.response
        return JSONResponse(result)

    async def _pipeline(self, request: Request) -> Response:
        return await self._many(request, is_transaction=False)

    async def _transaction(self, request: Request) -> Response:
        return await self._many(request, is_transaction=True)

    async def _many(self, request: Request, *, is_transaction: bool) -> Response:
        try:
            body = await self._body(request)
            if not isinstance(body, list) or not body or len(body) > MAX_COMMANDS:
                raise _Refused(400, f"ERR send a list of 1 to {MAX_COMMANDS} commands")
            commands = [_command(command) for command in body]
            async with self._redis.pipeline(transaction=is_transaction) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies = await pipeline.execute(raise_on_error=False)
        except ResponseError as error:  # Redis refused the transaction as a whole
            return JSONResponse([{"error": _sentence(error)} for _ in commands])
        except RedisError:
            return JSONResponse({"error": "ERR the Redis behind this door does not answer"}, 503)
        except _Refused as refused:
            return refused.response
        return JSONResponse([_result(reply, request) for reply in replies])

    async def _body(self, request: Request) -> Any:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise _Refused(401, "WRONGPASS invalid or missing auth token")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise _Refused(413, f"ERR max request size exceeded, the limit is {MAX_BODY_BYTES} bytes")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _Refused(400, "ERR failed to parse the body as JSON") from error


def _command(value: object) -> list[str | int | float]:
    if not isinstance(value, list) or not value or not isinstance(value[0], str) or not value[0].strip():
        raise _Refused(400, 'ERR a command is a list that begins with its name, as ["GET", "key"]')
    if value[0].strip().lower() in _NOT_OVER_HTTP:
        raise _Refused(400, f"ERR Command is not available: '{value[0][:40]}'. It does not work over HTTP")
    command: list[str | int | float] = []
    for argument in value:
        if isinstance(argument, str | int | float) and not isinstance(argument, bool):
            command.append(argument)
        else:
            command.append(json.dumps(argument))
    return command


def _result(reply: object, request: Request) -> dict[str, Any]:
    if isinstance(reply, ResponseError):
        return {"error": _sentence(reply)}
    return {"result": _plain(reply, is_base64=request.headers.get("upstash-encoding") == "base64")}


def _plain(reply: object, *, is_base64: bool) -> Any:
    if isinstance(reply, ResponseError):  # inside the list that EXEC gives
        return _sentence(reply)
    if isinstance(reply, list):
        return [_plain(item, is_base64=is_base64) for item in reply]
    if isinstance(reply, bytes):
        if is_base64 and reply != b"OK":
            return base64.b64encode(reply).decode()
        return reply.decode(errors="replace")
    return reply


def _sentence(error: ResponseError) -> str:
    text = str(error)
    return text if text.split(" ", 1)[0].isupper() else f"ERR {text}"
