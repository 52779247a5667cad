"""Files: the workspace of an organisation, every version kept. Where bytes lie: workers/kernel/workspace.py."""

import base64
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict, field_validator

from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WorkerGateway


class FileEntry(NamedTuple):
    """A file at its newest version, without its content: light, for ten thousand of them are listed at once."""

    path: str
    size_bytes: int
    version: int
    is_text: bool


class FileRow(BaseModel):
    """A version as its row has it. `content` is None when the bytes lie in object storage alone."""

    model_config = ConfigDict(frozen=True)

    path: str
    size_bytes: int
    version: int
    newest: int
    is_text: bool
    sha256: str
    content: bytes | None

    @field_validator("content", mode="before")
    @classmethod
    def _decoded(cls, value: Any) -> Any:
        return base64.b64decode(value) if isinstance(value, str) else value


class FileLine(BaseModel):
    """A line that matched a search."""

    model_config = ConfigDict(frozen=True)

    path: str
    line: int
    text: str


class Unstored(BaseModel):
    """A version whose bytes are in its row alone so far."""

    model_config = ConfigDict(frozen=True)

    org_id: UUID
    file_id: UUID
    version: int
    sha256: str
    content: bytes

    @field_validator("content", mode="before")
    @classmethod
    def _decoded(cls, value: Any) -> Any:
        return base64.b64decode(value) if isinstance(value, str) else value


async def list_all(hold: Hold, *, beginning: str = "", ending: str = "") -> list[FileEntry]:
    """The workspace by path, or what of it begins and ends so."""
    rows = await hold.call("list_files", beginning=beginning, ending=ending)
    return [FileEntry(*row) for row in rows]


async def search(
    hold: Hold, pattern: str, paths: list[str] | None, *, max_lines: int, needle: str = ""
) -> list[FileLine]:
    """Lines of these text files (None: of all) that match a POSIX pattern. needle: what every match must hold."""
    given = tuple(paths) if paths is not None else None
    rows = await hold.call("search_files", pattern=pattern, paths=given, max_lines=max_lines, needle=needle)
    return [FileLine.model_validate(row) for row in rows]


async def read(hold: Hold, path: str, *, version: int | None = None) -> FileRow:
    """A file's row at its newest or another version. Raises Refused(not_found)."""
    return FileRow.model_validate(await hold.call("read_file", path=path, version=version))


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


async def list_unstored(gateway: WorkerGateway) -> list[Unstored]:
    """Versions to be stored, of any organisation; nobody else gets them for a minute."""
    return [Unstored.model_validate(row) for row in await gateway.call("list_unstored")]


async def mark_stored(gateway: WorkerGateway, one: Unstored) -> None:
    """Say that object storage has it."""
    await gateway.call("mark_stored", org_id=one.org_id, file_id=one.file_id, version=one.version, sha256=one.sha256)
