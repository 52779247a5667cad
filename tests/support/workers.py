"""Worker processes that a test starts, pauses and kills by itself, each with its log."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from infra.local.facts import StackFacts
from infra.local.stack import ROOT, worker_environment

LEASE_SECONDS = 2


class WorkerProcess:
    """`python -m workers.main` against a stack."""

    def __init__(self, *, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, facts: StackFacts, **settings: str) -> "WorkerProcess":
        """Start one; it may still be connecting when this answers."""
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
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "workers.main", stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment, cwd=facts.state, start_new_session=True,
            )  # fmt: skip
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
                assert self.is_alive, self.log
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        await self._process.wait()

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
