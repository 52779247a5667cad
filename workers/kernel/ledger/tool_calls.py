"""Tool calls: the ledger of effects, intent before effect."""

from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

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
    """A row of pam.tool_calls."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int
    place: int
    status: CallStatus
    result: str | None

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
        """Whether a person has answered; the result is there, its event is not yet."""
        return self.status is CallStatus.ANSWERED


async def begin(hold: Hold, call: RecordedCall) -> RecordedCall:
    """Record the intent, before the effect."""
    return RecordedCall.model_validate(await hold.call("begin_call", id=call.id))


async def finish(
    hold: Hold, call: RecordedCall, status: CallStatus, result: str, events: list[dict[str, Any]]
) -> RecordedCall:
    """Record the outcome with its events."""
    return RecordedCall.model_validate(
        await hold.call("finish_call", id=call.id, status=status.value, result=result, events=events)
    )
