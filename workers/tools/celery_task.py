"""Submit background work, now, at a time or by cron; watch, list, cancel and retry it."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Literal, Self
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from workers.kernel import cron
from workers.kernel.errors import Refused
from workers.kernel.ledger import jobs
from workers.kernel.ledger.jobs import JobStatus, Listed, Submitted
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

_LOOK_SECONDS = 0.5
_MAX_WATCH_SECONDS = 20
# Which fields belong to which action: (needed, allowed besides).
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "submit": ({"task", "arguments"}, {"name", "at", "in_seconds", "time_zone", "max_attempts"}),
    "schedule": ({"task", "arguments", "name", "cron", "time_zone"}, {"max_attempts"}),
    "watch": ({"job_id"}, {"wait_seconds"}),
    "cancel": ({"job_id"}, set()),
    "retry": ({"job_id"}, set()),
    "list": (set(), {"status"}),
}


class Args(Arguments):
    """One action with what it needs."""

    action: Literal["submit", "schedule", "watch", "cancel", "list", "retry"]
    task: str | None = Field(default=None, description="submit, schedule: `agent`, or the name of one of your tools")
    arguments: dict[str, Any] | None = Field(
        default=None, description="submit, schedule: for `agent` {message}; for a tool the arguments of that tool"
    )
    name: str | None = Field(default=None, min_length=1, max_length=80, description="a short name, for people's lists")
    at: datetime | None = Field(
        default=None, description="submit: when, ISO 8601, within a year; with an offset, or in time_zone"
    )
    in_seconds: int | None = Field(default=None, ge=0, le=31_536_000, description="submit: how long from now, instead")
    cron: str | None = Field(default=None, description="schedule: minute hour day month weekday, e.g. 30 7 * * MON-FRI")
    time_zone: str | None = Field(default=None, description="e.g. Europe/Berlin, or UTC")
    max_attempts: int | None = Field(
        default=None, ge=1, le=5, description="how often a failure without any effect is tried; 1 if left out"
    )
    job_id: UUID | None = Field(default=None, description="watch, cancel, retry: the job (cancel: or the schedule)")
    wait_seconds: int | None = Field(
        default=None, ge=0, le=_MAX_WATCH_SECONDS, description="watch: how long to wait for the end; 0 only looks"
    )
    status: JobStatus | None = Field(default=None, description="list: only jobs with this status")

    @model_validator(mode="after")
    def _fits_its_action(self) -> Self:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None} - {"action"}
        needed, allowed = _FIELDS[self.action]
        if missing := needed - given:
            raise PydanticCustomError("missing", f"{self.action} needs {', '.join(sorted(missing))}")
        if more := given - needed - allowed:
            raise PydanticCustomError("foreign", f"{self.action} takes no {', '.join(sorted(more))}")
        if self.at and self.in_seconds is not None:
            raise PydanticCustomError("twice", "submit takes at or in_seconds, not both")
        if self.at and self.at.tzinfo is None and not self.time_zone:
            raise PydanticCustomError("zone", "at needs an offset (…+02:00) or a time_zone")
        return self


def effect_of(args: Args) -> CallEffect:
    """Looking reads; everything else writes. What a job does is judged when it runs."""
    return CallEffect.READ if args.action in ("watch", "list") else CallEffect.WRITE


async def run(args: Args, context: ToolContext) -> ToolResult:
    """What became of it."""
    match args.action:
        case "submit" | "schedule":
            return await _submit(args, context)
        case "watch":
            return await _watch(args, context)
        case "list":
            return _listed(await jobs.list_newest(context.hold, status=args.status))
        case "cancel":
            stopped = await jobs.cancel(context.hold, _job_id(args))
            what = "schedule" if stopped.schedule_id else "job"
            ends = "is cancelled" if stopped.status is JobStatus.CANCELLED else "stops at its run's next step"
            return ToolResult(f"The {what} {args.job_id} {ends}.")
        case "retry":
            await jobs.retry(context.hold, context.call_id, _job_id(args))
            return ToolResult(f"The job {args.job_id} is due again now.")


async def _submit(args: Args, context: ToolContext) -> ToolResult:
    arguments = args.arguments or {}
    _check(str(args.task), arguments, context)
    job: dict[str, Any] = {"task": args.task, "arguments": arguments, "max_attempts": args.max_attempts or 1}
    job |= {"name": args.name} if args.name else {}
    try:
        if args.cron:
            now = datetime.now(UTC)
            first = cron.next_time(args.cron, args.time_zone or "", now)
            if first is None:
                raise ToolRetry(f"{args.cron} names no time that ever comes.")
            job |= {"cron": args.cron, "time_zone": args.time_zone, "due_at": first.isoformat()}
        elif args.at:
            at = args.at if args.at.tzinfo else args.at.replace(tzinfo=_zone(args.time_zone or ""))
            job |= {"due_at": at.isoformat()}
        else:
            job |= {"in_seconds": args.in_seconds or 0}
    except cron.NoSuchSchedule as error:
        raise ToolRetry(str(error)) from error
    try:
        return _told(args, await jobs.submit(context.hold, context.call_id, job))
    except Refused as refusal:
        if refusal.code in ("invalid", "too_large"):
            raise ToolRetry(str(refusal)) from refusal
        raise


def _zone(name: str) -> ZoneInfo:
    cron.next_time("0 0 * * *", name, datetime.now(UTC))  # says what is wrong with the name
    return ZoneInfo(name)


def _check(task: str, arguments: dict[str, Any], context: ToolContext) -> None:
    """Whether the task's arguments would be taken when it runs: said now, while the model can still mend them."""
    if task == "agent":
        return
    known = context.services.known.get(task)
    if known is None:
        have = ", ".join(("agent", *context.services.known))
        raise ToolRefused(f"There is no task {task[:63]!r}. There are: {have}.")
    try:
        known.model_validate(arguments)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, f['loc'])) or 'arguments'}: {f['msg']}" for f in error.errors(include_url=False)[:8]
        )
        raise ToolRetry(f"The arguments do not fit {task}: {faults}.") from error


