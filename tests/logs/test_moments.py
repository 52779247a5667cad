"""Times in words: a table of what models say, and what holds for every text."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.logs.moments import MAX_DAYS, TimeRange, TimeUnknown, read_range

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)  # a Tuesday

# What is said (since, or since and until) and the range in UTC.
TABLE = [
    ("last 2 h", "24T10:30 24T12:30"),
    ("last 2h", "24T10:30 24T12:30"),
    ("the last 2 hours", "24T10:30 24T12:30"),
    ("2 h ago", "24T10:30 24T12:30"),
    ("2h", "24T10:30 24T12:30"),
    ("Last  90  Minutes", "24T11:00 24T12:30"),
    ("past 15 min", "24T12:15 24T12:30"),
    ("in the last 3 days", "21T12:30 24T12:30"),
    ("last hour", "24T11:30 24T12:30"),
    ("an hour ago", "24T11:30 24T12:30"),
    ("one week ago", "17T12:30 24T12:30"),
    ("30 s ago", "24T12:29:30 24T12:30"),
    ("today", "24T00:00 24T12:30"),
    ("today 09:00", "24T09:00 24T12:30"),
    ("today 09:00-10:00", "24T09:00 24T10:00"),
    ("yesterday", "23T00:00 24T00:00"),
    ("yesterday Europe/Berlin", "22T23:00 23T23:00"),
    ("yesterday 14:00", "23T14:00 24T12:30"),
    ("yesterday 9:05", "23T09:05 24T12:30"),
    ("yesterday 14:00-15:00 Europe/Berlin", "23T13:00 23T14:00"),
    ("yesterday 14:00 to 15:00 UTC", "23T14:00 23T15:00"),
    ("yesterday 23:00-01:00", "23T23:00 24T01:00"),
    ("14:00", "23T14:00 24T12:30"),
    ("09:15", "24T09:15 24T12:30"),
    ("20:00-21:00", "23T20:00 23T21:00"),
    ("between 09:00 and 10:00", "24T09:00 24T10:00"),
    ("monday", "23T00:00 24T00:00"),
    ("tuesday", "17T00:00 18T00:00"),
    ("last friday 10:00", "20T10:00 24T12:30"),
    ("yesterday to now", "23T00:00 24T12:30"),
    ("2 h ago to 1 h ago", "24T10:30 24T11:30"),
    ("2026-11-20", "20T00:00 21T00:00"),
    ("2026-11-20 to 2026-11-22", "20T00:00 23T00:00"),
    ("2026-11-20T10:00Z", "20T10:00 24T12:30"),
    ("2026-11-20 10:00:30.5", "20T10:00:30.500000 24T12:30"),
    ("2026-11-20 10:00+02:00", "20T08:00 24T12:30"),
    ("2026-11-20T10:00-02:00", "20T12:00 24T12:30"),
    ("2026-11-20 10:00 America/New_York", "20T15:00 24T12:30"),
    ("2026-11-20T10:00Z/2026-11-21T10:00Z", "20T10:00 21T10:00"),
    ("2026-11-20T10:00:00+01:00/2026-11-20T11:00:00+01:00", "20T09:00 20T10:00"),
    (("2026-11-20", "2026-11-22"), "20T00:00 23T00:00"),
    (("3 h ago", "1 h ago"), "24T09:30 24T11:30"),
    (("yesterday 14:00 Europe/Berlin", "15:00"), "23T13:00 23T14:00"),
    (("yesterday", "now"), "23T00:00 24T12:30"),
    (("2 h ago", "tomorrow 10:00"), None),
]
NO_TIMES = [
    "", " ", "fish", "hour", "h", "tomorrow", "now", "last 0 h", "-2 h", "last two h", "2 fortnights", "25:00", "12:60",
    "2026-13-01", "2026-02-30", "2027-01-01", "9999-12-31", "0000-01-01", "last 999999 weeks", "10 years ago",
    "last 99999999999999999999 days", "2026-11-24 10:00 Europe/Atlantis", "2026-11-24 10:00 ../../etc/passwd",
    "2026-11-24 10:00 America", "2026-11-24T10:00Z or 1=1", "2 h ago | limit 1", "x" * 101, "2026-11-20/fish",
    "2 h\n| filter 1", "last" + " " * 100 + "2 h", "2025-01-01 to now",
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), TABLE)
def test_words_mean_a_range(words: str | tuple[str, str], expected: str | None) -> None:
    since, until = words if isinstance(words, tuple) else (words, None)
    if expected is None:
        with pytest.raises(TimeUnknown):
            read_range(since, until, now=NOW)
        return
    begins, ends = (datetime.fromisoformat(f"2026-11-{text}").replace(tzinfo=UTC) for text in expected.split())
    assert read_range(since, until, now=NOW) == TimeRange(begins, ends)


@pytest.mark.parametrize("words", NO_TIMES)
def test_what_is_no_time_is_told_with_examples_of_times(words: str) -> None:
    with pytest.raises(TimeUnknown) as told:
        read_range(words, None, now=NOW)
    assert str(told.value).endswith(".")
    assert len(str(told.value)) < 250


def test_a_clock_that_was_put_forward_is_read_as_before_the_change() -> None:
    now = datetime(2026, 3, 29, 12, tzinfo=UTC)
    assert read_range("today 02:30 Europe/Berlin", None, now=now).since.hour == 1


def test_an_hour_that_came_twice_is_the_first() -> None:
    now = datetime(2026, 10, 25, 12, tzinfo=UTC)
    assert read_range("today 02:30 Europe/Berlin", None, now=now).since.hour == 0


moments = st.datetimes(datetime(2001, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(words=st.text(max_size=120), until=st.none() | st.text(max_size=40), now=moments)
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_bounded_range_or_refused(words: str, until: str | None, now: datetime) -> None:
    try:
        found = read_range(words, until, now=now)
    except TimeUnknown:
        return
    assert found.since < found.until <= now
    assert found.until - found.since <= timedelta(days=MAX_DAYS)


@given(
    parts=st.lists(
        st.sampled_from(
            [
                "last",
                "past",
                "2",
                "17",
                "h",
                "min",
                "days",
                "ago",
                "today",
                "yesterday",
                "monday",
                "14:00",
                "9:30",
                "-",
                "to",
                "/",
                "and",
                "2026-11-20",
                "T",
                "Z",
                "+02:00",
                "utc",
                "now",
                "Europe/Berlin",
                "between",
                "from",
                "2026-11-20T10:00",
            ]
        ),
        max_size=7,
    ),
    glue=st.sampled_from(["", " "]),
)
@settings(max_examples=500, deadline=None)
def test_any_row_of_known_words_is_a_bounded_range_or_refused(parts: list[str], glue: str) -> None:
    try:
        found = read_range(glue.join(parts), None, now=NOW)
    except TimeUnknown:
        return
    assert found.since < found.until <= NOW
    assert found.since.tzinfo is UTC


@given(seconds=st.integers(1, 366 * 86_400), now=moments)
@settings(max_examples=200, deadline=None)
def test_a_length_reaches_back_exactly_that_long(seconds: int, now: datetime) -> None:
    if seconds < 1_000_000:
        found = read_range(f"last {seconds} s", None, now=now)
        assert found.until - found.since == timedelta(seconds=seconds)
    hours = seconds // 3600 + 1
    if hours <= MAX_DAYS * 24:
        assert read_range(f"{hours} hours ago", None, now=now).since == now - timedelta(hours=hours)


@given(
    at=st.datetimes(datetime(2026, 1, 1), datetime(2026, 11, 23)),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Auckland", "UTC"]),
)
@settings(max_examples=200, deadline=None)
def test_iso_times_are_read_in_their_zone(at: datetime, zone: str) -> None:
    text = at.isoformat(sep=" ", timespec="microseconds")
    named = f"{text} {zone}" if "/" in zone else f"{text}Z"
    assert read_range(named, None, now=NOW).since == at.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
