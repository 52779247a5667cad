"""What stands around the app in tests: the app as a uvicorn process, and a network cable that can be cut."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from functions.settings import ApiSettings

ROOT = Path(__file__).parents[2]


class Server:
    """`python -m functions.main` on a free port."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def kill(self) -> None:
        """No goodbye."""
        self.process.kill()
        await self.process.wait()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, settings: ApiSettings) -> AsyncIterator["Server"]:
        """Answers when the server does."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        environment = {
            "PATH": os.environ["PATH"],
            "SUPABASE_URL": settings.supabase_url,
            "SUPABASE_PUBLISHABLE_KEY": settings.publishable_key,
            "SUPABASE_JWT_SECRET": settings.jwt_secret or "",
            "PAM_HTTP_PORT": str(port),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "functions.main",
            env=environment, cwd=ROOT, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        server = cls(process, f"http://127.0.0.1:{port}")
        try:
            assert process.stderr is not None
            async with asyncio.timeout(20):
                while b"running on" not in (line := await process.stderr.readline()):
                    assert line, "the server ended before it listened"
            yield server
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(10):
                await process.communicate()


class Cable:
    """A TCP way to a server, which can be cut and mended."""

    def __init__(self, target: str) -> None:
        address = urlsplit(target)
        self._target = (address.hostname, address.port)
        self._writers: set[asyncio.StreamWriter] = set()
        self.is_cut = False
        self.refused = asyncio.Event()
        self.url = ""

    def cut(self) -> None:
        """Every connection breaks; new ones are closed at once."""
        self.is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        self.is_cut = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            self.refused.set()
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        self._writers -= {writer, far_writer}

    @classmethod
    @contextlib.asynccontextmanager
    async def lay(cls, target: str) -> AsyncIterator["Cable"]:
        """From a free loopback port to the target's."""
        cable = cls(target)
        server = await asyncio.start_server(cable.carry, "127.0.0.1", 0)
        cable.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield cable
        finally:
            server.close()
            cable.cut()
