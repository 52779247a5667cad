"""Files: the workspace of an organisation, every version kept."""

import base64
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold


class FileEntry(BaseModel):
    """A file at its newest version, without its content."""

    model_config = ConfigDict(frozen=True)

    path: str
    version: int
    size_bytes: int
    is_text: bool


class FileContent(FileEntry):
    """A file with its content."""

    content: bytes


class FileLine(BaseModel):
    """A line that matched a search."""

    model_config = ConfigDict(frozen=True)

    path: str
    line: int
    text: str


async def list_all(hold: Hold) -> list[FileEntry]:
    """The workspace by path."""
    return [FileEntry.model_validate(row) for row in await hold.call("list_files")]


async def search(hold: Hold, pattern: str, paths: list[str], *, max_lines: int) -> list[FileLine]:
    """Lines of these text files that match a POSIX pattern."""
    rows = await hold.call("search_files", pattern=pattern, paths=tuple(paths), max_lines=max_lines)
    return [FileLine.model_validate(row) for row in rows]


async def read(hold: Hold, path: str) -> FileContent:
    """A file at its newest version. Raises Refused(not_found)."""
    answer = await hold.call("read_file", path=path)
    return FileContent.model_validate({**answer, "content": base64.b64decode(answer["content"])})


async def write(hold: Hold, call_id: UUID | None, path: str, content: bytes, *, expected_version: int) -> int:
    """Write the next version for a call, once, or each time without one; answers it.

    Raises Refused(conflict | invalid | too_large | limit).
    """
    answer = await hold.call(
        "write_file",
        call=call_id,
        path=path,
        content=base64.b64encode(content).decode(),
        expected_version=expected_version,
    )
    return int(answer["version"])


async def find_write(hold: Hold, call_id: UUID) -> int | None:
    """The version that this call wrote before its worker was lost, if it did."""
    answer = await hold.call("find_write", call=call_id)
    return int(answer["version"]) if answer else None
