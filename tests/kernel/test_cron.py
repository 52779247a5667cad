"""When schedules come next, above all in the nights on which clocks change; and the sweep that reckons them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from workers.kernel import sweeps
from workers.kernel.cron import NoSuchSchedule, next_time
from workers.kernel.errors import Refused

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def times(cron: str, zone: str, after: str, count: int) -> list[str]:
    """The next times as the zone's own clock shows them, with its offset."""
    moment, found = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC), []
    for _ in range(count):
        following = next_time(cron, zone, moment)
        assert following is not None
        assert following.tzinfo is UTC
        assert following > moment
        moment = following
        found.append(moment.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M %z"))
    return found


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        # A time that does not exist comes when the clock goes on, and the next day as ever.
        ("30 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 03:00 +0200", "03-30 02:30 +0200"]),
        ("30 2 * * *", NEW_YORK, "2027-03-13T12:00", ["03-14 03:00 -0400", "03-15 02:30 -0400"]),
        # A time that exists twice comes once, the first time.
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25 02:30 +0200", "10-26 02:30 +0100"]),
        ("30 1 * * *", NEW_YORK, "2026-10-31T12:00", ["11-01 01:30 -0400", "11-02 01:30 -0500"]),
        # An hour that passes twice is counted twice by who counts hours, and a skipped one not at all.
        ("0 * * * *", BERLIN, "2026-10-25T01:30", ["10-25 02:00 +0200", "10-25 02:00 +0100", "10-25 03:00 +0100"]),
        ("0 * * * *", BERLIN, "2026-03-29T00:30", ["03-29 01:00 +0100", "03-29 03:00 +0200"]),
        ("30 7 * * MON-FRI", BERLIN, "2026-11-27T12:00", ["11-30 07:30 +0100", "12-01 07:30 +0100"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["02-29 00:00 +0000"]),
    ],
)
def test_the_next_times_are_those_of_the_wall_clock(cron: str, zone: str, after: str, expected: list[str]) -> None:
    assert times(cron, zone, after, len(expected)) == expected


def test_in_an_hours_second_pass_what_came_in_its_first_does_not_come_again() -> None:
    # 02:45 in the second pass: 02:30 of the first is over, and the next is tomorrow's.
    second = datetime(2026, 10, 25, 2, 10, tzinfo=ZoneInfo(BERLIN), fold=1).astimezone(UTC)
    following = next_time("30 2 * * *", BERLIN, second)
    assert following == datetime(2026, 10, 26, 2, 30, tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "* * * * * *", "60 * * * *", "* * * * MON-", "é * * * *", "0 0 30 2 *"]
)
def test_what_is_no_schedule_is_said_so(cron: str) -> None:
    with pytest.raises(NoSuchSchedule):
        next_time(cron, "UTC", datetime.now(UTC))


class Verbs:
    """What a sweep calls, with two schedules due: one that this machine cannot reckon, one that somebody else moved."""

    def __init__(self) -> None:
        self.called: list[tuple[str, dict[str, Any]]] = []

    async def __call__(self, verb: str, **arguments: Any) -> Any:
        self.called.append((verb, arguments))
        due = {"org_id": "o", "due_at": "2026-11-24T10:00:00+00:00", "after": "2026-11-24T10:07:30+00:00"}
        if verb == "due_schedules":
            return [
                {**due, "id": i, "cron": "0 * * * *", "time_zone": z}
                for i, z in (("a", "Mars/Base"), ("b", "UTC"), ("c", "UTC"))
            ]
        if verb == "advance_schedule" and arguments["id"] == "b":
            raise Refused("invalid", "too late")
        return [{"run_id": "r", "turn": 1}] if verb == "sweep_jobs" else None


async def test_one_schedule_that_cannot_be_reckoned_holds_up_no_other() -> None:
    verbs = Verbs()
    assert await sweeps.sweep(verbs) == [{"run_id": "r", "turn": 1}]
    advanced = [given for verb, given in verbs.called if verb == "advance_schedule"]
    assert [given["id"] for given in advanced] == ["b", "c"]
    # From the database's clock on, not from the time that was missed.
    assert advanced[1]["next_at"] - advanced[1]["due_at"] == timedelta(hours=1)
    assert [verb for verb, _ in verbs.called][-len(sweeps.SWEEPS) :] == list(sweeps.SWEEPS)
