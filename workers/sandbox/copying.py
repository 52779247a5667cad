"""Files go into a sandbox before its code runs, and come back when all of it is dead: nobody can change them meanwhile.

Everything is reached from one open folder, name by name, never by following a link.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from workers.sandbox.sandbox import InputFile, LeftOut, Limits, SandboxRefused

_MAX_DEPTH = 40
_MAX_LEFT_OUT = 50
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = _READ | os.O_DIRECTORY


def copy_in(folder: int, files: tuple[InputFile, ...]) -> None:
    """Write the inputs below an open folder. Raises SandboxRefused when they do not fit."""
    for file in files:
        *parents, name = file.path.split("/")
        try:
            place = os.dup(folder)
            try:
                for parent in parents:
                    place = _entered(place, parent)
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=place)
                with open(fd, "wb") as target:
                    target.write(file.content)
            finally:
                os.close(place)
        except OSError as error:
            raise SandboxRefused(
                f"{file.path} could not be brought into the sandbox ({error.strerror}): bring fewer or smaller files."
            ) from error


def _entered(place: int, name: str) -> int:
    """The folder below, made where it is missing; the one above is closed."""
    try:
        if not name or name in (".", ".."):
            raise OSError(0, "no workspace path")
        try:
            os.mkdir(name, 0o755, dir_fd=place)
        except FileExistsError:
            return os.open(name, _FOLDER, dir_fd=place)
        return os.open(name, _FOLDER, dir_fd=place)
    finally:
        os.close(place)


@dataclass
class Harvest:
    """What comes back: new and changed regular files, and what was left where it lay."""

    changed: dict[str, bytes] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave(self, path: str, why: str) -> None:
        """Note something that does not come back, up to a number of notes."""
        if len(self.left_out) < _MAX_LEFT_OUT:
            printable = path.encode("utf-8", "backslashreplace").decode()[:400]
            self.left_out.append(LeftOut(printable, why))


def copy_out(folder: int, files: tuple[InputFile, ...], limits: Limits) -> Harvest:
    """Every regular file below the folder that was not given so: checked, counted and capped."""
    given = {file.path: file.content for file in files}
    harvest = Harvest()
    total = seen = 0
    for path, parent, name in _entries(folder, harvest):
        seen += 1
        if seen > limits.files:
            harvest.leave(path, f"more than {limits.files:,} files: the rest was not looked at")
            break
        content = _content(path, parent, name, limits, harvest)
        if content is None or given.get(path) == content:
            continue
        total += len(content)
        if len(harvest.changed) >= limits.returned_files or total > limits.returned_bytes:
            most = f"{limits.returned_files} files or {limits.returned_bytes // 1_048_576} MiB"
            harvest.leave(path, f"more than {most} come back from one call")
            break
        harvest.changed[path] = content
    return harvest


def _entries(folder: int, harvest: Harvest) -> Iterator[tuple[str, int, str]]:
    """Files below an open folder as path, their open folder, and name."""
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        parts = waiting.pop()
        prefix = "".join(f"{part}/" for part in parts)
        try:
            place = _opened(folder, parts)
        except OSError as error:
            harvest.leave(prefix, f"cannot be entered ({error.strerror})")
            continue
        try:
            with os.scandir(place) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    yield f"{prefix}{entry.name}", place, entry.name
                elif len(parts) == _MAX_DEPTH:
                    harvest.leave(f"{prefix}{entry.name}", f"deeper than {_MAX_DEPTH} folders")
                else:
                    waiting.append((*parts, entry.name))
        finally:
            os.close(place)


def _opened(folder: int, parts: tuple[str, ...]) -> int:
    """The folder below, reached step by step without following a link."""
    place = os.dup(folder)
    for part in parts:
        above = place
        try:
            place = os.open(part, _FOLDER, dir_fd=above)
        finally:
            os.close(above)
    return place


def _content(path: str, place: int, name: str, limits: Limits, harvest: Harvest) -> bytes | None:
    """A regular file's bytes, or None with a note why it stays."""
    try:
        path.encode()
        kind = os.stat(name, dir_fd=place, follow_symlinks=False)
        if not stat.S_ISREG(kind.st_mode):
            harvest.leave(path, f"it is a {_kind(kind.st_mode)}, not a regular file")
            return None
        with open(os.open(name, _READ, dir_fd=place), "rb") as file:
            if kind.st_size <= limits.returned_file_bytes and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(limits.returned_file_bytes)
        harvest.leave(path, f"it has {kind.st_size:,} bytes, and {limits.returned_file_bytes:,} is the most")
    except UnicodeEncodeError:
        harvest.leave(path, "its name is no Unicode")
    except OSError as error:
        harvest.leave(path, f"it cannot be read ({error.strerror})")
    return None


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
