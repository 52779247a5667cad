"""Bytes by digest: what a workspace held, in a place of its organisation's own, encrypted at rest.

The place of a blob is org/<org_id>/<sha256>. The same bytes of two organisations lie there twice: whether another has
them cannot be found out. Both ways are checked against the digest, so that nobody reads what was not written.
"""

import asyncio
import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Protocol
from uuid import UUID

from workers.kernel.envelope import Envelope, SealBroken
from workers.kernel.errors import PamError, Unavailable

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobBroken(PamError):
    """What lies under a digest, or is to be put there, has another: it was damaged or exchanged."""


class BlobAbsent(PamError):
    """Nothing lies under this digest in this organisation's place."""


class Blobs(Protocol):
    """Where bytes lie by digest. Putting the same again changes nothing."""

    async def put(self, org_id: UUID, sha256: str, content: bytes) -> None:
        """Put bytes under their digest, durably. Raises BlobBroken when the digest is another's, or Unavailable."""
        ...

    async def get(self, org_id: UUID, sha256: str) -> bytes:
        """The bytes of a digest. Raises BlobAbsent, BlobBroken, or Unavailable."""
        ...


def place_of(org_id: UUID, sha256: str) -> str:
    """Where a blob lies. Raises BlobBroken for what is no digest: it names nothing outside the organisation's place."""
    if not _DIGEST.fullmatch(sha256):
        raise BlobBroken("this is no sha256 digest: 64 digits of 0-9 and a-f")
    return f"org/{UUID(str(org_id))}/{sha256}"


def checked(sha256: str, content: bytes) -> bytes:
    """The content, if it has this digest. Raises BlobBroken."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise BlobBroken(f"the bytes of {sha256[:12]}… have another digest: they were damaged or exchanged")
    return content


class FolderBlobs:
    """A folder of the embedded stack. Each file is sealed for its organisation and digest, and its owner's alone."""

    def __init__(self, *, folder: Path, envelope: Envelope) -> None:
        self._folder = folder
        self._envelope = envelope

    def __repr__(self) -> str:
        return f"FolderBlobs({str(self._folder)!r})"

    async def put(self, org_id: UUID, sha256: str, content: bytes) -> None:
        """Seal and write in one step; what lies there already stays if it is whole."""
        place = place_of(org_id, sha256)
        await asyncio.to_thread(checked, sha256, content)
        try:
            if await self.get(org_id, sha256) == content:
                return
        except (BlobAbsent, BlobBroken):
            pass  # absent or damaged: written (anew) now
        sealed = await self._envelope.seal(content, context=_context(org_id, sha256))
        await asyncio.to_thread(self._write, place, sealed)

    async def get(self, org_id: UUID, sha256: str) -> bytes:
        """Read, open and check."""
        sealed = await asyncio.to_thread(self._read, place_of(org_id, sha256))
        try:
            content = await self._envelope.open(sealed, context=_context(org_id, sha256))
        except SealBroken as error:
            raise BlobBroken(f"the blob {sha256[:12]}… does not open: {error}") from error
        return await asyncio.to_thread(checked, sha256, content)

    def _read(self, place: str) -> bytes:
        try:
            descriptor = os.open(self._folder / place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BlobAbsent(f"the folder of files has no blob {place[-64:][:12]}…") from None
        except OSError as error:
            raise BlobBroken(f"the blob {place[-64:][:12]}… is no file of PAM's: {error.strerror}") from None
        with os.fdopen(descriptor, "rb") as handle:
            return handle.read()

    def _write(self, place: str, sealed: bytes) -> None:
        """Raises Unavailable, with the reason, when the disk does not take it."""
        target = self._folder / place
        half = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
        try:
            _own_folders(self._folder, target.parent)
            descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as handle:
                    handle.write(sealed)
                    handle.flush()
                    os.fsync(handle.fileno())
                os.replace(half, target)  # a link that somebody planted is replaced, not followed
            finally:
                half.unlink(missing_ok=True)
            _sync_folder(target.parent)
        except OSError as error:
            raise Unavailable(f"the folder of files takes nothing: {error.strerror}") from error


def _own_folders(root: Path, folder: Path) -> None:
    """Make the folders down to this one. Raises NotADirectoryError where a link stands instead of one."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = root
    for part in folder.relative_to(root).parts:
        place = place / part
        place.mkdir(exist_ok=True, mode=0o700)
        if place.is_symlink():
            raise NotADirectoryError(20, "a link stands where a folder should", str(place))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _context(org_id: UUID, sha256: str) -> dict[str, str]:
    return {"org": str(org_id), "sha256": sha256}
