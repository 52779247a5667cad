"""What every sweep does, a worker's and the scheduled one: schedules move on, then what is due becomes queued runs."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog

from workers.kernel import cron
from workers.kernel.errors import Refused

SWEEPS = ("sweep_approvals", "sweep_jobs", "sweep_runs")  # each answers the runs to ring for
SCHEDULING = ("due_schedules", "advance_schedule")

Call = Callable[..., Awaitable[Any]]  # a verb of pam_worker by its name and named arguments

log = structlog.get_logger()


async def sweep(call: Call) -> list[dict[str, Any]]:
    """Sweep once, by these calls: [{"run_id", "turn"}] to ring for. Times are the database's, never this machine's."""
    for due in await call("due_schedules") or []:
        try:
            following = cron.next_time(due["cron"], due["time_zone"], datetime.fromisoformat(due["after"]))
        except cron.NoSuchSchedule as error:
            # It was one when it was submitted: this machine lacks the zone. Another may have it; nothing is lost.
            log.error("schedule not reckoned", schedule_id=due["id"], reason=str(error))
            continue
        try:
            await call(
                "advance_schedule", org_id=due["org_id"], id=due["id"],
                due_at=datetime.fromisoformat(due["due_at"]), next_at=following,
            )  # fmt: skip
        except Refused as refusal:  # this machine dallied: the next sweep reckons anew, and the others' go on
            log.warning("schedule not advanced", schedule_id=due["id"], reason=str(refusal))
    return [row for verb in SWEEPS for row in await call(verb) or []]
