"""Runs `pam` as a process with a PAM_HOME of its own, and watches what it leaves behind."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.cli import setting
from infra.local.facts import StackFacts
from infra.local.stack import ROOT

PATIENCE_SECONDS = 110.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The one line that --json promises."""
        lines = self.stdout.splitlines()
        assert len(lines) == 1, self
        return json.loads(lines[0])


@dataclass(frozen=True)
class Pam:
    """The command `pam` of somebody with this PAM_HOME, in an empty working folder."""

    home: Path
    cwd: Path

    @property
    def state(self) -> Path:
        """Where the stack keeps its state."""
        return self.home / "stack"

    @property
    def facts(self) -> StackFacts | None:
        """The running stack, if there is one."""
        return StackFacts.read(self.state / "stack.json")

    def environment(self) -> dict[str, str]:
        """What a newcomer has, and no model's key."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.cwd), "PYTHONPATH": str(ROOT), "PAM_HOME": str(self.home)}

    async def start(self, *words: str, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
        """Start the command in a session of its own, as a terminal does."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "infra.cli", *words),
            cwd=self.cwd,
            env=self.environment(),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def run(self, *words: str) -> Ended:
        """Run the command to its end."""
        return await self.ended(await self.start(*words))

    async def ended(self, process: asyncio.subprocess.Process) -> Ended:
        """Wait for a command that was started; its whole session is killed when patience is over."""
        try:
            out, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return Ended(process.returncode or 0, out.decode(), errors.decode())

    async def until_up(self) -> StackFacts:
        """Wait until the stack runs."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (facts := self.facts) is None:
                await asyncio.sleep(0.02)
        return facts


def stack_processes(facts: StackFacts) -> list[psutil.Process]:
    """The supervisor and everything below it; the stack has its usual nine processes or more."""
    supervisor = psutil.Process(facts.supervisor_pid)
    found = [supervisor, *supervisor.children(recursive=True)]
    assert len(found) > 7
    return found


async def assert_gone(processes: list[psutil.Process], *, seconds: float = 12) -> None:
    """Every process ends by itself within these seconds."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, seconds)
    assert not alive, [(process.pid, process.cmdline()) for process in alive]


@contextmanager
def new_home() -> Iterator[Pam]:
    """A PAM_HOME with a space in its path that shares what was fetched before, and nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="pam cli "))
    folder.chmod(0o755)
    home, cwd = folder / "a home", folder / "work"
    home.mkdir()
    cwd.mkdir()
    for fetched in (setting.home() / "deno", *setting.home().glob("lite-*")):
        (home / fetched.name).symlink_to(fetched)
    try:
        yield Pam(home, cwd)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
