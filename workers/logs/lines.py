"""A line of a log as it is searched and shown: its time, level and fields, with every secret already taken out."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from workers.logs.redaction import redacted

MAX_LINE_CHARACTERS = 100_000
_MAX_DEPTH = 20

LEVELS = ("debug", "info", "warning", "error", "critical")
_LEVEL_FIELDS = ("level", "severity", "log_level", "levelname", "error_severity")
_LEVEL_WORDS = {
    "trace": "debug", "debug1": "debug", "log": "info", "notice": "info", "information": "info", "warn": "warning",
    "err": "error", "fatal": "critical", "panic": "critical", "emergency": "critical", "alert": "critical",
}  # fmt: skip
_TIME_FIELDS = ("timestamp", "@timestamp", "time", "ts")


@dataclass(frozen=True)
class LogLine:
    """One line: aware UTC time, a level of LEVELS or None, the fields, and the JSON that is searched and shown."""

    at: datetime
    level: str | None
    fields: dict[str, Any]
    text: str


def read_line(raw: str, *, at: datetime | None = None) -> LogLine | None:
    """A line of JSON with a time of its own, or any line with the time that the store gives it; else None.

    Secrets are taken out before anybody can search for them: what is not shown cannot be guessed letter by letter.
    """
    if len(raw) > MAX_LINE_CHARACTERS:
        return None
    try:
        fields = json.loads(raw, parse_constant=str) if raw.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        if at is None:
            return None
        fields = {"event": raw.rstrip("\r\n")}
    return of_fields(fields, at=at)


def of_fields(fields: dict[str, Any], *, at: datetime | None = None) -> LogLine | None:
    """A line of fields; without a time of the store's it must carry its own."""
    if _is_deep(fields, _MAX_DEPTH):
        return None
    clean = redacted(fields)
    moment = at or next((found for name in _TIME_FIELDS if (found := moment_of(clean.get(name)))), None)
    if moment is None:
        return None
    return LogLine(moment, _level(clean), clean, json.dumps(clean, ensure_ascii=False, default=str))


def moment_of(value: Any) -> datetime | None:
    """A time as logs write it: ISO 8601, or seconds, milliseconds or microseconds since 1970."""
    try:
        if isinstance(value, str):
            at = datetime.fromisoformat(value.replace(" UTC", "Z"))
            return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            scale = 1 if value < 1e11 else 1_000 if value < 1e14 else 1_000_000
            return datetime.fromtimestamp(value / scale, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def _level(fields: dict[str, Any]) -> str | None:
    for name in _LEVEL_FIELDS:
        if isinstance(told := fields.get(name), str):
            word = told.lower()
            word = _LEVEL_WORDS.get(word, word)
            if word in LEVELS:
                return word
    return None


def _is_deep(node: Any, levels: int) -> bool:
    if not isinstance(node, (dict, list)):
        return False
    return levels == 0 or any(
        _is_deep(child, levels - 1) for child in (node.values() if isinstance(node, dict) else node)
    )
