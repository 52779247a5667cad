"""Takes secrets out of what the other side says, in the spellings in which an answer echoes them."""

import base64
import html
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
_LEAST_ENCODED = 6


class Redaction:
    """Knows the spellings of some secrets. Longest first, so that no rest of one stays behind."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)
        self._binary = [form.encode() for form in self._forms]

    def text(self, text: str) -> str:
        """The text without them."""
        for form in self._forms:
            text = text.replace(form, REDACTED)
        return text

    def content(self, content: bytes, *, is_whole: bool = True) -> bytes:
        """Bytes without them. What was cut loses a tail in which the beginning of a secret may stand."""
        for form in self._binary:
            content = content.replace(form, REDACTED.encode())
        if not is_whole and self._binary:
            content = content[: max(0, len(content) - len(self._binary[0]) + 1)]
        return content


def _forms(secret: str) -> Iterator[str]:
    yield secret
    if len(secret) < _LEAST_ENCODED:
        return
    yield from (secret.lower(), secret.upper())
    raw = secret.encode()
    for quoted in (quote(secret, safe=""), quote(secret), quote_plus(secret)):
        yield quoted
        yield _small_percent(quoted)
    everything = "".join(f"%{byte:02X}" for byte in raw)
    yield from (everything, everything.lower(), raw.hex(), raw.hex().upper())
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


def _small_percent(quoted: str) -> str:
    pieces = quoted.split("%")
    return pieces[0] + "".join(f"%{piece[:2].lower()}{piece[2:]}" for piece in pieces[1:])
