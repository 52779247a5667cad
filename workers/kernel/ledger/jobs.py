"""Jobs and schedules: work that is due now, later or again, each carried out as a run."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold


class JobStatus(StrEnum):
    """scheduled waits for its time; the last three are final until somebody retries."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Submitted(BaseModel):
    """What became of a submission: a job, or a schedule when it comes again."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID | None = None
    schedule_id: UUID | None = None
    status: JobStatus | None = None
    due_at: datetime | None = None
    next_at: datetime | None = None
    ends_at: datetime | None = None
    is_replay: bool = False


class Job(BaseModel):
    """A job as a run sees it. `origin`: where its result comes from when nobody vouches for it."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    name: str | None
    task: str
    status: JobStatus
    reason: str | None
    due_at: datetime
    attempt: int
    max_attempts: int
    run_id: UUID | None
    result: str | None
    is_waiting: bool
    origin: str | None

    @property
    def is_ended(self) -> bool:
        """Whether the status is final."""
        return self.status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class ListedJob(BaseModel):
    """A line of a list. `is_foreign`: its name is not the person's own word."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID
    name: str | None
    task: str
    status: JobStatus
    due_at: datetime
    attempt: int
    run_id: UUID | None
    is_foreign: bool


class ListedSchedule(BaseModel):
    """A schedule that is active."""

    model_config = ConfigDict(frozen=True)

    schedule_id: UUID
    name: str
    task: str
    cron: str
    time_zone: str
    next_at: datetime | None
    skipped: int
    is_foreign: bool


class Listed(BaseModel):
    """Newest jobs and active schedules of an organisation."""

    model_config = ConfigDict(frozen=True)

    jobs: tuple[ListedJob, ...]
    schedules: tuple[ListedSchedule, ...]


class Stopped(BaseModel):
    """What cancelling or retrying made of a job or a schedule."""

    model_config = ConfigDict(frozen=True)

    job_id: UUID | None = None
    schedule_id: UUID | None = None
    status: JobStatus
    is_replay: bool = False


async def submit(hold: Hold, call_id: UUID, job: dict[str, Any]) -> Submitted:
    """Submit a job, or a schedule when it has a cron expression; once per call. Raises Refused."""
    return Submitted.model_validate(await hold.call("submit_job", call=call_id, job=job))


async def read(hold: Hold, job_id: UUID) -> Job:
    """A job of the organisation with its result. Raises Refused(not_found)."""
    return Job.model_validate(await hold.call("read_job", job=job_id))


async def list_newest(hold: Hold, *, status: JobStatus | None) -> Listed:
    """Newest jobs, perhaps of one status, and active schedules."""
    return Listed.model_validate(await hold.call("list_jobs", status=status.value if status else None))


async def cancel(hold: Hold, job_id: UUID) -> Stopped:
    """Cancel a job with its run, or a schedule. Raises Refused."""
    return Stopped.model_validate(await hold.call("cancel_job", job=job_id))


async def retry(hold: Hold, call_id: UUID, job_id: UUID) -> Stopped:
    """Let a failed or cancelled job be due again; once per call. Raises Refused."""
    return Stopped.model_validate(await hold.call("retry_job", call=call_id, job=job_id))
