"""One child process of a sandbox: started without a shell, without an environment, and reaped with what it used."""

import asyncio
import codecs
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress

from workers.sandbox.account import Account
from workers.sandbox.sandbox import OnOutput, Stop, Transcript

_CHUNK = 65_536


class Child:
    """A running child. Its output is one stream, stdout and stderr as they come."""

    def __init__(
        self,
        words: list[str],
        *,
        account: Account,
        pass_fds: tuple[int, ...] = (),
        environment: Mapping[str, str] | None = None,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self.output, write_end = os.pipe()
        stdin, self._input = os.pipe()
        if not account.is_ours:
            os.fchown(write_end, account.uid, account.gid)  # so that code may open its own /dev/stdout
        try:
            # From the loop's own thread: the kernel takes the end of a thread for the end of the parent.
            self._popen = subprocess.Popen(
                words, stdin=stdin, stdout=write_end, stderr=write_end, env=dict(environment or {}), cwd="/",
                pass_fds=pass_fds, start_new_session=True, preexec_fn=preexec, **account.drop,  # type: ignore[call-overload]
            )  # fmt: skip
        except BaseException:
            self.close()
            raise
        finally:
            os.close(stdin)
            os.close(write_end)
        os.set_blocking(self.output, False)
        self.pid = int(self._popen.pid)
        self._ended = asyncio.ensure_future(_exit_of(self.pid))

    def send(self, text: bytes) -> None:
        """Write to its stdin, which stays open until the child is closed; a child that is gone is no error."""
        with suppress(BrokenPipeError), open(self._input, "wb", closefd=False) as stdin:
            stdin.write(text)

    async def ended(self) -> None:
        """Wait for its end; it stays unreaped."""
        await asyncio.shield(self._ended)

    async def read(self, transcript: Transcript, most_bytes: int, on_output: OnOutput | None) -> Stop | None:
        """Read until the last holder of the stream is gone (None), or until it is too much."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while chunk := await readable_chunk(self.output):
            transcript.add(chunk)
            if transcript.total_bytes > most_bytes:
                return Stop.OUTPUT
            if on_output is not None and (text := decoder.decode(chunk)):
                await on_output(text)
            await asyncio.sleep(0)  # a pipe that is never empty must not keep the loop
        return None

    def kill(self) -> None:
        """SIGKILL, unless it was reaped."""
        if self._popen.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def reap(self) -> tuple[int, float]:
        """Its wait status, and the seconds of processor that it and its dead used."""
        await self.ended()
        _, status, used = os.wait4(self.pid, 0)  # noqa: ASYNC222 - it has ended
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        return status, used.ru_utime + used.ru_stime

    def close(self) -> None:
        """Let go of its stream."""
        for fd in (self.output, self._input):
            if fd >= 0:
                os.close(fd)
        self.output = self._input = -1


async def readable_chunk(fd: int) -> bytes:
    """The next bytes of a pipe; empty at its end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_reader(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(fd)


async def _exit_of(pid: int) -> None:
    """Wait until a child has ended, without reaping it."""
    if not hasattr(os, "pidfd_open"):
        await asyncio.to_thread(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return
    await end_of(os.pidfd_open(pid))


async def end_of(pidfd: int) -> None:
    """Wait until the process behind this descriptor has ended, and close it."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(pidfd, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
