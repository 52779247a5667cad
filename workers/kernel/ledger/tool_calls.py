"""Tool calls: the ledger of effects, intent before effect."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.approvals import ApprovalStatus, Decision
from workers.kernel.ledger.hold import Hold


class CallEffect(StrEnum):
    """What a tool does to the world; pause only waits for a person."""

    READ = "read"
    WRITE = "write"
    EXTERNAL = "external"
    IRREVERSIBLE = "irreversible"
    PAUSE = "pause"


class CallStatus(StrEnum):
    """started is the recorded intent; unknown is an effect whose outcome nobody saw."""

    PLANNED = "planned"
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    WAITING = "waiting"
    ANSWERED = "answered"


class PlannedCall(BaseModel):
    """A call as the model asked for it. `id` is the idempotency key, `call_id` the model's own name for it."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    call_id: str
    tool: str
    arguments: dict[str, Any]
    effect: CallEffect


class RecordedCall(PlannedCall):
    """A row of pam.tool_calls. `is_free`: when it ended, a step could begin without asking the database first."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    place: int
    status: CallStatus
    result: str | None
    origin: str | None = None
    cost_usd: Decimal = Decimal(0)
    decision: Decision | None = None
    is_free: bool = False

    @property
    def is_ended(self) -> bool:
        """Whether the model has a result to read."""
        return self.status in (
            CallStatus.SUCCEEDED,
            CallStatus.FAILED,
            CallStatus.REFUSED,
            CallStatus.UNKNOWN,
        )

    @property
    def is_answered(self) -> bool:
        """Whether a person has decided; the call goes on from there."""
        return self.status is CallStatus.ANSWERED

    @property
    def given(self) -> dict[str, Any]:
        """The arguments to carry out: as the model gave them, or as the person who approved them changed them."""
        edited = self.decision.edited_arguments if self.decision else None
        return self.arguments if edited is None else edited

    @property
    def is_declined(self) -> bool:
        """Whether a person said no, or nobody said anything in time."""
        return self.decision is not None and self.decision.status in (ApprovalStatus.REJECTED, ApprovalStatus.EXPIRED)


class Question(BaseModel):
    """Why a person must agree to a call before it runs, and who may."""

    model_config = ConfigDict(frozen=True)

    why: str
    needs_role: str
    is_four_eyes: bool
    expires_at: datetime


@dataclass(frozen=True)
class Begun:
    """The intent is recorded. `agreed`: the facts that a person was shown and approved, if one was asked."""

    agreed: dict[str, Any] | None


@dataclass(frozen=True)
class Held:
    """Nothing needs to be asked about the call; nothing was started."""


async def begin(hold: Hold, call: RecordedCall, *, ceiling_usd: Decimal = Decimal(0)) -> Begun | Question:
    """Record the intent, before the effect; or answer what a person must be asked first.

    Raises Refused when the card, the role's policy, the run's budget or a withdrawn approval forbids the call.
    """
    answer = await hold.call("begin_call", id=call.id, ceiling_usd=ceiling_usd)
    return Question.model_validate(answer["ask"]) if "ask" in answer else Begun(answer["agreed"])


async def ask_about(hold: Hold, call: RecordedCall, *, ceiling_usd: Decimal = Decimal(0)) -> Held | Question:
    """What a person must be asked before this call, without starting it. Raises Refused as begin does."""
    answer = await hold.call("begin_call", id=call.id, ceiling_usd=ceiling_usd, only_ask=True)
    return Question.model_validate(answer["ask"]) if "ask" in answer else Held()


async def finish(
    hold: Hold,
    call: RecordedCall,
    status: CallStatus,
    result: str,
    events: list[dict[str, Any]],
    *,
    origin: str | None = None,
    cost_usd: Decimal = Decimal(0),
    output: str | None = None,
) -> RecordedCall:
    """Record the outcome with its events, its cost, its origin, and the whole of a result that was cut."""
    return RecordedCall.model_validate(
        await hold.call(
            "finish_call",
            id=call.id,
            status=status.value,
            result=result,
            events=events,
            origin=origin,
            cost_usd=cost_usd,
            output=output,
        )
    )


class Output(BaseModel):
    """A part of a result that was too long for the model."""

    model_config = ConfigDict(frozen=True)

    characters: int
    origin: str | None
    text: str


async def read_output(hold: Hold, call_id: UUID, *, first_character: int, max_characters: int) -> Output:
    """A part of a long result of this conversation, from a character counted from 1. Raises Refused(not_found)."""
    answer = await hold.call(
        "read_output", call=call_id, first_character=first_character, max_characters=max_characters
    )
    return Output.model_validate(answer)
