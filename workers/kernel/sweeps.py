"""What every sweep does, a worker's and the scheduled one: schedules move on, then what is due becomes queued runs."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog

from workers.kernel import cron
from workers.kernel.errors import Refused, Unavailable

SWEEPS = ("sweep_approvals", "sweep_jobs", "sweep_threads", "sweep_runs")  # each answers the runs to ring for
SCHEDULING = ("due_schedules", "advance_schedule")

Call = Callable[..., Awaitable[Any]]  # a verb of pam_worker by its name and named arguments

log = structlog.get_logger()


async def sweep(call: Call) -> list[dict[str, Any]]:
    """Sweep once, by these calls: [{"run_id", "turn"}] to ring for. Times are the database's, never this machine's.

    What breaks one part of it is logged, and holds up no other. Raises Unavailable when the database is away.
    """
    for due in await _part(call, "due_schedules"):
        try:
            following = cron.next_time(due["cron"], due["time_zone"], datetime.fromisoformat(due["after"]))
        except cron.NoSuchSchedule as error:
            # It was one when it was submitted: this machine lacks the zone. Another may have it; nothing is lost.
            log.error("schedule not reckoned", schedule_id=due["id"], reason=str(error))
            continue
        told = {"org_id": due["org_id"], "id": due["id"], "due_at": datetime.fromisoformat(due["due_at"])}
        await _part(call, "advance_schedule", **told, next_at=following)
    return [row for verb in SWEEPS for row in await _part(call, verb)]


async def _part(call: Call, verb: str, **arguments: Any) -> list[dict[str, Any]]:
    """The rows that a verb answers; none when it breaks, for the next sweep comes to it anew."""
    try:
        answer = await call(verb, **arguments)
    except Unavailable:
        raise
    except Refused as refusal:  # such as: this machine dallied, and the schedule has moved on
        log.warning("sweep refused", verb=verb, id=arguments.get("id"), reason=str(refusal))
        return []
    except Exception as error:
        log.error("sweep broke", verb=verb, id=arguments.get("id"), error=type(error).__name__)
        return []
    return answer if isinstance(answer, list) else []
