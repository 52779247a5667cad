"""The one address of the embedded stack: Auth and PostgREST by proxy, Realtime, Upstash, pg_net's deliveries.

Run as `python -m infra.local.gateway`; it listens on 127.0.0.1 and prints one line when it does.
"""

import asyncio
import contextlib
import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import uvicorn
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from infra.local.deliveries import Deliveries
from infra.local.notices import Notices, repeat_until_cancelled
from infra.local.realtime.authorization import Authority
from infra.local.realtime.server import Realtime
from infra.local.upstash import Upstash

MAX_BODY_BYTES = 10_000_000
MAX_FRAME_BYTES = 3_000_000  # Realtime's largest plan
PROXY_SECONDS = 60
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

# RFC 9110 section 7.6.1, and what the two connections must settle for themselves.
_HOP_NAMES = (
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade"
    " host content-length accept-encoding content-encoding"
)
_HOP_HEADERS = frozenset(_HOP_NAMES.split())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the gateway listens, what it stands in front of, and the secrets it checks."""

    port: int
    lite_port: int
    database_url: str
    redis_url: str
    upstash_token: str
    jwt_secret: str
    publishable_key: str
    secret_key: str


class Proxy:
    """Passes requests on to lite and its answers back, whole."""

    def __init__(self, *, client: httpx.AsyncClient, base_url: str, publishable_key: str) -> None:
        self._client = client
        self._base_url = base_url
        self._publishable_key = publishable_key

    async def forward(self, request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return JSONResponse({"message": f"a request has at most {MAX_BODY_BYTES} bytes"}, 413)
        headers = [pair for pair in request.headers.items() if pair[0] not in _HOP_HEADERS]
        url = httpx.URL(self._base_url, raw_path=request.scope["raw_path"] + b"?" + request.scope["query_string"])
        try:
            answer = await self._client.request(
                request.method, url, headers=[*headers, ("accept-encoding", "identity")], content=bytes(body)
            )
        except httpx.HTTPError:
            return JSONResponse({"message": "Auth and PostgREST (lite) do not answer yet"}, 503)
        response = Response(answer.content, answer.status_code)
        response.raw_headers = [
            (name.lower(), value) for name, value in answer.headers.raw if _is_passed_on(name, request.method)
        ]
        if request.method != "HEAD" and answer.status_code not in (204, 304):
            response.raw_headers.append((b"content-length", str(len(answer.content)).encode()))
        return response

    async def health(self, _request: Request) -> Response:
        """Open: says only whether lite answers."""
        try:
            answer = await self._client.get(
                f"{self._base_url}/auth/v1/health", headers={"apikey": self._publishable_key}, timeout=3
            )
            is_up = answer.status_code == 200
        except httpx.HTTPError:
            is_up = False
        return JSONResponse({"gateway": "up", "lite": "up" if is_up else "down"}, 200 if is_up else 503)


def _is_passed_on(name: bytes, method: str) -> bool:
    text = name.decode("latin-1").lower()
    if text.startswith("access-control-") or text == "date":  # the gateway's own answer to browsers
        return False
    return text not in _HOP_HEADERS or (text == "content-length" and method == "HEAD")


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        doors = "/auth/v1, /rest/v1, /realtime/v1, /upstash and /health"
        return JSONResponse({"message": f"no door {request.url.path} here: this gateway has {doors}"}, 404)
    return JSONResponse({"message": error.detail}, error.status_code, headers=error.headers)


def create_gateway(settings: Settings) -> Starlette:
    """Compose the gateway; nothing is opened before its lifespan begins."""
    pool = AsyncConnectionPool(
        settings.database_url,
        kwargs={"autocommit": True},
        min_size=1,
        max_size=4,
        timeout=5,
        open=False,
        check=AsyncConnectionPool.check_connection,
    )
    client = httpx.AsyncClient(
        trust_env=False,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # it speaks plain HTTP on loopback: no CA store to load
        timeout=PROXY_SECONDS,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=4),
    )
    notices = Notices(dsn=settings.database_url)
    authority = Authority(
        pool=pool,
        jwt_secret=settings.jwt_secret,
        publishable_key=settings.publishable_key,
        secret_key=settings.secret_key,
    )
    realtime = Realtime(authority=authority, pool=pool, notices=notices)
    deliveries = Deliveries(pool=pool, notices=notices)
    upstash = Upstash(redis_url=settings.redis_url, token=settings.upstash_token)
    proxy = Proxy(
        client=client,
        base_url=f"http://127.0.0.1:{settings.lite_port}",
        publishable_key=settings.publishable_key,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await pool.open(wait=False)
        works = {
            "realtime": realtime.pump,
            "realtime's purge": realtime.purge,
            "deliveries": deliveries.deliver,
            "deliveries' purge": deliveries.purge,
        }
        tasks = [asyncio.create_task(notices.run())]
        tasks += [asyncio.create_task(repeat_until_cancelled(name, work)) for name, work in works.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await deliveries.stop()
            await asyncio.gather(client.aclose(), upstash.stop(), pool.close(2))

    any_origin = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=["Content-Range", "Content-Location", "Preference-Applied", "X-Supabase-Api-Version"],
    )
    return Starlette(
        lifespan=lifespan,
        middleware=[any_origin],
        exception_handlers={HTTPException: _refuse},
        routes=[
            Route("/health", proxy.health),
            Route("/auth/v1/{path:path}", proxy.forward, methods=METHODS),
            Route("/rest/v1/{path:path}", proxy.forward, methods=METHODS),
            Mount("/realtime/v1", routes=realtime.routes),
            Route("/upstash", upstash.command, methods=["POST"]),
            Mount("/upstash", routes=upstash.routes),
        ],
    )


class _Server(uvicorn.Server):
    """Says that it listens; signals end it in good order and without a traceback."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(None)
        if self.started:
            print(f"gateway listens on 127.0.0.1:{self.config.port}", flush=True)


def main() -> None:
    """Read the environment and serve until SIGTERM or SIGINT; a missing variable is named."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    env = os.environ
    try:
        settings = Settings(
            port=int(env["GATEWAY_PORT"]),
            lite_port=int(env["LITE_PORT"]),
            database_url=env["PLATFORM_DATABASE_URL"],
            redis_url=env["REDIS_URL"],
            upstash_token=env["UPSTASH_TOKEN"],
            jwt_secret=env["JWT_SECRET"],
            publishable_key=env["SUPABASE_PUBLISHABLE_KEY"],
            secret_key=env["SUPABASE_SECRET_KEY"],
        )
    except KeyError as missing:
        raise SystemExit(f"the gateway cannot start: set {missing.args[0]}") from None
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: None)  # uvicorn raises them once more when it is done
    config = uvicorn.Config(
        create_gateway(settings),
        host="127.0.0.1",
        port=settings.port,
        access_log=False,
        server_header=False,
        log_config=None,
        lifespan="on",
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=3,
    )
    _Server(config).run()


if __name__ == "__main__":
    main()
