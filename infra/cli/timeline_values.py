"""What PAM's own CUSTOM events say, as far as a timeline tells it; later versions may say more."""

from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """The value of a CUSTOM event."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class UsageValue(Value):
    """pam.usage: what a step used."""

    model: str
    input_tokens: int
    cached_input_tokens: int = 0
    output_tokens: int
    is_estimated: bool
    cost_usd: Decimal
    seconds: float
    finish: str | None = None


class OutcomeValue(Value):
    """pam.tool_outcome: how a call ended."""

    toolCallId: str  # as AG-UI spells it
    tool: str
    status: str
    effect: str
    seconds: float
    origin: str | None = None
    cost_usd: Decimal = Decimal(0)


class ResumedValue(Value):
    """pam.resumed: a worker took the run on."""

    attempt: int
    turn: int


class LostValue(Value):
    """pam.lost: a worker fell silent."""

    worker: str | None = None
    attempt: int
    steps: int
    calls: list[str] = []


class DecisionValue(Value):
    """pam.decision: what people said of a call."""

    approval_id: str
    status: str
    is_edited: bool


class PausedValue(Value):
    """pam.paused: no model answered, and the run comes back by itself; without seconds a person has paused it."""

    message: str
    seconds: float | None = None


class SteeredValue(Value):
    """pam.steered: what a person said on the way."""

    content: str


class ReminderValue(Value):
    """pam.reminder: what still waits."""

    waiting: list[dict[str, Any]]
