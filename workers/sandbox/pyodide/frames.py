"""What comes out of Deno: one JSON value a line, and none of it is believed before it is checked."""

import asyncio
import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any

from workers.sandbox.child import readable_chunk
from workers.sandbox.sandbox import MIB, LeftOut, Limits, OnOutput, Stop, Transcript

_LONG_BYTES = 262_144  # what is longer is parsed beside the worker's loop
_MAX_LEFT_OUT = 50


@dataclass
class Ending:
    """A program's last value: its exit code, and the files that it says it changed."""

    code: int
    files: dict[str, bytes] = field(default_factory=dict)
    left: list[LeftOut] = field(default_factory=list)

    def leave(self, path: object, why: object) -> None:
        """Note something that does not come back, up to a number of notes."""
        if len(self.left) < _MAX_LEFT_OUT:
            self.left.append(LeftOut(_printable(path), _printable(why)))


class Frames:
    """Reads them, without holding up what else the worker does, and no line that is longer than any good one."""

    def __init__(self, limits: Limits, on_output: OnOutput | None) -> None:
        self._limits = limits
        self._on_output = on_output
        # Files come as base64; a byte of output comes as six characters at most.
        self._line_bytes = max(limits.returned_bytes * 7 // 5, 6 * limits.output_bytes) + MIB
        self.transcript = Transcript(kept_bytes=limits.kept_output_bytes)
        self.ending: Ending | None = None

    async def read(self, output: int) -> Stop | None:
        """To the program's last value or the end of the stream (None), or until it is too much."""
        pending: list[bytes] = []
        length = total = 0
        most = 8 * self._limits.output_bytes + 2 * self._limits.returned_bytes
        while chunk := await readable_chunk(output):
            total += len(chunk)
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                await self._take(b"".join((*pending, end)))
                pending, length = [], 0
                if self.ending is not None:
                    return None
            pending.append(rest)
            length += len(rest)
            if length > self._line_bytes:
                await self._write(b"".join(pending)[-self._limits.kept_output_bytes :].decode(errors="replace"))
                return Stop.OUTPUT
            if total > most or self.transcript.total_bytes > self._limits.output_bytes:
                return Stop.OUTPUT
            await asyncio.sleep(0)  # a pipe that is never empty must not keep the loop
        if length:
            await self._write(b"".join(pending).decode(errors="replace"))
        return None

    async def _take(self, line: bytes) -> None:
        parsed = (
            _parsed(line, self._limits)
            if len(line) < _LONG_BYTES
            else await asyncio.to_thread(_parsed, line, self._limits)
        )
        if isinstance(parsed, Ending):
            self.ending = parsed
        else:
            await self._write(parsed)

    async def _write(self, text: str) -> None:
        self.transcript.add(text.encode(errors="replace"))
        if self._on_output is not None and text:
            await self._on_output(text)


def _parsed(line: bytes, limits: Limits) -> Ending | str:
    """The program's end, or output: what is no value of ours is taken for output as it is."""
    text = line.decode(errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return f"{text}\n"
    if isinstance(value.get("output"), str):
        return str(value["output"])
    return _ending(value, limits) if isinstance(value.get("code"), int) else ""


def _ending(value: dict[str, Any], limits: Limits) -> Ending:
    ending, room = Ending(value["code"] & 255), limits.returned_bytes
    files, left = value.get("files"), value.get("left")
    for path, text in files.items() if isinstance(files, dict) else ():
        content = _decoded(text, min(room, limits.returned_file_bytes))
        if content is None or len(ending.files) >= limits.returned_files or not _is_below(path):
            ending.leave(path, "it is no file that may come back")
        else:
            ending.files[path] = content
            room -= len(content)
    for item in left[:_MAX_LEFT_OUT] if isinstance(left, list) else ():
        if isinstance(item, list) and len(item) == 2:
            ending.leave(*item)
    return ending


def _decoded(text: object, most_bytes: int) -> bytes | None:
    if not isinstance(text, str) or len(text) > most_bytes * 4 // 3 + 4:
        return None
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if len(content) <= most_bytes else None


def _is_below(path: str) -> bool:
    """Whether a path that code named stays below its folder; the workspace's own rule comes on top."""
    return not path.startswith("/") and all(part not in ("", ".", "..") for part in path.split("/"))


def _printable(text: object) -> str:
    return str(text).encode("utf-8", "backslashreplace").decode()[:400]
