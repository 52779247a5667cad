"""Runs: one piece of work of an agent for a person, from queued to its one end."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from workers.kernel.code_format import CODE_FORMAT
from workers.kernel.errors import Refused
from workers.kernel.ledger.approvals import Ask
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.pages import Cursor, Page

if TYPE_CHECKING:
    from workers.kernel.caller_gateway import CallerGateway
    from workers.kernel.worker_gateway import WorkerGateway


class RunStatus(StrEnum):
    """interrupted waits for a person; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WhenBusy(StrEnum):
    """What becomes of a thread's unfinished run when a message comes; roll_back: later runs do not see it."""

    REJECT = "reject"
    QUEUE = "queue"
    INTERRUPT = "interrupt"
    ROLL_BACK = "roll_back"


class Run(BaseModel):
    """A row of pam.runs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    org_id: UUID
    id: UUID
    thread_id: UUID
    agent_id: UUID
    agent_version: int
    user_id: UUID
    status: RunStatus
    reason: str | None
    turn: int
    attempt: int
    max_steps: int
    max_tokens: int
    max_cost_usd: Decimal
    deadline_at: datetime
    steps: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    cancel_requested_at: datetime | None
    tainted_at: datetime | None
    taint: str | None
    task: dict[str, Any] | None = None
    priority: int = 0
    pauses: int = 0
    due_at: datetime | None = None
    after_run: UUID | None = None
    paused_at: datetime | None = None
    is_rolled_back: bool = False
    retried_by: UUID | None = None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def is_ended(self) -> bool:
        """Whether the status is final."""
        return self.status in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED)


class AgentDefinition(BaseModel):
    """What a run's pinned agent version says."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: int
    instructions: str
    tools: tuple[str, ...]
    conduct_tools: tuple[str, ...] = ()


class Claim(BaseModel):
    """What a worker got: the fence to write under, the run, and its agent."""

    model_config = ConfigDict(frozen=True)

    fence: int
    run: Run
    agent: AgentDefinition


async def claim_next(gateway: "WorkerGateway", *, worker: str, lease_seconds: int) -> Claim | None:
    """Take the run whose turn it is for this worker until the lease ends; None when nothing may begin.

    A run that newer code has worked on is not offered to older code.
    """
    answer = await gateway.call("claim_next", worker=worker, lease_seconds=lease_seconds, code_format=CODE_FORMAT)
    return Claim.model_validate(answer) if answer else None


async def pulse(gateway: "WorkerGateway", holds: Sequence[Hold], *, lease_seconds: int) -> dict[UUID, str]:
    """Keep the leases of these holds, 1,000 at most, and hear which runs must stop, each with why."""
    stopped = await gateway.call(
        "pulse_runs",
        runs=tuple(hold.run_id for hold in holds),
        fences=tuple(hold.fence for hold in holds),
        lease_seconds=lease_seconds,
    )
    return {UUID(one["run_id"]): str(one["reason"]) for one in stopped}


async def finish(hold: Hold, status: RunStatus, *, reason: str | None, events: list[dict[str, Any]]) -> bool:
    """End the run; the last event is its one terminal event. False: somebody said something that comes first."""
    try:
        await hold.call("finish_run", status=status.value, reason=reason, events=events)
    except Refused as refusal:
        if refusal.code != "steered":
            raise
        return False
    return True


async def postpone(hold: Hold, *, seconds: float, events: list[dict[str, Any]]) -> bool:
    """Let the run come back after a while; the hold ends. False: it has come back too often."""
    try:
        await hold.call("postpone_run", seconds=seconds, events=events)
    except Refused:
        return False
    return True


async def interrupt(hold: Hold, asks: Sequence[Ask], *, events: list[dict[str, Any]]) -> None:
    """Let the run wait until people have decided on all of these calls; the hold ends."""
    await hold.call("interrupt_run", asks=[ask.row() for ask in asks], events=events)


