"""Steps: one model call of a run, with what it cost."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.messages import Said
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


class Begun(BaseModel):
    """A step that may ask its model: how many tokens it may write; `is_reserved`: no more than them and the input."""

    model_config = ConfigDict(frozen=True)

    output_tokens: int
    is_reserved: bool


async def begin(
    hold: Hold, *, input_tokens: int, output_tokens: int, input_usd: Decimal, output_usd: Decimal
) -> Begun | list[Said]:
    """What the next call may use, up to this, reserved where budgets ask; or what people have said meanwhile.

    What they said comes first: hear it and ask again. Dollars of the whole input, and of one token of output.

    Raises Refused: `budget` is used up, or `held` for other runs that are at work.
    """
    answer = await hold.call(
        "begin_step",
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        input_usd=input_usd,
        output_usd=output_usd,
    )
    if "messages" in answer:
        return [Said.model_validate(row) for row in answer["messages"]]
    return Begun.model_validate(answer)


async def record(hold: Hold, step: Step, calls: list[PlannedCall], events: list[dict[str, Any]]) -> Run:
    """Store the step with its message, its planned calls and its events; answers the run with its new totals."""
    answer = await hold.call(
        "record_step",
        step=step.model_dump(mode="json"),
        calls=[call.model_dump(mode="json") for call in calls],
        events=events,
    )
    return Run.model_validate(answer)
