"""Runs: ask an agent, look after its work, stop it, answer its question."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from functions.deps import GatewayDep, IdempotencyKey, PageSize
from functions.wording import Wording
from workers.kernel.caller_gateway import CallerGateway
from workers.kernel.ledger import organizations, runs
from workers.kernel.ledger.pages import Cursor, Page
from workers.kernel.ledger.runs import Changed, Run, Started, WhenBusy

router = APIRouter(prefix="/v1", tags=["runs"])


class Limits(BaseModel):
    """What the run may use at most; what is left out comes from the agent's card, else from PAM."""

    model_config = ConfigDict(extra="forbid")

    max_steps: int | None = Field(default=None, ge=1, le=200, description="model calls")
    max_tokens: int | None = Field(default=None, ge=1, le=20_000_000, description="tokens in and out")
    max_cost_usd: float | None = Field(default=None, gt=0, le=100, allow_inf_nan=False)
    max_seconds: int | None = Field(default=None, ge=1, le=86_400, description="time, without waiting for people")


class Question(BaseModel):
    """What is asked, of whom, within which limits."""

    model_config = ConfigDict(extra="forbid")

    agent: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$", description="an agent of the organisation")
    message: Annotated[Wording, Field(max_length=100_000)] = Field(description="what the agent should do")
    limits: Limits = Limits()
    if_busy: WhenBusy = Field(
        default=WhenBusy.REJECT, description="what becomes of a run of the thread that is not finished"
    )
    priority: int = Field(default=0, ge=-10, le=10, description="which of the organisation's queued runs comes first")


class NewRun(Question):
    """A question, in a thread that is there or in a new one."""

    thread_id: UUID | None = Field(default=None, description="leave out to open a new thread")


class Words(BaseModel):
    """Something more for a run on its way."""

    model_config = ConfigDict(extra="forbid")

    message: Annotated[Wording, Field(max_length=100_000)]


class Again(BaseModel):
    """How a run is asked again."""

    model_config = ConfigDict(extra="forbid")

    despite_effects: bool = Field(default=False, description="also when it has, or may have, taken effect")


class Answer(BaseModel):
    """A person's answer to what the agent asked."""

    model_config = ConfigDict(extra="forbid")

    answer: Annotated[Wording, Field(max_length=20_000)]


async def start(
    gateway: CallerGateway,
    response: Response,
    org_id: UUID,
    question: Question,
    thread_id: UUID | None,
    idempotency_key: str | None,
) -> Started:
    """Start a run for whichever door was knocked at, and say where it can be looked up."""
    started = await runs.start(
        gateway,
        org_id,
        agent=question.agent,
        message=question.message,
        thread_id=thread_id,
        limits=question.limits.model_dump(exclude_none=True),
        idempotency_key=idempotency_key,
        if_busy=question.if_busy,
        priority=question.priority,
    )
    response.headers["location"] = f"/v1/runs/{started.run_id}"
    return started


@router.post("/orgs/{org_id}/runs", status_code=202, summary="Ask an agent")
async def start_run(
    org_id: UUID,
    run: NewRun,
    gateway: GatewayDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Started:
    """Queue a run. It is worked on by a worker, never by this request; follow it by its events."""
    return await start(gateway, response, org_id, run, run.thread_id, idempotency_key)


@router.get("/orgs/{org_id}/runs", summary="List runs, newest first")
async def list_runs(
    org_id: UUID,
    gateway: GatewayDep,
    thread_id: Annotated[UUID | None, Query(description="only the runs of this thread")] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
    limit: PageSize = 50,
) -> Page[Run]:
    """The organisation's runs."""
    after = Cursor.parse(cursor) if cursor else None
    page = await runs.list_newest(gateway, org_id, thread_id=thread_id, cursor=after, limit=limit)
    if not page.items:
        await organizations.require(gateway, org_id)
    return page


@router.get("/runs/{run_id}", summary="Read a run")
async def read_run(run_id: UUID, gateway: GatewayDep) -> Run:
    """One run: its status, its limits, and what it has used."""
    return await runs.read(gateway, run_id)


@router.post("/runs/{run_id}/cancel", status_code=202, summary="Stop a run")
async def cancel_run(run_id: UUID, gateway: GatewayDep) -> Changed:
    """Stop at once when no worker holds the run, else at its next step. For its asker, admins and owners."""
    return await runs.cancel(gateway, run_id)


@router.post("/runs/{run_id}/pause", status_code=202, summary="Let a run rest")
async def pause_run(run_id: UUID, gateway: GatewayDep) -> Changed:
    """It stops where it is, with its jobs, and loses nothing; safe to repeat. For its asker, admins and owners."""
    return await runs.pause(gateway, run_id)


@router.post("/runs/{run_id}/resume", status_code=202, summary="Let a paused run go on")
async def resume_run(run_id: UUID, gateway: GatewayDep) -> Changed:
    """It goes on where it stopped, with its jobs; its clock stood still."""
    return await runs.resume(gateway, run_id)


@router.post("/runs/{run_id}/retry", status_code=202, summary="Ask a run's question again")
async def retry_run(run_id: UUID, gateway: GatewayDep, response: Response, how: Again = Again()) -> Changed:
    """A new run in the thread of one that failed or was cancelled, as its asker; answers the new one."""
    again = await runs.retry(gateway, run_id, despite_effects=how.despite_effects)
    response.headers["location"] = f"/v1/runs/{again.run_id}"
    return again


@router.post("/runs/{run_id}/messages", status_code=202, summary="Say something to a run on its way")
async def steer_run(run_id: UUID, said: Words, gateway: GatewayDep) -> Changed:
    """Taken before the run's next step; no run succeeds without having read it."""
    return await runs.steer(gateway, run_id, said.message)


@router.post("/runs/{run_id}/answer", status_code=202, summary="Answer what a run asked")
async def answer_run(run_id: UUID, answer: Answer, gateway: GatewayDep) -> Changed:
    """Answer the question of an interrupted run; it goes on."""
    return await runs.answer(gateway, run_id, answer.answer)