async def release(hold: Hold) -> None:
    """Give the run back to the queue; the hold ends."""
    await hold.call("release_run")


class Started(BaseModel):
    """What asking an agent gives: the run, queued, and the thread it belongs to."""

    model_config = ConfigDict(frozen=True)

    run_id: UUID
    thread_id: UUID
    status: RunStatus
    is_replay: bool = Field(description="whether this idempotency key had started the run before")


class Changed(BaseModel):
    """What cancelling, answering or asking again did, and the run that is meant."""

    model_config = ConfigDict(frozen=True)

    run_id: UUID
    status: RunStatus
    message: str | None = None


async def start(
    gateway: "CallerGateway",
    org_id: UUID,
    *,
    agent: str,
    message: str,
    thread_id: UUID | None,
    limits: dict[str, int | float],
    idempotency_key: str | None,
    if_busy: WhenBusy,
    priority: int,
) -> Started:
    """Ask an agent, as the caller. Raises Refused as pam.start_run does."""
    answer = await gateway.rpc(
        "start_run",
        {
            "org_id": str(org_id),
            "agent": agent,
            "message": message,
            "thread_id": str(thread_id) if thread_id else None,
            "limits": limits,
            "idempotency_key": idempotency_key,
            "if_busy": if_busy.value,
            "priority": priority,
        },
    )
    return Started.model_validate(answer)


async def read(gateway: "CallerGateway", run_id: UUID) -> Run:
    """One run. Raises Refused(not_found), alike for an absent and a foreign one."""
    rows = await gateway.select("runs", equal={"id": run_id})
    if not rows:
        raise Refused("not_found", "There is no such run.")
    return Run.model_validate(rows[0])


async def list_newest(
    gateway: "CallerGateway", org_id: UUID, *, thread_id: UUID | None, cursor: Cursor | None, limit: int
) -> Page[Run]:
    """Runs of an organisation, or of one of its threads, newest first."""
    rows = await gateway.select(
        "runs",
        equal={"org_id": org_id} | ({"thread_id": thread_id} if thread_id else {}),
        either=cursor.older if cursor else None,
        order=("created_at", "id"),
        is_descending=True,
        limit=limit + 1,
    )
    return Page.newest([Run.model_validate(row) for row in rows], limit)


async def cancel(gateway: "CallerGateway", run_id: UUID) -> Changed:
    """Stop a run: at once when no worker holds it, else at its next step. Raises Refused."""
    return Changed.model_validate(await gateway.rpc("cancel_run", {"run_id": str(run_id)}))


async def pause(gateway: "CallerGateway", run_id: UUID) -> Changed:
    """Let a run rest, with its jobs' runs, until it is resumed. Raises Refused."""
    return Changed.model_validate(await gateway.rpc("pause_run", {"run_id": str(run_id)}))


async def resume(gateway: "CallerGateway", run_id: UUID) -> Changed:
    """Let a paused run go on, with its jobs' runs. Raises Refused."""
    return Changed.model_validate(await gateway.rpc("resume_run", {"run_id": str(run_id)}))


async def answer(gateway: "CallerGateway", run_id: UUID, text: str) -> Changed:
    """Answer the question that an interrupted run asked; the run goes on. Raises Refused."""
    return Changed.model_validate(await gateway.rpc("answer_question", {"run_id": str(run_id), "answer": text}))


async def retry(gateway: "CallerGateway", run_id: UUID, *, despite_effects: bool) -> Changed:
    """Ask what a failed or cancelled run was asked once more: the new run. Raises Refused as pam.retry_run does."""
    asked = {"run_id": str(run_id), "despite_effects": despite_effects}
    return Changed.model_validate(await gateway.rpc("retry_run", asked))


async def steer(gateway: "CallerGateway", run_id: UUID, text: str) -> Changed:
    """Say something to a run on its way: taken before its next step. Raises Refused."""
    return Changed.model_validate(await gateway.rpc("steer_run", {"run_id": str(run_id), "message": text}))
