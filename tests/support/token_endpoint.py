"""A third party's token endpoint on loopback: it answers what a test tells it, and keeps what it was asked."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

Answer = Callable[["Asked"], bytes]


@dataclass(frozen=True)
class Asked:
    """One request for a token."""

    path: str
    headers: dict[str, str]
    form: dict[str, str]


def answer(status: int = 200, body: bytes | str = b"", **headers: str) -> bytes:
    """A whole answer of HTTP/1.1."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(content)}", "connection: close", "", ""]).encode() + content


def token(status: int = 200, **told: Any) -> bytes:
    """What RFC 6749, 5.1 shows, changed as told."""
    body = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600} | told
    return answer(status, json.dumps({k: v for k, v in body.items() if v is not None}), content_type="application/json")


@dataclass
class TokenEndpoint:
    """`says` makes the next answers; `held` keeps every answer back until it is set."""

    url: str
    says: Answer = lambda asked: token()
    asked: list[Asked] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["TokenEndpoint"]:
        """Listen on a free port."""
        opened = cls("")
        opened.held.set()
        server = await asyncio.start_server(opened._serve, "127.0.0.1", 0)
        opened.url = f"http://localhost:{server.sockets[0].getsockname()[1]}/token"
        try:
            yield opened
        finally:
            server.close()
            opened.held.set()
            await server.wait_closed()

    def reset(self) -> None:
        """As it was at the beginning."""
        self.says, self.asked = lambda asked: token(), []
        self.held.set()
        self.arrived.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            form = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
            self.asked.append(Asked(head[0].split(" ")[1], headers, form))
            self.arrived.set()
            await self.held.wait()
            writer.write(self.says(self.asked[-1]))
            await writer.drain()
        writer.close()
