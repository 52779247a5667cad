"""Times in the words a model uses ("last 2 h", "yesterday 14:00-15:00 Europe/Berlin", ISO 8601) as a range in UTC."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MAX_CHARACTERS = 100
MAX_DAYS = 366

_UNITS = {
    "s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "mins": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hrs": 3600, "hour": 3600, "hours": 3600,
    "d": 86_400, "day": 86_400, "days": 86_400,
    "w": 604_800, "week": 604_800, "weeks": 604_800,
}  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))
_LENGTH = re.compile(
    rf"(?:(?:in )?(?:the )?(?:last|past) )?(?P<count>\d{{1,6}}|an?|one)\s?(?P<unit>{_UNIT})(?: ago)?"
    rf"|(?:in )?(?:the )?(?:last|past) (?P<one>{_UNIT})"
)
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?"
_OFFSET = re.compile(r"(?<=\d)\s?(?P<offset>z|utc|gmt|[+-]\d{2}:?\d{2})|\s(?P<name>z|utc|gmt)")
_ZONE = re.compile(r"\s+([A-Za-z][A-Za-z_]*(?:/[A-Za-z0-9_+-]+)+)$")
_MOMENT = re.compile(
    rf"(?P<day>today|yesterday|(?:last )?(?:{'|'.join(_DAYS)})|\d{{4}}-\d{{2}}-\d{{2}})?"
    rf"(?:(?:^| |(?<=\d)t)(?P<clock>{_CLOCK}))?"
)
_SPAN = re.compile(rf"(?P<from>.*?{_CLOCK})\s*(?:-|–|to|until)\s*(?P<to>{_CLOCK})")
_BETWEEN = re.compile(r"(?:from |between )?(?P<from>.+?)(?:\s*/\s*|\s+(?:to|until|and|–|-)\s+)(?P<to>.+)")
_EXAMPLES = 'say "last 2 h", "yesterday 14:00-15:00 Europe/Berlin", "30 min ago" or "2026-11-24T10:00Z"'


class TimeUnknown(Exception):
    """The words name no time, or no range that can be searched; the sentence says what to say instead."""


@dataclass(frozen=True)
class TimeRange:
    """From `since` up to and without `until`, both aware and in UTC."""

    since: datetime
    until: datetime


def read_range(since: str, until: str | None, *, now: datetime) -> TimeRange:
    """The range that the words mean. `now` is aware. Raises TimeUnknown.

    A moment without a zone is in UTC. `since` alone may name a whole range; a day alone is the whole day.
    """
    try:
        begins, ends, zone = _stretch(since, now)
        if until is not None:
            ends = _end(until, zone, now, begins)
        ends = min(ends or now, now)
        begins, ends = begins.astimezone(UTC), ends.astimezone(UTC)
    except (OverflowError, ValueError):
        raise TimeUnknown(f"This is no time that can be searched: {_EXAMPLES}.") from None
    if begins >= ends:
        raise TimeUnknown(
            f"The range ends before it begins, or lies in the future: it is {now.astimezone(UTC):%FT%TZ} now."
        )
    if ends - begins > timedelta(days=MAX_DAYS):
        raise TimeUnknown(f"A search reaches over {MAX_DAYS} days at most: name a shorter range.")
    return TimeRange(begins, ends)


def _stretch(words: str, now: datetime) -> tuple[datetime, datetime | None, tzinfo]:
    """Where the words begin, where they end if they say so, and the zone they are in."""
    text, zone = _zoned(words)
    if span := _SPAN.fullmatch(text):
        begins = _moment(span["from"], zone, now)[0]
        ends = datetime.combine(begins.date(), _clock(span["to"]), zone)
        return begins, ends if ends > begins else ends + timedelta(days=1), zone
    if _LENGTH.fullmatch(text) is None and (pair := _BETWEEN.fullmatch(text)):
        first, first_zone = _zoned(pair["from"], zone)
        begins = _moment(first, first_zone, now)[0]
        return begins, _end(pair["to"], zone, now, begins), first_zone
    return *_moment(text, zone, now), zone


def _end(words: str, zone: tzinfo, now: datetime, begins: datetime) -> datetime:
    """Where a range ends: a day with its last moment, a clock alone on the day on which the range begins."""
    text, zone = _zoned(words, zone)
    if re.fullmatch(_CLOCK, text):
        return datetime.combine(begins.astimezone(zone).date(), _clock(text), zone)
    at, end_of_day = _moment(text, zone, now)
    return end_of_day or at


def _moment(text: str, zone: tzinfo, now: datetime) -> tuple[datetime, datetime | None]:
    """A moment; a day without a clock ends with the day."""
    if text == "now":
        return now, None
    if length := _LENGTH.fullmatch(text):
        count = int(length["count"]) if (length["count"] or "").isdecimal() else 1
        return now - timedelta(seconds=count * _UNITS[length["unit"] or length["one"]]), None
    match = _MOMENT.fullmatch(text)
    if match is None or not text:
        raise TimeUnknown(f"{_shown(text)} is no time that is known here: {_EXAMPLES}.")
    day = _day(match["day"], now.astimezone(zone).date())
    if match["clock"] is None:
        return datetime.combine(day, time(), zone), datetime.combine(day + timedelta(days=1), time(), zone)
    at = datetime.combine(day, _clock(match["clock"]), zone)
    if match["day"] is None and at > now:  # a clock alone is the last time it showed that
        at = datetime.combine(day - timedelta(days=1), _clock(match["clock"]), zone)
    return at, None


def _day(word: str | None, today: date) -> date:
    match word:
        case None | "today":
            return today
        case "yesterday":
            return today - timedelta(days=1)
        case _ if word[0].isdigit():
            return date.fromisoformat(word)
        case _:
            back = (today.weekday() - _DAYS.index(word.removeprefix("last "))) % 7
            return today - timedelta(days=back or 7)


def _clock(text: str) -> time:
    hours, _, rest = text.partition(":")
    return time.fromisoformat(f"{int(hours):02}:{rest}")


def _zoned(words: str, outer: tzinfo = UTC) -> tuple[str, tzinfo]:
    """The words without their zone, in small letters, and the zone."""
    if len(words) > MAX_CHARACTERS:
        raise TimeUnknown(f"A time has {MAX_CHARACTERS} characters at most: {_EXAMPLES}.")
    text = " ".join(words.split())
    if named := _ZONE.search(text):
        try:
            return text[: named.start()].lower(), ZoneInfo(named[1])
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise TimeUnknown(f"There is no time zone {_shown(named[1])}: name one such as Europe/Berlin.") from None
    text = text.lower()
    for offset in _OFFSET.finditer(text):
        if offset.end() != len(text):
            continue
        told, rest = offset["offset"] or offset["name"], text[: offset.start()].strip()
        if told[0] not in "+-":
            return rest, UTC
        # "2026-11-24" ends like an offset, and "14:00-15:00" is one only behind the T of ISO 8601.
        if not re.search(rf"{_CLOCK}$", rest) or (told[0] == "-" and not re.search(r"\dt\d", rest)):
            continue
        digits = told[1:].replace(":", "")
        length = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        return rest, timezone(-length if told[0] == "-" else length)
    return text, outer


def _shown(text: str) -> str:
    return repr(text[:40])
