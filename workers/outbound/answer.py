"""An answer, and how its body is read: unpacked piece by piece, stopped at a cap, bombs refused early."""

import zlib
from dataclasses import dataclass, replace

from workers.outbound.failures import OutboundRefused
from workers.outbound.redaction import Redaction
from workers.outbound.target import Target

MAX_HEADER_CHARACTERS = 1_000
ENCODINGS = "gzip, deflate"
_BOMB_BYTES = 262_144
_BOMB_RATIO = 100


@dataclass(frozen=True)
class Answer:
    """What came back. `note`: what PAM has to say of it, such as a redirect that it did not follow.

    `is_redirected`: another request came before this one, and what it did there is done.
    """

    target: Target
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""
    is_whole: bool = True
    note: str = ""
    attempts: int = 1
    seconds: float = 0
    is_redirected: bool = False

    def header(self, name: str) -> str | None:
        """The value of a header that is there once; None when it is absent or contradicts itself."""
        values = {value for key, value in self.headers if key == name}
        return values.pop() if len(values) == 1 else None

    def redacted(self, redaction: Redaction) -> "Answer":
        """The same without secrets, its target too: a redirect may have carried them into a path."""
        return replace(
            self,
            target=replace(self.target, path=redaction.text(self.target.path), query=redaction.text(self.target.query)),
            headers=tuple((name, redaction.header(value)) for name, value in self.headers),
            body=redaction.content(self.body, is_whole=self.is_whole),
            note=redaction.text(self.note),
        )


def plain_headers(raw: list[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Headers as text, names in small letters."""
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw)


class Body:
    """A body that grows until its cap. Raises OutboundRefused when it unpacks to far more than was sent."""

    def __init__(self, *, encoding: str | None, max_bytes: int) -> None:
        self._unpacker = _unpacker(encoding)
        self._max_bytes = max_bytes
        self._sent_bytes = 0
        self._parts: list[bytes] = []
        self._kept_bytes = 0
        self.is_full = False

    @property
    def content(self) -> bytes:
        """What was kept so far."""
        return b"".join(self._parts)

    def add(self, chunk: bytes) -> None:
        """Take the next bytes from the wire."""
        self._sent_bytes += len(chunk)
        room = self._max_bytes - self._kept_bytes
        piece = chunk[: room + 1] if self._unpacker is None else self._unpacker.unpack(chunk, room + 1)
        if self._kept_bytes + len(piece) > max(_BOMB_BYTES, self._sent_bytes * _BOMB_RATIO):
            raise OutboundRefused(
                "size", "The body unpacks to more than a hundred times what was sent: it is not read."
            )
        self._parts.append(piece[:room])
        self._kept_bytes += min(len(piece), room)
        # Packed bytes that unpack to nothing must end as well.
        self.is_full = len(piece) > room or self._sent_bytes > self._max_bytes


def _unpacker(encoding: str | None) -> "_Unpacker | None":
    match (encoding or "identity").strip().lower():
        case "identity":
            return None
        case "gzip" | "x-gzip" | "deflate":
            return _Unpacker()
        case _:
            raise OutboundRefused("encoding", "The body is packed in a way that was not asked for: it is not read.")


class _Unpacker:
    """gzip and deflate, of which servers send two kinds: told apart by the first byte."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=47)
        self._is_begun = False

    def unpack(self, chunk: bytes, max_bytes: int) -> bytes:
        """At most so many bytes of what this chunk unpacks to."""
        if not chunk:
            return b""
        if not self._is_begun and chunk[0] & 0x0F != 8 and chunk[0] != 0x1F:
            self._stream = zlib.decompressobj(wbits=-15)
        self._is_begun = True
        try:
            return self._stream.decompress(chunk, max_bytes)
        except zlib.error:
            raise OutboundRefused("encoding", "The body is not packed as its header says: it is not read.") from None
