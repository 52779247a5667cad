"""Start a child that cannot outlive its parent, wait until it answers, and stop it in good order."""

import asyncio
import ctypes
import importlib.util
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOWER_PORTS = range(15_000, 32_000)
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ProcessFailed(Exception):
    """A process of the stack ended or never answered; the message says which and shows its last lines."""


@dataclass(frozen=True)
class Account:
    """The operating-system user that a child runs as."""

    name: str
    uid: int
    gid: int


def package_folder(name: str) -> Path:
    """Where an installed package lies, found without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ProcessFailed(f"the package {name} is not installed: run `python3 -m infra doctor`")
    return Path(found.origin).parent


def free_port(preferred: int | None = None) -> int:
    """A loopback port nobody listens on: the preferred one if it is free.

    Else one below those that systems give to whoever connects (32768 and up on Linux, 49152 on macOS): a part that is
    away for a moment finds its port free when it comes back.
    """
    lower = random.sample(_LOWER_PORTS, 20)
    for port in [*([preferred] if preferred else []), *lower, 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ProcessFailed("no free port on 127.0.0.1")


def _dies_with_parent(death_signal: int) -> Callable[[], None] | None:
    """On Linux the kernel tells the child that its parent is gone, even after kill -9."""
    libc = _libc
    if libc is None:
        return None

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, death_signal)

    return ask_kernel


class Child:
    """One process of the embedded stack, with its log file."""

    def __init__(self, *, name: str, process: asyncio.subprocess.Process, log: Path, stop_signal: int) -> None:
        self.name = name
        self.process = process
        self.log = log
        self._stop_signal = stop_signal

    @classmethod
    async def start(
        cls,
        *,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str],
        account: Account | None = None,
        stop_signal: int = signal.SIGTERM,
        cwd: Path | None = None,
    ) -> "Child":
        """Start the command in a session of its own, its output appended to the log."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *map(str, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                cwd=cwd or "/",
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                preexec_fn=_dies_with_parent(stop_signal),
            )
        return cls(name=name, process=process, log=log, stop_signal=stop_signal)

    @property
    def pid(self) -> int:
        """The operating system's number of the process."""
        return self.process.pid

    def last_lines(self, count: int = 12) -> str:
        """The end of the log, for an error that tells its reader what happened."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        except OSError as error:
            return f"(no log: {error})"

    async def until_ready(self, probe: Callable[[], Awaitable[bool]], *, seconds: float = 30) -> None:
        """Wait until the probe says yes. Raises ProcessFailed when the process ends or time is up."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not await probe():
            if self.process.returncode is not None:
                raise ProcessFailed(f"{self.name} ended with status {self.process.returncode}:\n{self.last_lines()}")
            if asyncio.get_running_loop().time() > deadline:
                raise ProcessFailed(f"{self.name} did not answer within {seconds:.0f} s:\n{self.last_lines()}")
            await asyncio.sleep(0.03)

    async def stop(self, *, seconds: float = 8) -> None:
        """Ask the process to end; after the grace, end its whole session."""
        if self.process.returncode is None:
            self.process.send_signal(self._stop_signal)
            try:
                await asyncio.wait_for(self.process.wait(), seconds)
            except TimeoutError:
                self._kill_session()
                await self.process.wait()
        self._kill_session()

    def _kill_session(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return


async def answers_on(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 1)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
