"""Approvals and questions: what waits for a person, who may decide it, and what they said."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from workers.kernel.errors import Refused
from workers.kernel.ledger.pages import Cursor, Page

if TYPE_CHECKING:
    from workers.kernel.caller_gateway import CallerGateway


class ApprovalKind(StrEnum):
    """An approval lets a call run; a question's answer is the call's result."""

    APPROVAL = "approval"
    QUESTION = "question"


class ApprovalStatus(StrEnum):
    """withdrawn: the run ended before anybody decided."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    ANSWERED = "answered"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class Decision(BaseModel):
    """What a person said about a call, as its worker reads it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: ApprovalStatus
    note: str | None = None
    edited_arguments: dict[str, Any] | None = None


class Approval(BaseModel):
    """A row of pam.approvals; its id is the call's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    org_id: UUID
    id: UUID
    run_id: UUID
    kind: ApprovalKind
    status: ApprovalStatus
    asker_id: UUID
    tool: str
    effect: str
    arguments: dict[str, Any]
    why: str
    shown: str | None
    needs_role: str
    is_four_eyes: bool
    created_at: datetime
    expires_at: datetime
    decided_by: UUID | None
    decided_at: datetime | None
    decided_through: str | None
    edited_arguments: dict[str, Any] | None
    note: str | None


@dataclass(frozen=True)
class Ask:
    """What a worker asks people about one call: why, and what the tool shows of its effect."""

    id: UUID
    why: str = ""
    shown: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As pam_worker.interrupt_run takes it."""
        return {"id": str(self.id), "why": self.why, "shown": self.shown, "facts": self.facts}


class Verdict(StrEnum):
    """What can be said: a question is answered, an approval approved or rejected."""

    APPROVE = "approve"
    REJECT = "reject"
    ANSWER = "answer"


class Deciding(BaseModel):
    """One decision as a person sends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    approval_id: UUID
    verdict: Verdict
    note: str | None = Field(default=None, max_length=20_000, description="the answer, or why")
    arguments: dict[str, Any] | None = Field(default=None, description="changed arguments to approve instead")


class Refusal(BaseModel):
    """Why one decision was not taken."""

    code: str
    message: str


class Decided(BaseModel):
    """What became of one decision: its status, or why not."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    approval_id: UUID
    status: ApprovalStatus | None = None
    refused: Refusal | None = None


class RunState(BaseModel):
    """A run that decisions touched, and how it stands now."""

    model_config = ConfigDict(frozen=True)

    run_id: UUID
    status: str


class Decisions(BaseModel):
    """What became of a batch: one result for each decision, and the runs they touched."""

    model_config = ConfigDict(frozen=True)

    results: list[Decided]
    runs: list[RunState]


class Link(BaseModel):
    """A signed token that decides one approval for one person, once."""

    model_config = ConfigDict(frozen=True)

    token: str
    expires_at: datetime


class LinkView(BaseModel):
    """What a link would decide."""

    model_config = ConfigDict(frozen=True)

    tool: str
    effect: str
    arguments: dict[str, Any]
    shown: str | None
    why: str
    expires_at: datetime


async def list_newest(
    gateway: "CallerGateway",
    org_id: UUID,
    *,
    run_id: UUID | None,
    status: ApprovalStatus | None,
    cursor: Cursor | None,
    limit: int,
) -> Page[Approval]:
    """Approvals and questions of an organisation, or of one run, newest first."""
    rows = await gateway.select(
        "approvals",
        equal={"org_id": org_id}
        | ({"run_id": run_id} if run_id else {})
        | ({"status": status.value} if status else {}),
        either=cursor.older if cursor else None,
        order=("created_at", "id"),
        is_descending=True,
        limit=limit + 1,
    )
    return Page.newest([Approval.model_validate(row) for row in rows], limit)


async def read(gateway: "CallerGateway", approval_id: UUID) -> Approval:
    """One approval. Raises Refused(not_found), alike for an absent and a foreign one."""
    rows = await gateway.select("approvals", equal={"id": approval_id})
    if not rows:
        raise Refused("not_found", "There is no such approval.")
    return Approval.model_validate(rows[0])


async def decide(gateway: "CallerGateway", decisions: Sequence[Deciding]) -> Decisions:
    """Decide one or many; each has its own result. Raises Refused when the batch as a whole cannot be read."""
    sent = [decision.model_dump(mode="json", exclude_none=True) for decision in decisions]
    return Decisions.model_validate(await gateway.rpc("decide", {"decisions": sent}))


async def make_link(gateway: "CallerGateway", approval_id: UUID) -> Link:
    """A link for the caller to decide with, without signing in. Raises Refused."""
    return Link.model_validate(await gateway.rpc("make_decision_link", {"approval_id": str(approval_id)}))


async def read_link(gateway: "CallerGateway", token: str) -> LinkView:
    """What a link would decide; looking does not use it up. Raises Refused."""
    return LinkView.model_validate(await gateway.rpc("read_decision_link", {"token": token}))


async def decide_by_link(gateway: "CallerGateway", token: str, verdict: Verdict, note: str | None) -> ApprovalStatus:
    """Decide what a link stands for. Raises Refused."""
    answer = await gateway.rpc("decide_by_link", {"token": token, "verdict": verdict.value, "note": note})
    return ApprovalStatus(answer["status"])
