"""A key ring in a file that only its owner reads: what the embedded stack uses where production has a KMS."""

import asyncio
import base64
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workers.kernel.envelope import KEY_BYTES, NONCE_BYTES, Context, DataKey, KeyAway, SealBroken, context_bytes

MAX_FILE_BYTES = 65_536


@dataclass(frozen=True)
class _Keys:
    current: str
    by_id: dict[str, bytes]

    def __repr__(self) -> str:
        return f"_Keys(current={self.current!r})"


class LocalKeyRing:
    """Several keys by id; the file is read again when it changes, so that a new key needs no restart."""

    def __init__(self, *, file: Path) -> None:
        self._file = file
        self._read: tuple[tuple[int, int, int], _Keys] | None = None

    def __repr__(self) -> str:
        return f"LocalKeyRing({str(self._file)!r})"

    @staticmethod
    def make_file(file: Path) -> None:
        """Make the file with a first key, unless it is there: once, however many ask at the same time."""
        if not file.exists():
            _put(file, _grown(None), is_new=True)

    @staticmethod
    def add_key(file: Path) -> str:
        """Add a key that wraps from now on; the older ones still unwrap. Answers its id. Raises KeyAway."""
        grown = _grown(_load(file))
        _put(file, grown, is_new=False)
        return grown.current

    async def key_id(self) -> str:
        """The id of the newest key."""
        return (await self._keys()).current

    async def opens(self, key_id: str) -> bool:
        """Whether the file holds this key."""
        return key_id in (await self._keys()).by_id

    async def make(self, context: Context) -> DataKey:
        """A new data key under the newest key."""
        keys = await self._keys()
        plain, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
        wrapped = AESGCM(keys.by_id[keys.current]).encrypt(nonce, plain, _bound(keys.current, context))
        return DataKey(keys.current, plain, nonce + wrapped)

    async def unwrap(self, key_id: str, wrapped: bytes, context: Context) -> bytes:
        """A data key. Raises SealBroken when the key is not in the file or the context is another."""
        key = (await self._keys()).by_id.get(key_id)
        if key is None:
            raise SealBroken(f"the key file holds no key {key_id[:80]!r}: was it replaced? Bring the earlier file back")
        try:
            return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _bound(key_id, context))
        except (InvalidTag, ValueError):
            raise SealBroken("the data key was changed, or belongs to another place") from None

    async def _keys(self) -> _Keys:
        return await asyncio.to_thread(self._fresh)

    def _fresh(self) -> _Keys:
        try:
            seen = self._file.stat(follow_symlinks=False)
        except OSError as error:
            raise KeyAway(f"the key file {self._file} cannot be read: {error.strerror}") from None
        mark = (seen.st_mtime_ns, seen.st_ino, seen.st_mode)
        if self._read is None or self._read[0] != mark:
            self._read = (mark, _load(self._file))
        return self._read[1]


def _bound(key_id: str, context: Context) -> bytes:
    return b"PAM data key under " + key_id.encode() + b"\0" + context_bytes(context)


def _grown(keys: _Keys | None) -> _Keys:
    made = f"local-{secrets.token_hex(6)}"
    return _Keys(made, {**(keys.by_id if keys else {}), made: os.urandom(KEY_BYTES)})


def _load(file: Path) -> _Keys:
    """Raises KeyAway when it is absent, damaged, or open to others than its owner."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeyAway(f"the key file {file} cannot be read: {error.strerror}") from None
    try:
        held = os.fstat(descriptor)
        if not stat.S_ISREG(held.st_mode) or held.st_mode & 0o077 or held.st_uid != os.geteuid():
            raise KeyAway(
                f"the key file {file} is not its owner's alone: chmod 600 it, and let the worker's user own it"
            )
        text = os.read(descriptor, MAX_FILE_BYTES)
    finally:
        os.close(descriptor)
    try:
        told = json.loads(text)
        by_id = {str(name): base64.b64decode(key, validate=True) for name, key in told["keys"].items()}
        current = str(told["current"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise KeyAway(f"the key file {file} is damaged: bring it back from where you keep a copy") from None
    if current not in by_id or any(len(key) != KEY_BYTES for key in by_id.values()):
        raise KeyAway(f"the key file {file} is damaged: bring it back from where you keep a copy")
    return _Keys(current, by_id)


def _put(file: Path, keys: _Keys, *, is_new: bool) -> None:
    """Write in one step: a crash leaves the old file or the new, and nobody overwrites a file that was just made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    told = {"current": keys.current, "keys": {name: base64.b64encode(key).decode() for name, key in keys.by_id.items()}}
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as handle:
            json.dump(told, handle, indent=1)
            handle.flush()
            os.fsync(handle.fileno())
        if is_new:
            try:
                os.link(half, file)
            except FileExistsError:
                return
        else:
            half.replace(file)
    finally:
        half.unlink(missing_ok=True)
