"""The workspace with its bytes: the newest small ones from their rows, everything else from object storage."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import structlog

from workers.kernel.blobs import BlobAbsent, BlobBroken, Blobs
from workers.kernel.errors import Unavailable
from workers.kernel.ledger import files
from workers.kernel.ledger.files import Unstored
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WorkerGateway

AT_ONCE = 8

log = structlog.get_logger()


@dataclass(frozen=True)
class FileContent:
    """A version of a file with its content. `newest`: the version that the file is at."""

    path: str
    size_bytes: int
    version: int
    newest: int
    is_text: bool
    content: bytes


class Workspace:
    """Reads files wherever they lie, and takes what is written to object storage."""

    def __init__(self, *, blobs: Blobs) -> None:
        self._blobs = blobs

    async def read(self, hold: Hold, org_id: UUID, path: str, *, version: int | None = None) -> FileContent:
        """A file at its newest or another version. Raises Refused(not_found), or Unavailable."""
        row = await files.read(hold, path, version=version)
        content = row.content
        if content is None:
            try:
                content = await self._blobs.get(org_id, row.sha256)
            except (BlobAbsent, BlobBroken) as error:
                log.error("file lost", org_id=str(org_id), sha256=row.sha256, reason=str(error))
                raise Unavailable(f"{path}, version {row.version}, cannot be read from object storage") from error
        # The index speaks of the newest version; an earlier one may have been another kind.
        is_text = row.is_text if row.version == row.newest else _is_text(content)
        return FileContent(row.path, row.size_bytes, row.version, row.newest, is_text, content)

    async def store(self, gateway: WorkerGateway) -> int:
        """Take a batch of new versions to object storage; answers how many there were. Raises Unavailable.

        A version is marked when the storage has it durably, and not before: a worker that is lost on the way leaves
        it in its row, for another to take a minute later.
        """
        batch = await files.list_unstored(gateway)
        turns = asyncio.Semaphore(AT_ONCE)

        async def stored(one: Unstored) -> None:
            async with turns:
                try:
                    await self._blobs.put(one.org_id, one.sha256, one.content)
                except BlobBroken as error:  # the others go on
                    log.error("version not stored", org_id=str(one.org_id), sha256=one.sha256, reason=str(error))
                    return
                await files.mark_stored(gateway, one)

        ended = await asyncio.gather(*(stored(one) for one in batch), return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome
        return len(batch)


def _is_text(content: bytes) -> bool:
    """As pam_private.write_file judges: UTF-8 without NUL."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content
