"""The second layer, where the kernel allows no namespaces: Python as WebAssembly, in a Deno that may read one folder.

Python's standard library only: no numpy, no shell, no database. It needs one download, by `python -m workers.sandbox
install`. What the web's own interfaces would write to disk (caches, storage) is stopped by a limit of no bytes.
"""

import asyncio
import base64
import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from workers.sandbox.account import Account, ordinary_account
from workers.sandbox.child import Child
from workers.sandbox.programs import within_reach
from workers.sandbox.pyodide.frames import Ending, Frames
from workers.sandbox.rlimits import lower
from workers.sandbox.sandbox import (
    InputFile,
    Language,
    Limits,
    OnOutput,
    Outcome,
    Program,
    SandboxRefused,
    Stop,
    Usage,
    exit_code_of,
)
from workers.sandbox.watch import Watch, Watched

_FILES = ("deno.json", "deno.lock", "runner.ts", "python.ts", "snapshot.ts")
_QUIET = {"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
_NOWHERE = "/dev/null/nowhere"  # no place for caches and storage
_DENIED = ("net", "env", "write", "run", "ffi", "sys", "import")
_HEAP_MIB = 512
_PR_SET_PDEATHSIG = 1


class PyodideSandbox:
    """Python's standard library, in memory."""

    name = "pyodide"
    languages = frozenset({Language.PYTHON})
    summary = (
        "Code runs in Pyodide under Deno: Python's standard library only, no numpy or pandas, no shell and no SQL. "
        "With unprivileged user namespaces for the worker's user, bubblewrap would run all of them."
    )

    def __init__(self, *, home: Path, account: Account | None = None) -> None:
        """Raises SandboxRefused when it was never fetched, or Deno is not there."""
        self._account = account or ordinary_account()
        self._folder = folder(home)
        if not (self._folder / "installed").exists():
            raise SandboxRefused("Pyodide is not fetched: run `python -m workers.sandbox install` once, with network.")
        self._deno = within_reach(deno_program(), home, self._account)
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    async def close(self) -> None:
        """Every run ends with its own call; nothing else is kept."""

    async def run(
        self, program: Program, files: tuple[InputFile, ...], limits: Limits, on_output: OnOutput | None = None
    ) -> Outcome:
        """See Sandbox.run."""
        if program.language is not Language.PYTHON:
            raise SandboxRefused(
                f"This worker's sandbox runs Python only, not {program.language}: write it in Python, or ask for a "
                "worker whose kernel allows user namespaces."
            )
        began = time.monotonic()
        frames = Frames(limits, on_output)
        child = Child(
            self._words(),
            account=self._account,
            environment={**_QUIET, "DENO_DIR": _NOWHERE},
            preexec=self._preexec(limits),
        )
        try:
            watch = Watch(Watched(child.pid), limits)
            sending = asyncio.ensure_future(asyncio.to_thread(child.send, _told(program, files, limits)))
            reading = asyncio.ensure_future(frames.read(child.output))
            watching = asyncio.ensure_future(watch.until_stop())
            stop: Stop | None = None
            try:
                done, _ = await asyncio.wait(
                    {reading, watching}, timeout=limits.wall_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                stop = next((task.result() for task in done), Stop.TIME)
            finally:
                watching.cancel()
                reading.cancel()
                child.kill()  # it has said all, or is stopped: its own way out takes seconds
                status, cpu_seconds = await child.reap()
                await asyncio.gather(watching, reading, sending, return_exceptions=True)
        finally:
            child.close()
        given = {file.path: file.content for file in files}
        ending = frames.ending or Ending(exit_code_of(status))
        changed = {path: content for path, content in ending.files.items() if given.get(path) != content}
        return Outcome(
            exit_code=None if stop else ending.code,
            stopped=stop,
            output=frames.transcript.text,
            output_bytes=frames.transcript.total_bytes,
            changed={} if stop else changed,
            left_out=tuple(ending.left),
            usage=Usage(round(time.monotonic() - began, 3), round(cpu_seconds, 3), watch.most_bytes),
        )

    def _words(self) -> list[str]:
        return [
            str(self._deno),
            *("run", "--quiet", "--no-prompt", "--cached-only", "--no-remote", "--frozen", "--no-code-cache"),
            f"--config={self._folder / 'deno.json'}",
            f"--allow-read={self._folder}",
            *(f"--deny-{what}" for what in _DENIED),
            f"--v8-flags=--max-old-space-size={_HEAP_MIB}",
            str(self._folder / "runner.ts"),
        ]

    def _preexec(self, limits: Limits) -> Callable[[], None]:
        """Between fork and exec: the kernel's limits, and the end with the worker. V8 reserves more than it uses."""
        lowered, libc = replace(limits, address_bytes=0, file_bytes=0), self._libc

        def prepare() -> None:
            lower(lowered)
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

        return prepare


def folder(home: Path) -> Path:
    """Where an installed copy lies, named after its files so that an update installs anew."""
    content = b"".join((Path(__file__).parent / name).read_bytes() for name in _FILES)
    return home / f"pyodide-{hashlib.sha256(content).hexdigest()[:12]}"


def deno_program() -> Path:
    """The Deno that stands beside this Python. Raises SandboxRefused."""
    found = shutil.which("deno", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise SandboxRefused("Deno is not installed beside this Python.")
    return Path(found)


async def install(home: Path) -> Path:
    """Fetch the locked package, once. Raises SandboxRefused with what Deno said."""
    target = folder(home)
    if (target / "installed").exists():
        return target
    half = target.with_name(f"{target.name}.{os.getpid()}")
    half.mkdir(parents=True)
    try:
        for name in _FILES:
            shutil.copy(Path(__file__).parent / name, half)
        await _deno(half, "install", "--frozen", "--quiet")
        await _deno(
            half, "run", "--no-prompt", "--cached-only", f"--allow-read={half}", f"--allow-write={half}", "snapshot.ts"
        )
        (half / "installed").touch()
        for path in [home, half, *half.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        with suppress(OSError):  # another command may have been faster
            half.rename(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return target


async def _deno(folder: Path, *words: str) -> None:
    """Deno on our own files, while installing: with the caller's proxies and certificates."""
    process = await asyncio.create_subprocess_exec(
        *(str(deno_program()), *words),
        cwd=folder,
        env={**os.environ, **_QUIET, "DENO_DIR": str(folder / "cache")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise SandboxRefused(
            "Pyodide could not be fetched from the npm registry and started once (is the network there?): "
            + said.decode(errors="replace")[-500:]
        )


def _told(program: Program, files: tuple[InputFile, ...], limits: Limits) -> bytes:
    told = {
        "code": program.code.encode(errors="replace").decode(),
        "files": {file.path: base64.b64encode(file.content).decode() for file in files},
        "limits": {
            "files": limits.files,
            "file_bytes": limits.returned_file_bytes,
            "bytes": limits.returned_bytes,
            "count": limits.returned_files,
        },
    }
    return json.dumps(told).encode() + b"\n"
