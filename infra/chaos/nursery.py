"""Workers without the second that Python needs to load them: a process that has loaded everything forks one when asked.

A forked worker is a process, session and log of its own like any other, and dies like any other. The nursery has no
thread and no connection of its own that a child could inherit, and takes its children along when it ends.
"""

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from infra.local.stack import ROOT

_LOOKS_EVERY_SECONDS = 0.03


class Forked:
    """A worker that a nursery has forked, as asyncio's own Process would show it."""

    def __init__(self, *, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    def has_ended(self, status: int) -> None:
        """The nursery says so."""
        self.returncode = status
        self._ended.set()

    async def wait(self) -> int:
        """Its exit status, once it has ended; minus the signal that killed it."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError when it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The one who asks for workers."""

    def __init__(self, *, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._children: dict[int, Forked] = {}
        self._born: asyncio.Queue[Forked] = asyncio.Queue()
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["Nursery"]:
        """A nursery, for as long as the context lasts; its workers do not outlive it."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "infra.chaos.nursery"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        nursery = cls(process=process)
        hearing = asyncio.create_task(nursery._hear())
        try:
            yield nursery
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            await hearing

    async def fork(self, *, environment: Mapping[str, str], log: Path, folder: str) -> Forked:
        """A new worker with this environment, and nothing else of ours."""
        assert self._process.stdin is not None
        async with self._turn:
            asked = {"environment": dict(environment), "log": str(log), "folder": folder}
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            return await self._born.get()

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            word, pid, status = line.decode().split()
            if word == "born":
                self._children[int(pid)] = Forked(pid=int(pid))
                self._born.put_nowait(self._children[int(pid)])
            else:
                self._children.pop(int(pid)).has_ended(int(status))


def main() -> None:
    """Fork a worker for every line of stdin, say who was born and who has ended, and end with stdin."""
    import workers.main  # everything a worker needs, loaded once

    alive: set[int] = set()
    waiting = b""
    while True:
        if select.select([0], [], [], _LOOKS_EVERY_SECONDS)[0]:
            told = os.read(0, 65_536)
            if not told:
                break
            *lines, waiting = (waiting + told).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    _prepare(json.loads(line))
                    os._exit(workers.main.main())
                alive.add(pid)
                print("born", pid, 0, flush=True)
        for pid in list(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                alive.remove(pid)
                print("ended", pid, os.waitstatus_to_exitcode(status), flush=True)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print("ended", pid, -signal.SIGKILL, flush=True)


def _prepare(asked: dict[str, Any]) -> None:
    """Be a worker from here on: a session, a log, an environment and a die of its own."""
    os.setsid()
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, place)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    random.seed()


if __name__ == "__main__":
    main()
