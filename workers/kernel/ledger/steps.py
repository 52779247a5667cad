"""Steps: one model call of a run, with what it cost."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.runs import Run
from workers.kernel.ledger.tool_calls import PlannedCall


class Step(BaseModel):
    """A row of pam.steps with the message that the model wrote."""

    model_config = ConfigDict(frozen=True)

    position: int
    message_id: UUID
    text: str
    model: str
    input_sha256: str
    finish: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    is_estimated: bool
    cost_usd: Decimal
    seconds: float


async def record(hold: Hold, step: Step, calls: list[PlannedCall], events: list[dict[str, Any]]) -> Run:
    """Store the step with its message, its planned calls and its events; answers the run with its new totals."""
    answer = await hold.call(
        "record_step",
        step=step.model_dump(mode="json"),
        calls=[call.model_dump(mode="json") for call in calls],
        events=events,
    )
    return Run.model_validate(answer)
