"""The API: the same app on Lambda (`handler`) and held open under uvicorn (`python -m functions.main`)."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from mangum import Mangum
from pydantic import BaseModel, Field
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from functions import approvals, events, health, messages, problems, runs, threads
from functions.deps import furnish
from functions.envelope import BodyLimit, Envelope
from functions.settings import ApiSettings
from workers.kernel import telemetry
from workers.kernel.errors import SettingMissing

MAX_BYTES = 256 * 1024
DESCRIPTION = """Start agents, follow, answer and stop them, as the person whose Supabase session you send.

Every list and every row is what that person's row-level security shows. What somebody else owns and what does
not exist answer alike: 404. Errors are problem documents (RFC 9457); their `code` is meant for programs."""


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    place: str = Field(alias="in", description="body, query, path or header")
    pointer: str = Field(description="where in it, as a JSON pointer")
    detail: str


class Problem(BaseModel):
    """What every failure looks like (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="one word for programs")
    request_id: str
    errors: list[Fault] = []


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problems.invalid(request, error.errors())


def create_app(settings: ApiSettings) -> FastAPI:
    """Compose the API; nothing is opened before the first request."""
    house = furnish(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await house.http.aclose()

    middleware = [Middleware(Envelope)]
    if settings.allowed_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.allowed_origins,
                allow_methods=["GET", "POST"],
                allow_headers=[
                    "Authorization",
                    "Content-Type",
                    "Idempotency-Key",
                    "Last-Event-ID",
                    "X-Request-Id",
                ],
                expose_headers=["Location", "Retry-After", "X-Request-Id"],
            )
        )
    middleware.append(Middleware(BodyLimit, max_bytes=MAX_BYTES))
    app = FastAPI(
        title="PAM",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        middleware=middleware,
        exception_handlers={**problems.HANDLERS, RequestValidationError: _invalid},
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses={
            "default": {
                "description": "A problem document",
                "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
        },
    )
    app.state.house = house
    for room in (health, threads, messages, runs, approvals, events):
        app.include_router(room.router)

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schema["components"]["schemas"] |= problem.pop("$defs") | {"Problem": problem}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def __getattr__(name: str) -> Mangum:
    """`handler`, made when Lambda asks for it (PEP 562), so that an import needs no settings."""
    if name != "handler":
        raise AttributeError(name)
    telemetry.configure("api")
    app = create_app(ApiSettings.read(os.environ, hold_events=False))
    handler = Mangum(app, lifespan="off", text_mime_types=problems.TEXT_MEDIA_TYPES)
    globals()["handler"] = handler
    return handler


def main() -> None:
    """Serve on PAM_HTTP_HOST:PAM_HTTP_PORT (127.0.0.1:8787) until SIGTERM, holding event streams open.

    Exit status 2: a setting is missing or wrong; 3, which is uvicorn's: the port is taken.
    """
    import uvicorn

    telemetry.configure("api")
    port = os.environ.get("PAM_HTTP_PORT", "").strip() or "8787"
    try:
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise SettingMissing(f"PAM_HTTP_PORT must be a port, 1 to 65535, not {port!r}")
        app = create_app(ApiSettings.read(os.environ, hold_events=True))
    except SettingMissing as error:
        print(f"pam api: {error}", file=sys.stderr)
        sys.exit(2)
    uvicorn.run(
        app,
        host=os.environ.get("PAM_HTTP_HOST", "127.0.0.1"),
        port=int(port),
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
