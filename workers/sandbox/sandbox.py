"""What a sandbox is: a program, its files and its limits in; output, changed files and usage out."""

import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

OnOutput = Callable[[str], Awaitable[None]]

MIB = 1024 * 1024


class SandboxRefused(Exception):
    """The program is not run; the message says why and what to do."""


class Language(StrEnum):
    """What a program may be written in."""

    PYTHON = "python"
    SHELL = "shell"
    SQL = "sql"


class Stop(StrEnum):
    """Why a program was stopped before its own end."""

    TIME = "time"
    MEMORY = "memory"
    HOST = "host"
    FILES = "files"
    OUTPUT = "output"


@dataclass(frozen=True)
class Program:
    """Code to run, with the workspace as its current folder."""

    language: Language
    code: str


@dataclass(frozen=True)
class InputFile:
    """A file that the program finds in its folder, and may change there: it is a copy."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Limits:
    """How much a program may use. `memory_bytes` counts all its processes together, `address_bytes` each one."""

    wall_seconds: float = 60
    cpu_seconds: int = 120
    memory_bytes: int = 1024 * MIB
    address_bytes: int = 4096 * MIB
    processes: int = 64
    disk_bytes: int = 256 * MIB
    files: int = 20_000
    file_bytes: int = 64 * MIB
    open_files: int = 256
    output_bytes: int = 8 * MIB
    kept_output_bytes: int = 200_000
    returned_files: int = 200
    returned_file_bytes: int = 1 * MIB
    returned_bytes: int = 32 * MIB
    host_memory_left_bytes: int = 256 * MIB


@dataclass(frozen=True)
class Usage:
    """What a program used. `most_memory_bytes`: all its processes together, as seen by looking (0: over too soon)."""

    wall_seconds: float
    cpu_seconds: float
    most_memory_bytes: int


@dataclass(frozen=True)
class LeftOut:
    """Something in the program's folder that does not come back, and why."""

    path: str
    why: str


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `exit_code` is 128 + signal when a signal ended it, None when it was stopped.

    `output` is stdout and stderr as they came, at most the limit's last bytes; `output_bytes` is all there was.
    """

    exit_code: int | None
    stopped: Stop | None
    output: str
    output_bytes: int
    changed: dict[str, bytes]
    usage: Usage
    left_out: tuple[LeftOut, ...] = field(default=())


class Runner(Protocol):
    """What runs programs."""

    async def run(
        self, program: Program, files: tuple[InputFile, ...], limits: Limits, on_output: OnOutput | None = None
    ) -> Outcome:
        """Run a program to its end or its limit. Raises SandboxRefused; a cancel takes the whole process tree."""


class Sandbox(Runner, Protocol):
    """A layer that holds, or the refusal that stands in for one."""

    @property
    def name(self) -> str:
        """One word for logs."""

    @property
    def languages(self) -> frozenset[Language]:
        """What it can run."""

    @property
    def summary(self) -> str:
        """One sentence for people: what holds here, or what to do so that something does."""

    async def close(self) -> None:
        """Leave nothing behind."""


class NoSandbox:
    """Stands where no layer holds: it runs nothing."""

    name = "none"
    languages: frozenset[Language] = frozenset()

    def __init__(self, *, why: tuple[str, ...]) -> None:
        self._why = why

    @property
    def summary(self) -> str:
        """Why nothing holds, and what to do."""
        return (
            "No sandbox holds on this machine, so code is not run: "
            + " ".join(self._why)
            + " Allow unprivileged user namespaces for the worker's user, or fetch the fallback once, with network: "
            "`python -m workers.sandbox install`."
        )

    async def run(
        self, program: Program, files: tuple[InputFile, ...], limits: Limits, on_output: OnOutput | None = None
    ) -> Outcome:
        """Raises SandboxRefused, always."""
        raise SandboxRefused(self.summary)

    async def close(self) -> None:
        """There is nothing."""


class Transcript:
    """What a program wrote so far: the last bytes are kept, all are counted."""

    def __init__(self, *, kept_bytes: int) -> None:
        self._kept_bytes = kept_bytes
        self._tail = bytearray()
        self.total_bytes = 0

    def add(self, chunk: bytes) -> None:
        """More output."""
        self.total_bytes += len(chunk)
        self._tail += chunk
        if len(self._tail) > 2 * self._kept_bytes:
            del self._tail[: -self._kept_bytes]

    @property
    def text(self) -> str:
        """The end of it, as text."""
        return bytes(self._tail[-self._kept_bytes :]).decode(errors="replace")


def exit_code_of(status: int) -> int:
    """A shell's way to tell a wait status: the code, or 128 + the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 + abs(code)


def signal_name(exit_code: int) -> str | None:
    """The signal that an exit code tells of, if it does."""
    try:
        return signal.Signals(exit_code - 128).name if exit_code > 128 else None
    except ValueError:
        return None
