"""PAM's own log files of this machine, read backwards from their ends within bounds; for the embedded stack."""

import asyncio
import heapq
import os
import re
import stat
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from workers.kernel.errors import Unavailable
from workers.logs.lines import LogLine, read_line
from workers.logs.matching import page_of
from workers.logs.query import LogQuery, Page

# Only processes that write nothing but JSON lines (kernel/telemetry): what others print could pretend to be a line.
FILES = re.compile(r"(?:worker|functions|operator)(?:-\d{1,4})?\.log(?:\.\d{1,3})?")
MAX_FILES = 64
_BLOCK_BYTES = 65_536
_OVERTAKING_LINES = 200
_SLACK = timedelta(minutes=1)  # neighbouring lines of a process may stand in another order than their times


class LocalLogs:
    """The JSON lines of `folder`. Reads at most so many bytes and seconds a search, and says when that was not all."""

    def __init__(
        self, *, folder: Path, max_bytes: int = 64 * 1024 * 1024, max_seconds: float = 8, max_line_bytes: int = 200_000
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._max_line_bytes = max_line_bytes

    async def find(self, query: LogQuery) -> Page:
        """The lines that match, redacted. Raises Unavailable when the folder cannot be read."""
        return await asyncio.to_thread(self._find, query)

    def _find(self, query: LogQuery) -> Page:
        reading = _Reading(query, self._max_bytes, time.monotonic() + self._max_seconds, self._max_line_bytes)
        try:
            files = [self._opened(path) for path in self._paths()]
        except OSError as error:
            raise Unavailable(f"the folder of logs cannot be read: {type(error).__name__}") from error
        try:
            each = [_ordered(reading.lines_of(file)) for file in files if file is not None]
            page = page_of(heapq.merge(*each, key=lambda line: line.at, reverse=True), query)
        finally:
            for file in files:
                if file is not None:
                    os.close(file)
        return Page(page.lines, page.cursor, reading.caveat)

    def _paths(self) -> list[Path]:
        found = [path for path in self._folder.iterdir() if FILES.fullmatch(path.name)]
        return sorted(found)[:MAX_FILES]

    @staticmethod
    def _opened(path: Path) -> int | None:
        """A regular file, never what a link points to."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None  # rotated away, or a link
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
        return None


def _ordered(lines: Iterator[LogLine]) -> Iterator[LogLine]:
    """The lines by time, newest first: threads of a process overtake each other by a few lines, not by many."""
    waiting: list[tuple[float, int, LogLine]] = []
    for number, line in enumerate(lines):
        heapq.heappush(waiting, (-line.at.timestamp(), number, line))
        if len(waiting) > _OVERTAKING_LINES:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


class _Reading:
    """One search's bounds, shared by all its files."""

    def __init__(self, query: LogQuery, bytes_left: int, ends_at: float, max_line_bytes: int) -> None:
        self._query = query
        self._bytes_left = bytes_left
        self._ends_at = ends_at
        self._max_line_bytes = max_line_bytes
        self.caveat: str | None = None

    def lines_of(self, file: int) -> Iterator[LogLine]:
        """The file's lines from its end to where the range begins."""
        for raw in self._backwards(file):
            line = read_line(raw.decode(errors="replace"))
            if line is None:
                continue
            if line.at < self._query.range.since - _SLACK:
                return
            yield line

    def _backwards(self, file: int) -> Iterator[bytes]:
        """Whole lines, last first. One longer than the bound is left out; one still being written is not there yet."""
        place = os.fstat(file).st_size
        pieces: list[bytes] = []  # of the line whose beginning is not read yet, last first
        length, is_end = 0, True
        while place > 0:
            size = min(_BLOCK_BYTES, place)
            if self._is_over(size):
                return
            place -= size
            parts = os.pread(file, size, place).split(b"\n")
            for part in reversed(parts[1:]):
                if not is_end and length + len(part) <= self._max_line_bytes:
                    yield b"".join([part, *reversed(pieces)])
                pieces, length, is_end = [], 0, False
            length += len(parts[0])
            if length <= self._max_line_bytes:
                pieces.append(parts[0])
            else:
                pieces.clear()
        if pieces and not is_end:
            yield b"".join(reversed(pieces))

    def _is_over(self, size: int) -> bool:
        self._bytes_left -= size
        if self._bytes_left < 0 or time.monotonic() > self._ends_at:
            self.caveat = "Not everything was read: narrow the range of time to see what is older."
            return True
        return False
