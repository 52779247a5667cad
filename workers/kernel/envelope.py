"""Envelope encryption: a data key of its own for every sealing, wrapped by a key that never leaves its ring.

The sealed form says how to read itself (2 + n: a length, big-endian, and so many bytes):

    "PAMe" · version 1 (1 byte) · key id (2 + n) · wrapped data key (2 + n) · nonce (12) · ciphertext and tag

AES-256-GCM as in NIST SP 800-38D. Everything before the nonce and the context are additional data: another version,
key id, data key or context does not open. The data key is used once, so that no nonce can meet it twice.
"""

import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workers.kernel.errors import PamError, Unavailable

Context = Mapping[str, str]

MAGIC = b"PAMe"
VERSION = 1
KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
MAX_NAME_BYTES = 512
MAX_WRAPPED_BYTES = 8_192


class SealBroken(PamError):
    """What was sealed does not open: it was changed, or it belongs to another place or key."""


class KeyAway(Unavailable):
    """The key that wraps data keys does not answer; the message names it and says what to look at."""


@dataclass(frozen=True)
class DataKey:
    """A new data key, plain and wrapped, and the id of the key that wrapped it."""

    key_id: str
    plain: bytes
    wrapped: bytes

    def __repr__(self) -> str:
        return f"DataKey(key_id={self.key_id!r})"


class KeyRing(Protocol):
    """Keys that wrap data keys. The newest wraps; older ones still unwrap."""

    async def key_id(self) -> str:
        """The id of the key that wraps by now. Raises KeyAway."""
        ...

    async def opens(self, key_id: str) -> bool:
        """Whether this ring holds the key of that id. Raises KeyAway."""
        ...

    async def make(self, context: Context) -> DataKey:
        """A new data key, wrapped for this context. Raises KeyAway."""
        ...

    async def unwrap(self, key_id: str, wrapped: bytes, context: Context) -> bytes:
        """A data key that `make` wrapped. Raises SealBroken, or KeyAway."""
        ...


class Sealer:
    """A data key that is ready, for one text."""

    def __init__(self, *, key: DataKey, context: Context) -> None:
        self._key: DataKey | None = key
        self._context = dict(context)
        self.key_id = key.key_id

    def seal(self, plaintext: bytes) -> bytes:
        """Encrypt. Raises ValueError at the second time: a data key is used once."""
        key, self._key = self._key, None
        if key is None:
            raise ValueError("this data key was used: every text has one of its own")
        head, nonce = _head(key.key_id, key.wrapped), os.urandom(NONCE_BYTES)
        return head + nonce + AESGCM(key.plain).encrypt(nonce, plaintext, _bound(head, self._context))


class Envelope:
    """Seals bytes for one context and opens them for the same alone."""

    def __init__(
        self,
        *,
        ring: KeyRing,
        cache_seconds: float = 60,
        cache_keys: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ring = ring
        self._cache_seconds = cache_seconds
        self._cache_keys = cache_keys
        self._clock = clock
        self._unwrapped: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    def __repr__(self) -> str:
        return f"Envelope({type(self.ring).__name__})"

    async def seal(self, plaintext: bytes, *, context: Context) -> bytes:
        """Encrypt under a new data key. Raises KeyAway when the ring does not answer."""
        return (await self.sealer(context=context)).seal(plaintext)

    async def sealer(self, *, context: Context) -> "Sealer":
        """What seals one text later and needs the ring no more, for what must not be lost then. Raises KeyAway."""
        context_bytes(context)
        return Sealer(key=await self.ring.make(context), context=context)

    async def open(self, sealed: bytes, *, context: Context) -> bytes:
        """What was sealed for this context. Raises SealBroken, or KeyAway."""
        key_id, wrapped, body_at = _parts(sealed)
        head = sealed[:body_at]
        nonce = sealed[body_at : body_at + NONCE_BYTES]
        key = await self._key(key_id, wrapped, context, _bound(head, context))
        try:
            return AESGCM(key).decrypt(nonce, sealed[body_at + NONCE_BYTES :], _bound(head, context))
        except InvalidTag:
            raise SealBroken("what was sealed was changed, or belongs to another place") from None

    async def _key(self, key_id: str, wrapped: bytes, context: Context, place: bytes) -> bytes:
        """The data key, remembered for a short time so that a busy connection does not ask its ring at every use."""
        now = self._clock()
        known = self._unwrapped.get(place)
        if known is not None and now - known[0] < self._cache_seconds:
            return known[1]
        key = await self.ring.unwrap(key_id, wrapped, context)
        if len(key) != KEY_BYTES:
            raise SealBroken("the data key has not 256 bits")
        self._unwrapped[place] = (now, key)
        self._unwrapped.move_to_end(place)
        while self._unwrapped and (
            len(self._unwrapped) > self._cache_keys
            or now - next(iter(self._unwrapped.values()))[0] >= self._cache_seconds
        ):
            self._unwrapped.popitem(last=False)
        return key

    def forget(self) -> None:
        """Drop every data key that is remembered."""
        self._unwrapped.clear()


def key_id_of(sealed: bytes) -> str:
    """Under which key of the ring this was sealed, read without opening it. Raises SealBroken."""
    return _parts(sealed)[0]


def context_bytes(context: Context) -> bytes:
    """A context in the one form that is authenticated: sorted, so that the order of its names does not count."""
    if not context or not all(isinstance(value, str) for pair in context.items() for value in pair):
        raise ValueError("a context is names and values, both text, at least one")
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":")).encode()


def _head(key_id: str, wrapped: bytes) -> bytes:
    name = key_id.encode()
    if not 0 < len(name) <= MAX_NAME_BYTES or not 0 < len(wrapped) <= MAX_WRAPPED_BYTES:
        raise ValueError("the ring gave a key id or a wrapped key that does not fit the sealed form")
    return b"".join(
        (MAGIC, bytes([VERSION]), len(name).to_bytes(2, "big"), name, len(wrapped).to_bytes(2, "big"), wrapped)
    )


def _bound(head: bytes, context: Context) -> bytes:
    return len(head).to_bytes(4, "big") + head + context_bytes(context)


def _parts(sealed: bytes) -> tuple[str, bytes, int]:
    """Key id, wrapped key, and where the nonce begins. Raises SealBroken."""
    if sealed[: len(MAGIC)] != MAGIC:
        raise SealBroken("this was not sealed by PAM")
    if sealed[len(MAGIC) : len(MAGIC) + 1] != bytes([VERSION]):
        raise SealBroken("this was sealed in a form that this version of PAM does not know: upgrade the worker")
    at, parts = len(MAGIC) + 1, []
    for limit in (MAX_NAME_BYTES, MAX_WRAPPED_BYTES):
        size = int.from_bytes(sealed[at : at + 2], "big")
        part = sealed[at + 2 : at + 2 + size]
        if not 0 < size <= limit or len(part) != size:
            raise SealBroken("what was sealed is cut off or damaged")
        parts.append(part)
        at += 2 + size
    if len(sealed) < at + NONCE_BYTES + TAG_BYTES:
        raise SealBroken("what was sealed is cut off or damaged")
    try:
        return parts[0].decode(), parts[1], at
    except UnicodeDecodeError:
        raise SealBroken("what was sealed is cut off or damaged") from None
