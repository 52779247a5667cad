"""Advisory file locks: the kernel lets go of them when their holder dies, however it dies."""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Self


class FileLock:
    """A lock on a file of the state folder, shared or exclusive."""

    def __init__(self, *, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_exclusive(self) -> bool:
        """Take it alone, at once or not at all."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take it with others, at once or not at all."""
        return self._try(fcntl.LOCK_SH)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def exclusive(self) -> Self:
        """Wait until it is ours alone."""
        while not self.try_exclusive():
            await asyncio.sleep(0.05)
        return self

    async def shared(self) -> Self:
        """Wait until it is ours with others."""
        while not self.try_shared():
            await asyncio.sleep(0.05)
        return self

    def release(self) -> None:
        """Let go."""
        os.close(self._descriptor)
