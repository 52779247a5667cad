"""The first layer: bubblewrap's namespaces, a list of system calls and limits, as a user who owns nothing."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from workers.sandbox import programs, walls
from workers.sandbox.account import Account, acting_as, ordinary_account
from workers.sandbox.child import Child, end_of, readable_chunk
from workers.sandbox.copying import Harvest, copy_in, copy_out
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
    Transcript,
    Usage,
    exit_code_of,
)
from workers.sandbox.seccomp import assembled, machine
from workers.sandbox.watch import Watch, Watched

T = TypeVar("T")

_START_SECONDS = 10
_END_SECONDS = 5
_INITIALISE = (
    "initdb -D /template -U postgres --auth=trust --no-sync --encoding=UTF8 --locale=C --locale-provider=builtin "
    "--builtin-locale=C.UTF-8 --wal-segsize=1 --no-instructions && touch /template/complete"
)


@dataclass
class _Standing:
    """A sandbox whose walls stand and whose code waits: its first process, and its writable folders, open.

    `copies` work on the folders in threads of their own, which no cancel ends.
    """

    child: Child
    guard_pid: int
    guard: int
    folders: tuple[int, ...]
    copies: list["asyncio.Future[Any]"] = field(default_factory=list)

    def kill(self) -> None:
        """End its process 1, and with it, by the kernel, everything in its namespace."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.guard, signal.SIGKILL)

    async def copied(self, copy: Callable[[], T]) -> T:
        """What a copy from or to the folders answers; it goes on to its end when this call is cancelled."""
        copying = asyncio.ensure_future(asyncio.to_thread(copy))
        self.copies.append(copying)
        return await asyncio.shield(copying)

    async def close(self) -> None:
        """Let go of everything; what is in memory only is gone then."""
        while not all(copying.done() for copying in self.copies):
            with suppress(asyncio.CancelledError):  # the numbers of closed folders soon stand for others
                await asyncio.wait(self.copies)
        for fd in (self.guard, *self.folders):
            os.close(fd)
        self.child.close()


