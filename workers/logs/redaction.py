"""What a log line must not show even if somebody logged it: keys, tokens, passwords, connection strings."""

import re
from typing import Any

REDACTED = "[redacted]"

# Every repetition is over one class of letters: none of them can be made to run for ever.
_NAMES = re.compile(
    r"pass(?:word|wd|phrase)|secret|token(?!s\b|_count)|api[-_]?key|authorization|cookie|credential|private[-_]?key"
    r"|access[-_]?key|^dsn$|connection[-_]?string|signature|^jwt$|^bearer$|otp$",
    re.IGNORECASE,
)
_COUNTS = re.compile(r"tokens$|token_count$|_tokens?_(?:used|left)$", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"((?:password|passwd|passphrase|secret|token|api[-_]?key|access[-_]?key|apikey|credential|pwd)"
    r"""["']?\s{0,3}[=:]\s{0,3}["']?)([^\s"',;&)}\]]{3,})""",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,20000}(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
            r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*)?",
            r"\bsk-[A-Za-z0-9_-]{8,}",
            r"\b[rsp]k_(?:live|test)_[A-Za-z0-9]{8,}",
            r"\bsb[a-z]?_(?:secret_|publishable_)?[A-Za-z0-9_-]{16,}",
            r"\bwhsec_[A-Za-z0-9+/=]{8,}",
            r"\bgh[a-z]_[A-Za-z0-9]{16,}",
            r"\bgithub_pat_[A-Za-z0-9_]{16,}",
            r"\bglpat-[A-Za-z0-9_-]{12,}",
            r"\bxox[a-z]-[A-Za-z0-9-]{8,}",
            r"\bnpm_[A-Za-z0-9]{20,}",
            r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}",
            r"\bAIza[A-Za-z0-9_-]{20,}",
            r"\bya29\.[A-Za-z0-9_-]{10,}",
            r"\bpam_[a-z]{0,10}_?[A-Za-z0-9]{32,}",
        )
    )
)
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/@\"']{1,300}@", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic|digest)(\s{1,3})(?=\S*[0-9._=+/-])[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)


def redacted(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields without secrets: by the name that they stand under, and by what they look like."""
    return {redacted_text(str(name)): _value(str(name), value) for name, value in fields.items()}


def redacted_text(text: str) -> str:
    """A text without what looks like a secret."""
    text = _USERINFO.sub(rf"\1{REDACTED}@", text)
    text = _BEARER.sub(rf"\1\2{REDACTED}", text)
    text = _SHAPES.sub(REDACTED, text)
    return _ASSIGNED.sub(rf"\1{REDACTED}", text)


def _value(name: str, value: Any) -> Any:
    is_secret = bool(_NAMES.search(name)) and not _COUNTS.search(name)
    match value:
        case str():
            return REDACTED if is_secret and value else redacted_text(value)
        case dict():
            return {
                redacted_text(str(key)): _value(name if is_secret else str(key), inner) for key, inner in value.items()
            }
        case list():
            return [_value(name, inner) for inner in value]
        case bool() | None:
            return value
        case _:
            return REDACTED if is_secret else value