def _told(args: Args, submitted: Submitted) -> ToolResult:
    note = {"task": args.task, **submitted.model_dump(mode="json", exclude_none=True, exclude={"is_replay"})}
    if submitted.schedule_id:
        text = (
            f"Schedule {submitted.schedule_id}: {args.task} at {args.cron} in {args.time_zone}, first "
            f"{_at(submitted.next_at)}, until {_at(submitted.ends_at)}. A time that is missed is made up for once."
        )
        return ToolResult(text, notes={"pam.schedule_submitted": note})
    text = f"Job {submitted.job_id}: {args.task}, due {_at(submitted.due_at)}. Watch it by its id."
    return ToolResult(text, notes={"pam.job_submitted": note})


async def _watch(args: Args, context: ToolContext) -> ToolResult:
    """The job as it is when it has ended, or when the time to wait is over."""
    clock = asyncio.get_running_loop().time
    until = clock() + (args.wait_seconds or 0)
    job = await jobs.read(context.hold, _job_id(args))
    while not job.is_ended and clock() < until:
        await asyncio.sleep(min(_LOOK_SECONDS, max(until - clock(), 0)))
        job = await jobs.read(context.hold, job.job_id)
    told = [f"Job {job.job_id} ({job.task}) is {job.status.value}, attempt {job.attempt} of {job.max_attempts}."]
    told += ["Its run waits for a person's word."] if job.is_waiting else []
    told += [f"Due {_at(job.due_at)}."] if job.status is JobStatus.SCHEDULED else []
    told += [f"Its run is {job.run_id}."] if job.run_id else []
    told += [f"Reason: {job.reason}."] if job.reason else []
    if job.result is None:
        return ToolResult("\n".join(told))
    origin = f"job {job.job_id}: {job.origin}"[:500] if job.origin else None
    return ToolResult("\n".join([*told, "Result:", job.result]), origin=origin)


def _listed(listed: Listed) -> ToolResult:
    lines = [f"{len(listed.jobs)} jobs, newest first; {len(listed.schedules)} active schedules"]
    lines += [
        f"job {j.job_id}  {j.status.value}  {j.task}  due {_at(j.due_at)}  attempt {j.attempt}  {j.name or ''}".rstrip()
        for j in listed.jobs
    ]
    lines += [
        f"schedule {s.schedule_id}  {s.task}  {s.cron} {s.time_zone}  next {_at(s.next_at)}  skipped {s.skipped}  "
        f"{s.name}"
        for s in listed.schedules
    ]
    is_foreign = any(job.is_foreign for job in listed.jobs) or any(one.is_foreign for one in listed.schedules)
    return ToolResult("\n".join(lines), origin="names that others gave their jobs" if is_foreign else None)


def _job_id(args: Args) -> UUID:
    assert args.job_id is not None
    return args.job_id


def _at(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if moment else "never"


TOOL = Tool(
    name="celery_task",
    description="Background work. submit: let the agent work on a message (task `agent`) or let one of your tools run "
    "(task: its name), now, at a time, or in some seconds. schedule: the same again and again, by cron in a time zone. "
    "watch: how a job stands, and its result. list, cancel, retry. Use it for what need not be done before you answer. "
    "A job runs as the person you work for, under your own card, and asks for consent like any call.",
    arguments=Args,
    run=run,
    effect=CallEffect.WRITE,
    effect_of=effect_of,
    timeout_seconds=_MAX_WATCH_SECONDS + 10,
    is_repeatable=True,
)