class Bubblewrap:
    """Python with numpy and pandas, shell, and SQL against a Postgres of its own."""

    name = "bubblewrap"

    def __init__(self, *, home: Path, account: Account | None = None) -> None:
        """Raises SandboxRefused when bwrap, or a list of system calls for this processor, is not there."""
        here = machine()
        if here is None:
            raise SandboxRefused(f"There is no list of system calls for the processor {os.uname().machine}.")
        self._seccomp = assembled(here)
        self._account = account or ordinary_account()
        self._home = home
        self._programs = programs.found(home=home, account=self._account)
        self._template: Path | None = None
        self._templating = asyncio.Lock()
        languages = {Language.PYTHON, Language.SHELL} | ({Language.SQL} if self._programs.has_postgres else set())
        self.languages = frozenset(languages)

    @property
    def summary(self) -> str:
        """What holds here."""
        names = ", ".join(sorted(self.languages))
        return f"Code runs in bubblewrap as user {self._account.uid}, without network ({names})."

    async def run(
        self, program: Program, files: tuple[InputFile, ...], limits: Limits, on_output: OnOutput | None = None
    ) -> Outcome:
        """See Sandbox.run."""
        if program.language not in self.languages:
            raise SandboxRefused(f"This worker's sandbox cannot run {program.language}: Postgres is not installed.")
        template = await self._made_template() if program.language is Language.SQL else None
        return await self._run(walls.command(program.language), program, files, limits, on_output, template=template)

    async def close(self) -> None:
        """Every run ends with its own call; nothing else is kept."""

    async def _run(
        self,
        words: list[str],
        program: Program,
        files: tuple[InputFile, ...],
        limits: Limits,
        on_output: OnOutput | None = None,
        *,
        template: Path | None = None,
        writable: Mapping[str, Path] | None = None,
    ) -> Outcome:
        began = time.monotonic()
        transcript = Transcript(kept_bytes=limits.kept_output_bytes)
        standing = await self._stand(words, program, limits, template, writable)
        watch = Watch(Watched(standing.guard_pid, standing.folders), limits)
        try:
            stop, is_over = None, False
            try:
                await standing.copied(lambda: self._fill(standing, files))
                standing.child.send(b"\n")
                reading = asyncio.ensure_future(standing.child.read(transcript, limits.output_bytes, on_output))
                watching = asyncio.ensure_future(watch.until_stop())
                try:
                    done, _ = await asyncio.wait(
                        {reading, watching},
                        timeout=limits.wall_seconds,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    stop = next((task.result() for task in done), Stop.TIME)
                    is_over = stop is None
                finally:
                    watching.cancel()
                    reading.cancel()
                    await asyncio.gather(watching, reading, return_exceptions=True)
            finally:
                status, cpu_seconds = await self._end(standing, is_over=is_over)
            harvest = await standing.copied(lambda: self._harvest(standing, files, limits))
        finally:
            await standing.close()
        return Outcome(
            exit_code=None if stop else exit_code_of(status),
            stopped=stop,
            output=transcript.text,
            output_bytes=transcript.total_bytes,
            changed=harvest.changed,
            left_out=tuple(harvest.left_out),
            usage=Usage(round(time.monotonic() - began, 3), round(cpu_seconds, 3), watch.most_bytes),
        )

    async def _stand(
        self,
        words: list[str],
        program: Program,
        limits: Limits,
        template: Path | None,
        writable: Mapping[str, Path] | None,
    ) -> _Standing:
        """Build the walls; the guard inside waits. Raises SandboxRefused with what bwrap said."""
        facts, told = os.pipe()
        child = None
        try:
            with walls.opened_texts() as texts:
                walls_words = walls.arguments(
                    self._programs, program.language, program.code, limits, texts,
                    seccomp=self._seccomp, template=template, writable=writable,
                )  # fmt: skip
                walls_words += ["--info-fd", str(told)]
                words_fd = texts.file("\0".join([*walls_words, ""]).encode())
                child = Child(
                    [str(self._programs.bwrap), "--args", words_fd, "--", *walls.guarded(words, limits)],
                    account=self._account,
                    pass_fds=(told, *texts.fds),
                    preexec=lambda: lower(limits),
                )
            os.close(told)
            told = -1
            async with asyncio.timeout(_START_SECONDS):
                first = await readable_chunk(child.output)
                if first != b"\n":
                    raise SandboxRefused(f"bubblewrap could not start: {await _rest(child, first)}")
            return self._opened(child, int(json.loads(os.read(facts, 4096))["child-pid"]))
        except BaseException as error:
            if child is not None:
                child.kill()
                await child.reap()
                child.close()
            if isinstance(error, TimeoutError):
                raise SandboxRefused(f"bubblewrap did not start within {_START_SECONDS} s.") from error
            raise
        finally:
            for fd in (facts, told):
                if fd >= 0:
                    os.close(fd)

    def _opened(self, child: Child, pid: int) -> _Standing:
        """Hold on to process 1 and the writable folders: they can be read when everything inside is dead."""
        fds: list[int] = []
        try:
            fds.append(os.pidfd_open(pid))
            for folder in walls.WRITABLE:
                fds.append(os.open(f"/proc/{pid}/root{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise SandboxRefused(f"The sandbox's folders could not be opened ({error.strerror}).") from error
        return _Standing(child, pid, fds[0], tuple(fds[1:]))

    def _fill(self, standing: _Standing, files: tuple[InputFile, ...]) -> None:
        with acting_as(self._account):
            copy_in(standing.folders[0], files)

    def _harvest(self, standing: _Standing, files: tuple[InputFile, ...], limits: Limits) -> Harvest:
        with acting_as(self._account):
            return copy_out(standing.folders[0], files, limits)

    async def _end(self, standing: _Standing, *, is_over: bool) -> tuple[int, float]:
        """Nothing of the tree is left when this answers, however the program ended."""
        if not is_over:
            standing.kill()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await standing.child.ended()
        except TimeoutError:
            standing.kill()
            standing.child.kill()
        used = await standing.child.reap()
        standing.kill()
        await end_of(os.dup(standing.guard))
        return used

    async def _made_template(self) -> Path:
        """A new server's data folder, made once a machine inside the sandbox, and copied into each."""
        async with self._templating:
            if self._template is None:
                self._template = await self._make_template()
            return self._template

    async def _make_template(self) -> Path:
        server = programs.postgres_mark()
        folder = self._home / f"postgres-{server}-{self._account.uid}"
        if (folder / "complete").exists():
            return folder
        half = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(half, ignore_errors=True)  # a worker of this number may have died on the way
        try:
            await self._initialise(half)
            with suppress(OSError):  # another worker may have been faster
                half.rename(folder)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        return folder

    async def _initialise(self, half: Path) -> None:
        half.mkdir(parents=True, mode=0o700)
        if not self._account.is_ours:
            os.chown(half, self._account.uid, self._account.gid)
        outcome = await self._run(
            ["/bin/sh", "-c", _INITIALISE],
            Program(Language.SHELL, ""),
            (),
            Limits(disk_bytes=64 * 1024 * 1024),
            writable={"/template": half},
        )
        if outcome.exit_code != 0:
            raise SandboxRefused(f"The throw-away database could not be prepared: {outcome.output[-500:]}")


async def _rest(child: Child, first: bytes) -> str:
    """What bwrap said before it gave up."""
    said = first
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while chunk := await readable_chunk(child.output):
                said += chunk
    return said.decode(errors="replace").strip()[-500:] or "it said nothing"
