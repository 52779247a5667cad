"""The outside ledger: a real HTTP server on loopback that carries effects out, and remembers every request it got."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

KEYED = "/effects"  # one effect a key, however often it is asked for
UNKEYED = "/unkeyed"  # every request is an effect: whoever repeats one has done it twice
_MAX_BODY_BYTES = 10_000


@dataclass(frozen=True)
class Received:
    """A request that came whole: which effect of which run it wanted, under which key, and whether it got it."""

    path: str
    key: str
    run: str
    step: int
    is_effect: bool


@dataclass
class Halt:
    """A place where a request stands still: `reached` once it is there, until `go` is set."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


class OutsideLedger:
    """Effects by key, in memory. POST {"run": …, "step": …} to one of the two paths; 201 is new, 200 known."""

    def __init__(self, *, lingers_seconds: float = 0.0) -> None:
        self._lingers_seconds = lingers_seconds
        self.received: list[Received] = []
        self.port = 0
        self._halts: dict[tuple[str, int, str], Halt] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, *, lingers_seconds: float = 0.0) -> AsyncIterator["OutsideLedger"]:
        """The server, for as long as the context lasts; it lingers before an effect, and before it answers."""
        ledger = cls(lingers_seconds=lingers_seconds)
        server = await asyncio.start_server(ledger._serve, "127.0.0.1", 0)
        ledger.port = server.sockets[0].getsockname()[1]
        try:
            yield ledger
        finally:
            for halt in ledger._halts.values():
                halt.go.set()
            server.close()

    @property
    def url(self) -> str:
        """Its address, by a name that an organisation can allow."""
        return f"http://localhost:{self.port}"

    @property
    def effects(self) -> Counter[tuple[str, int]]:
        """How often each effect was carried out, by run and step."""
        return Counter((one.run, one.step) for one in self.received if one.is_effect)

    def halt(self, run: str, step: int, when: str) -> Halt:
        """Let the request for this effect stand still `before` it is carried out, or `after`, before the answer."""
        return self._halts.setdefault((run, step, when), Halt())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            status, told = await self._answer(reader)
            body = json.dumps(told).encode()
            head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked was killed: what came whole is recorded
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, object]]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split("\r\n", 1)[0].split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
        }
        length = int(headers.get("content-length", "0"))
        if method != "POST" or path not in (KEYED, UNKEYED) or length > _MAX_BODY_BYTES:
            return 404, {"error": f"POST {KEYED} or {UNKEYED}"}
        asked = json.loads(await reader.readexactly(length))
        run, step, key = str(asked["run"]), int(asked["step"]), headers.get("idempotency-key", "")
        await self._stand_still(run, step, "before")
        is_effect = path == UNKEYED or not any(one.key == key and one.path == path for one in self.received)
        self.received.append(Received(path, key, run, step, is_effect))
        await self._stand_still(run, step, "after")
        return 201 if is_effect else 200, {"counted": is_effect, "key": key}

    async def _stand_still(self, run: str, step: int, when: str) -> None:
        await asyncio.sleep(self._lingers_seconds)
        if halt := self._halts.get((run, step, when)):
            halt.reached.set()
            await halt.go.wait()
