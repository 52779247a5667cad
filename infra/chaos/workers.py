"""Worker processes that are started, paused and killed from outside, each with its log and what it leaves behind."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from infra.chaos.nursery import Forked, Nursery
from infra.local.facts import StackFacts
from infra.local.processes import ProcessFailed
from infra.local.stack import ROOT, worker_environment

LEASE_SECONDS = 2


class WorkerProcess:
    """`python -m workers.main` against a stack."""

    def __init__(self, *, process: asyncio.subprocess.Process | Forked, log: Path) -> None:
        self._process = process
        self._log = log
        self._began: list[psutil.Process] = []

    @classmethod
    async def start(
        cls, facts: StackFacts, *, arguments: Sequence[str] = (), nursery: Nursery | None = None, **settings: str
    ) -> "WorkerProcess":
        """Start one, or let a nursery fork it; it may still be connecting when this answers."""
        logs = Path(facts.state) / "logs"
        log = logs / f"test-worker-{len(list(logs.glob('test-worker-*'))) + 1}.log"
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = {
            **kept,
            **worker_environment(facts, model_key="rehearsal"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PAM_LEASE_SECONDS": str(LEASE_SECONDS),
            "PAM_SWEEP_SECONDS": "1",
            **settings,
        }
        if nursery is not None:
            log.touch(mode=0o600)
            return cls(process=await nursery.fork(environment=environment, log=log, folder=facts.state), log=log)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "workers.main", *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=facts.state,
                start_new_session=True,
            )
        return cls(process=process, log=log)

    @property
    def pid(self) -> int:
        """The operating system's number of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()

    async def ready(self) -> None:
        """Wait until it takes work."""
        await self.logs("worker ready")

    async def logs(self, *words: str) -> None:
        """Wait until its log says one of these."""
        async with asyncio.timeout(20):
            while not any(word in self.log for word in words):
                if not self.is_alive:
                    raise ProcessFailed(f"the worker ended:\n{self.log[-2000:]}")
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """kill -9. What it had started itself is noted first."""
        with contextlib.suppress(psutil.Error):
            self._began = psutil.Process(self.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def survivors(self) -> list[str]:
        """Processes that it had started and that outlived its kill."""
        return [f"{one.pid} {one.name()}" for one in self._began if _lives(one)]

    def pause(self) -> None:
        """Stop the clock for it."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to leave in good order."""
        self._process.send_signal(signal.SIGTERM)

    async def ended(self, *, seconds: float = 30) -> int:
        """Its exit status, once it has ended."""
        return await asyncio.wait_for(self._process.wait(), seconds)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
