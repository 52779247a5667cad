"""Lines as PAM's processes log them, and a folder to put them into."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from workers.logs.local_store import LocalLogs
from workers.logs.moments import TimeRange
from workers.logs.query import LogQuery, Page

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINE, THEIRS = uuid4(), uuid4()


def line(event: str, *, org: UUID | None = MINE, minutes: float = 0, level: str = "info", **fields: Any) -> str:
    """One line, so many minutes after noon; no organisation: as a process says it of itself."""
    told = {**fields, "event": event, "level": level, "process": "worker"}
    if org:
        told["org_id"] = str(org)
    at = NOON + timedelta(minutes=minutes)
    return json.dumps({**told, "timestamp": at.isoformat().replace("+00:00", "Z")})


def query(**other: Any) -> LogQuery:
    """A search over the day for my organisation."""
    day = TimeRange(NOON.replace(hour=0), NOON + timedelta(hours=12))
    return LogQuery(**{"org_id": MINE, "range": day, **other})


class Journal:
    """A folder of log files with a reader."""

    def __init__(self, folder: Path, **bounds: Any) -> None:
        self.folder = folder
        self.store = LocalLogs(folder=folder, **bounds)

    def write(self, *lines: str, name: str = "worker-1.log") -> None:
        """Append lines to a file."""
        with (self.folder / name).open("a", newline="") as file:
            file.writelines(f"{text}\n" for text in lines)

    async def find(self, **other: Any) -> Page:
        """Search it for my organisation."""
        return await self.store.find(query(**other))

    async def events(self, **other: Any) -> list[str]:
        """What the found lines say."""
        return events(await self.find(**other))


def events(page: Page) -> list[str]:
    """What the lines of a page say."""
    return [str(found.fields.get("event")) for found in page.lines]
