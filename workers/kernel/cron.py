"""When a schedule comes next: five fields of cron, in a time zone, through the nights on which clocks change."""

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_ZONE = re.compile(r"UTC|[A-Za-z_]{2,32}(/[A-Za-z0-9_+-]{1,32}){1,2}")
_MAX_CHARACTERS = 100


class NoSuchSchedule(ValueError):
    """The expression or the time zone is none; the message says what to give instead."""


def next_time(cron: str, time_zone: str, after: datetime) -> datetime | None:
    """The first time after this moment, in UTC; None when there is none within 50 years. Raises NoSuchSchedule.

    As Debian's cron: a time of day that a spring night skips comes when the clock goes on, and one that an autumn night
    has twice comes once, the first time; `*` in minutes or hours goes by the hours that really pass.
    """
    zone = _zone(time_zone)
    if len(cron) > _MAX_CHARACTERS or len(cron.split()) != 5 or not cron.isascii():
        raise NoSuchSchedule(
            "cron has five fields: minute, hour, day of month, month, day of week, e.g. 30 7 * * MON-FRI."
        )
    try:
        times = CronSim(cron, after.astimezone(zone))
        while (found := next(times, None)) is not None:
            moment = found.astimezone(UTC)
            if moment > after:  # an hour that an autumn night repeats would lead back to its first pass
                return moment
    except CronSimError as error:
        raise NoSuchSchedule(f"{cron} is no cron expression: {error}.") from error
    return None


def _zone(name: str) -> ZoneInfo:
    if not _ZONE.fullmatch(name):
        raise NoSuchSchedule("A time zone is UTC or a name such as Europe/Berlin.")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise NoSuchSchedule(f"There is no time zone {name}: use UTC or a name such as Europe/Berlin.") from error
