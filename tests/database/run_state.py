"""What is true of a run, of its calls, and of what a worker believes to hold: the state that `run_model` moves."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

UNFINISHED = ("queued", "running", "interrupted")
TOOLS = {
    "redis_get": "read",
    "redis_set": "write",
    "websocket_send": "external",
    "api_call": "irreversible",
    "ask_person": "pause",
}


@dataclass
class Call:
    """A call of a run. approval: what became of the question whether it may run, if there was one."""

    id: UUID
    tool: str
    status: str = "planned"
    approval: str | None = None
    is_begun: bool = False
    reserved_usd: Decimal = Decimal(0)
    cost_usd: Decimal = Decimal(0)

    @property
    def effect(self) -> str:
        return TOOLS[self.tool]

    @property
    def needs_role(self) -> str:
        return "admin" if self.effect == "irreversible" else "developer"

    @property
    def is_open(self) -> bool:
        return self.status in ("planned", "started", "answered")

    @property
    def may_be_asked(self) -> bool:
        """Whether people may be asked about it: once."""
        return self.approval is None and self.status in ("planned", "started")


@dataclass
class Run:
    """A run as the database must have it. said: (position, text) of what people told it, the question first."""

    asker: str
    thread: int
    priority: int
    said: list[tuple[int, str]]
    id: UUID | None = None
    status: str = "queued"
    reason: str | None = None
    turn: int = 1
    attempt: int = 0
    fence: int = 0
    steps: int = 0
    pauses: int = 0
    lost: int = 0
    lease: Literal["live", "over"] | None = None
    answered_at: int | None = None  # the position of its newest step's message
    seen: int = 0
    calls: list[Call] = field(default_factory=list)
    step_usd: Decimal = Decimal(0)
    is_waiting: bool = False
    is_cancelling: bool = False
    is_late: bool = False  # past its deadline
    is_paused: bool = False
    is_postponed: bool = False
    is_unheard: bool = False  # nobody came for it since it rang
    is_forgotten: bool = False  # nobody decides for a week
    is_tainted: bool = False
    is_rolled_back: bool = False
    retried_by: "Run | None" = None

    @property
    def is_unfinished(self) -> bool:
        return self.status in UNFINISHED

    @property
    def cost_usd(self) -> Decimal:
        return self.step_usd + sum((call.cost_usd for call in self.calls), Decimal(0))

    def row(self) -> dict[str, Any]:
        """What its row must say, and what must be found beside it."""
        return {
            "status": self.status, "reason": self.reason, "turn": self.turn, "attempt": self.attempt, "fence": self.fence,
            "steps": self.steps, "counted_steps": self.steps, "pauses": self.pauses, "cost_usd": self.cost_usd,
            "has_lease": self.lease is not None, "is_leased": self.lease == "live", "is_waiting": self.is_waiting,
            "is_cancelling": self.is_cancelling, "is_paused": self.is_paused, "is_rolled_back": self.is_rolled_back, "is_tainted": self.is_tainted,
            "retried_by": self.retried_by.id if self.retried_by else None, "lost": self.lost,
            "calls": {str(call.id): call.status for call in self.calls}, "terminals": 0 if self.is_unfinished else 1,
        }  # fmt: skip


@dataclass(frozen=True)
class Hold:
    """What a worker believes to hold."""

    run: Run
    fence: int
