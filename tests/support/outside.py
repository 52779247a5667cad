"""A small outside world on loopback: real servers that count who connects, and a guarded client to send to them."""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpcore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from workers.outbound.answer import Answer
from workers.outbound.breaker import Breaker
from workers.outbound.client import Injects, Outbound
from workers.outbound.limits import OutboundLimits
from workers.outbound.network import GuardedNetwork, Resolver, public_trust, system_resolver
from workers.outbound.request import Request

QUICK = OutboundLimits(total_seconds=5, connect_seconds=2, read_seconds=2, backoff_seconds=0)
# Long enough to read what is there, short enough to wait for what never comes.
IMPATIENT = OutboundLimits(total_seconds=0.4, connect_seconds=0.3, read_seconds=0.2, backoff_seconds=0)


@dataclass(frozen=True)
class Asked:
    """A request as it came over the wire."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name), None)


Handler = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def reply(status: int = 200, body: bytes | str = b"", **headers: str) -> bytes:
    """A whole answer; underscores in header names are hyphens."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def says(*answers: bytes) -> Handler:
    """One answer after another; the last for all that follow."""
    left = list(answers)

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])

    return answer


def says_and_waits(beginning: bytes = b"") -> Handler:
    """The beginning of an answer that never ends."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        await writer.drain()
        await asyncio.Event().wait()

    return answer


def says_without_end(beginning: bytes, piece: bytes) -> Handler:
    """An answer that goes on for as long as anybody reads it."""

    async def answer(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while True:
            writer.write(piece)
            await writer.drain()

    return answer


@dataclass
class Outside:
    """A server on 127.0.0.1. `connected` counts everybody who got through to it, whatever was said then."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    handler: Handler | None = None
    _ports: list[int] = field(default_factory=list)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _watchers: int = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, handler: Handler | None = None, *, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator["Outside"]:
        """A server that answers; without a handler one that only counts."""
        outside = cls(handler=handler)
        server = await asyncio.start_server(outside._connected, "127.0.0.1", 0, ssl=tls, limit=4_194_304)
        outside.port = server.sockets[0].getsockname()[1]
        try:
            yield outside
        finally:
            server.close()
            for task in outside._tasks:
                task.cancel()
            await asyncio.gather(*outside._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """Where it is, in plain HTTP."""
        return f"http://localhost:{self.port}"

    async def connected(self) -> int:
        """How many connections were accepted until now: counted after one of our own, which comes behind all others."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        mine = writer.get_extra_info("sockname")[1]
        self._watchers += 1
        async with asyncio.timeout(5):
            while mine not in self._ports:
                self._arrived.clear()
                await self._arrived.wait()
        writer.close()
        del reader
        return len(self._ports) - self._watchers

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ports.append(writer.get_extra_info("peername")[1])
        self._arrived.set()
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ", 2)
                headers = tuple(tuple(line.split(": ", 1)) for line in head[1:] if line)
                length = next((int(v) for n, v in headers if n.lower() == "content-length"), 0)
                asked = Asked(method, target, headers, await reader.readexactly(length))  # type: ignore[arg-type]
                self.asked.append(asked)
                if self.handler:
                    await self.handler(asked, writer)
                await writer.drain()
            finally:
                writer.close()


class _Reached(httpcore.AsyncNetworkStream):
    """A stream to this machine that says it leads to the address that was asked for."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, server_addr: tuple[str, int]) -> None:
        self._stream, self._server_addr = stream, server_addr

    async def start_tls(self, *more: Any, **others: Any) -> httpcore.AsyncNetworkStream:
        return await self._stream.start_tls(*more, **others)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._server_addr if info == "server_addr" else self._stream.get_extra_info(info)


class Dialling(httpcore.AsyncNetworkBackend):
    """Opens sockets on this machine alone, and remembers every address that it was told to open.

    `really`: lies about where it connects to; with `as_asked` it stands for the Internet, and the lie is not seen.
    """

    def __init__(self, *, really: tuple[str, int] | None = None, as_asked: bool = False) -> None:
        self.dialled: list[str] = []
        self._really = really
        self._as_asked = as_asked
        self._system = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *more: Any, **others: Any) -> httpcore.AsyncNetworkStream:
        """As httpcore asks."""
        self.dialled.append(host)
        if self._really:
            stream = await self._system.connect_tcp(*self._really, *more, **others)
            return _Reached(stream, (host, port)) if self._as_asked else stream
        if not ipaddress.ip_address(host).is_loopback:
            raise httpcore.ConnectError("not from here")
        return await self._system.connect_tcp(host, port, *more, **others)


def knows(names: Mapping[str, list[str] | list[list[str]]]) -> Resolver:
    """A name server: addresses by name, or one list after another; what it does not know it reads as the system does."""
    left = {name: list(answers) for name, answers in names.items()}

    async def resolve(host: str, port: int) -> list[str]:
        if host in left:
            answers: list[Any] = left[host]
            if answers and isinstance(answers[0], list):
                return list(answers.pop(0) if len(answers) > 1 else answers[0])
            return answers
        if host == "localhost":
            return await system_resolver(host, port)
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [str(row[4][0]) for row in rows]

    return resolve


@dataclass
class Sender:
    """A guarded client with everything in reach of a test."""

    dialling: Dialling
    outbound: Outbound
    org_id: UUID
    allowed: Callable[[str, int], bool]

    async def send(self, method: str, url: str, *, inject: Injects | None = None, **more: Any) -> Answer:
        """One request of the organisation."""

        async def admits(host: str, port: int) -> bool:
            return self.allowed(host, port)

        return await self.outbound.send(Request(method, url, **more), org_id=self.org_id, admits=admits, inject=inject)

    async def get(self, url: str, **more: Any) -> Answer:
        """GET."""
        return await self.send("GET", url, **more)


def sender(
    *,
    names: Mapping[str, list[str] | list[list[str]]] | None = None,
    allowed: Callable[[str, int], bool] = lambda _host, _port: True,
    on_this_machine: bool = False,
    limits: OutboundLimits = QUICK,
    dialling: Dialling | None = None,
    breaker: Breaker | None = None,
    trust: ssl.SSLContext | None = None,
) -> Sender:
    """A client that may reach every host of its list, unless `allowed` says otherwise."""
    connector = dialling or Dialling()
    network = GuardedNetwork(
        resolver=knows(names or {}),
        connector=connector,
        trust=trust or public_trust(),
        may_reach_loopback=on_this_machine,
    )
    return Sender(connector, Outbound(network=network, breaker=breaker, limits=limits), uuid4(), allowed)


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS for this name, and a client's trust in nobody but it."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    pem.write_bytes(private + public)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(cadata=public.decode())
    return server, trust
