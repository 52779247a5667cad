"""The service on a real database, and the token of a fresh person."""

import os
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import jwt
import pytest
from uvicorn.importer import import_from_string


@pytest.fixture
async def api() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, signed in as somebody who is in no project yet."""
    app = import_from_string("app.main:create_app")()
    claims = {"sub": str(uuid4()), "aud": "authenticated", "exp": int(time.time()) + 60}
    token = jwt.encode(claims, os.environ["TRACKER_JWT_SECRET"], algorithm="HS256")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://tracker",
            headers={"authorization": f"Bearer {token}"},
        ) as client,
    ):
        yield client
