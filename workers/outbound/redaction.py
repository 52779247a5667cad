"""Takes secrets out of what the other side says, in the spellings in which an answer echoes them."""

import base64
import html
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

REDACTED = b"[redacted]"
_LEAST_ENCODED = 6


class Redaction:
    """Knows the spellings of some secrets, whatever their capitals. Longest first, so that no rest stays behind."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spelt = {form for secret in secrets if secret for form in _forms(secret)}
        forms = {raw.lower() for form in spelt for raw in _encoded(form)}
        self._forms = sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without them."""
        return self.content(text.encode(errors="replace")).decode(errors="replace") if self._forms else text

    def header(self, value: str) -> str:
        """A header's value, which was read byte by byte, without them."""
        return self.content(value.encode("latin-1")).decode("latin-1") if self._forms else value

    def content(self, content: bytes, *, is_whole: bool = True) -> bytes:
        """Bytes without them. What was cut loses a tail in which the beginning of a secret may stand."""
        for form in self._forms:
            content = _without(content, form)
        if not is_whole and self._forms:
            content = content[: max(0, len(content) - len(self._forms[0]) + 1)]
        return content


def _without(content: bytes, form: bytes) -> bytes:
    small, kept, start = content.lower(), [], 0
    while (at := small.find(form, start)) >= 0:
        kept += [content[start:at], REDACTED]
        start = at + len(form)
    return b"".join([*kept, content[start:]]) if kept else content


def _encoded(form: str) -> Iterator[bytes]:
    yield form.encode()
    if not form.isascii() and all(ord(letter) < 256 for letter in form):
        yield form.encode("latin-1")


def _forms(secret: str) -> Iterator[str]:
    yield secret
    if len(secret) < _LEAST_ENCODED:
        return
    raw = secret.encode()
    yield from (secret.lower(), secret.upper(), raw.hex(), "".join(f"%{byte:02x}" for byte in raw))
    yield from (quote(secret, safe=""), quote(secret), quote_plus(secret))
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1].replace("/", "\\/")
    yield html.escape(secret)
    yield html.escape(secret, quote=False)
    for start in range(3):  # a secret inside longer base64 begins at one of three places
        whole = base64.b64encode(b"\0" * start + raw).decode()
        core = whole[(0, 2, 3)[start] : len(whole.rstrip("=")) - (0 if (start + len(raw)) % 3 == 0 else 1)]
        if len(core) >= _LEAST_ENCODED:
            yield core
            yield core.replace("+", "-").replace("/", "_")
