"""What no limit of the kernel counts without control groups: the memory of a whole tree, and the number of files."""

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from workers.sandbox.sandbox import Limits, Stop

INTERVAL_SECONDS = 0.1
_FIRST_SECONDS = 0.02
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Watched:
    """A process with everything below it, and the file systems it may fill, as open folders."""

    pid: int
    folders: tuple[int, ...] = ()


class Watch:
    """One program under watch, and the most memory it was seen with."""

    def __init__(self, watched: Watched, limits: Limits) -> None:
        self._watched = watched
        self._limits = limits
        self.most_bytes = 0

    async def until_stop(self) -> Stop:
        """Look every tenth of a second; answers when, and why, the tree must be stopped."""
        pause = _FIRST_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = INTERVAL_SECONDS
            stop = await asyncio.to_thread(self._look)
            if stop is not None:
                return stop

    def _look(self) -> Stop | None:
        if sum(_used_files(folder) for folder in self._watched.folders) > self._limits.files:
            return Stop.FILES
        used = tree_bytes(self._watched.pid)
        self.most_bytes = max(self.most_bytes, used)
        if used > self._limits.memory_bytes:
            return Stop.MEMORY
        if psutil.virtual_memory().available < self._limits.host_memory_left_bytes:
            return Stop.HOST
        return None


def _used_files(folder: int) -> int:
    try:
        file_system = os.fstatvfs(folder)
    except OSError:
        return 0
    return file_system.f_files - file_system.f_ffree


def tree_bytes(pid: int) -> int:
    """The memory of a process and all below it; what they share counts once."""
    try:
        process = psutil.Process(pid)
        tree = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    return sum(_bytes_of(each) for each in tree)


def _bytes_of(process: psutil.Process) -> int:
    try:
        found = _PSS.search(Path(f"/proc/{process.pid}/smaps_rollup").read_bytes())
        if found:
            return int(found[1]) * 1024
    except OSError:  # not Linux, or its end was faster
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
