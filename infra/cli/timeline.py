"""What a timeline of one run is made of: entries with their times and marks, and where time and money went."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar

from workers.kernel.ledger.runs import Run

SLOW_SHARE = 0.25
SLOW_SECONDS = 1.0


class Mark(StrEnum):
    """Why an entry deserves a second look."""

    LOST_WORKER = "lost worker"
    UNKNOWN_OUTCOME = "unknown outcome"
    FAILED = "failed"
    REFUSED = "refused"
    RETRY = "retry"
    REPEATED = "repeated unchanged"
    BROKE_OFF = "broke off"
    TAINTED = "tainted"
    SLOW = "slow"


class After(StrEnum):
    """What a worker's claim came after."""

    QUEUED = "queued"
    PEOPLE = "people"
    RELEASED = "released"
    MODEL = "model"
    LOST = "lost"


class Ending(StrEnum):
    """How the log ends, as far as it goes."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that the log tells. `seq` is its event, `at_seconds` counts from when the run was asked for."""

    kind: ClassVar[str] = "entry"
    seq: int
    at_seconds: float
    marks: tuple[Mark, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took, as the worker measured it; 0 for a moment."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Claimed(Entry):
    """A worker took the run. `unheld_seconds`: how long nobody had written to it; turn and attempt where they are told.

    After a lost worker that time holds what the lost one still did, the rest of its lease, and the sweep.
    """

    kind: ClassVar[str] = "claim"
    after: After
    unheld_seconds: float
    turn: int | None = None
    attempt: int | None = None

    @property
    def seconds(self) -> float:
        """The time without a worker, where people did not take it."""
        return 0.0 if self.after is After.PEOPLE else self.unheld_seconds


@dataclass(frozen=True, kw_only=True)
class Lost(Entry):
    """A worker fell silent, and the sweep took the run from it. `calls`: those that were under way."""

    kind: ClassVar[str] = "lost"
    worker: str
    attempt: int
    steps: int
    calls: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Released(Entry):
    """A worker left in good order and gave the run back."""

    kind: ClassVar[str] = "release"


@dataclass(frozen=True, kw_only=True)
class Paused(Entry):
    """No model answered, others held what a budget had left, or a person paused it: no worker was held meanwhile."""

    kind: ClassVar[str] = "pause"
    sentence: str
    is_by_person: bool = False


@dataclass(frozen=True, kw_only=True)
class Steered(Entry):
    """A person said something to the run on its way, and it took it here."""

    kind: ClassVar[str] = "said"
    content: str


@dataclass(frozen=True, kw_only=True)
class Stepped(Entry):
    """A model call was recorded: it ended then, and began `took_seconds` before."""

    kind: ClassVar[str] = "step"
    step: int
    model: str
    text: str
    calls: tuple[str, ...]
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    is_estimated: bool
    cost_usd: Decimal
    took_seconds: float
    finish: str | None

    @property
    def seconds(self) -> float:
        """The model's time."""
        return self.took_seconds


@dataclass(frozen=True, kw_only=True)
class Called(Entry):
    """A tool call ended. `decision`: what people had said about it, and whether they changed its arguments."""

    kind: ClassVar[str] = "call"
    id: str
    step: int
    tool: str
    arguments: str
    effect: str
    status: str
    took_seconds: float
    cost_usd: Decimal
    origin: str | None
    decision: str | None
    result: str
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The tool's time."""
        return self.took_seconds


@dataclass(frozen=True, kw_only=True)
class Unfinished(Entry):
    """A call that the model asked for, and whose end the log does not tell."""

    kind: ClassVar[str] = "open"
    id: str
    step: int
    tool: str
    arguments: str


@dataclass(frozen=True)
class Asked:
    """One thing that people were asked."""

    id: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Waited(Entry):
    """The run waited for people: until a worker went on, so that the queue's moment counts as theirs; or until now."""

    kind: ClassVar[str] = "wait"
    asks: tuple[Asked, ...]
    waited_seconds: float
    is_over: bool


@dataclass(frozen=True, kw_only=True)
class Reminded(Entry):
    """People were reminded of so many things that still waited."""

    kind: ClassVar[str] = "reminder"
    waiting: int


@dataclass(frozen=True, kw_only=True)
class Tainted(Entry):
    """The run read something that nobody vouches for, for the first time: since then more needs a person's word."""

    kind: ClassVar[str] = "taint"
    origin: str


@dataclass(frozen=True, kw_only=True)
class Noted(Entry):
    """An event of its own that this timeline has no words for."""

    kind: ClassVar[str] = "note"
    name: str


@dataclass(frozen=True, kw_only=True)
class Ended(Entry):
    """The run ended. `is_by_database`: no worker held it then."""

    kind: ClassVar[str] = "end"
    status: Ending
    reason: str | None
    sentence: str
    is_by_database: bool


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Where the time and the money went. The seconds add up to the whole: a moment counts once, however many calls ran.

    `calls_usd` is what calls are known to have cost, `unseen_usd` what was charged for calls whose bill nobody saw.
    """

    wall_seconds: float
    model_seconds: float
    tools_seconds: float
    people_seconds: float
    unheld_seconds: float
    other_seconds: float
    cost_usd: Decimal
    steps_usd: Decimal
    calls_usd: Decimal
    unseen_usd: Decimal
    counts: dict[str, int] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Timeline:
    """One run, told from its log."""

    run: Run
    entries: tuple[Entry, ...]
    summary: Summary

    def data(self) -> dict[str, Any]:
        """The same as plain data: the run's head, the entries each with its kind, the summary."""
        head = self.run.model_dump(mode="json", exclude={"task", "user_id", "agent_id"})
        return {
            "run": head,
            "entries": [{"kind": entry.kind, **_plain(asdict(entry))} for entry in self.entries],
            "summary": _plain(asdict(self.summary)),
        }


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Decimal) else round(value, 3) if isinstance(value, float) else value
        for name, value in told.items()
    }


@dataclass(frozen=True)
class Span:
    """A stretch of time."""

    start: datetime
    end: datetime


def seconds_of(spans: list[Span]) -> float:
    """How long these stretches last together, each moment counted once."""
    total, reached = 0.0, None
    for span in sorted(spans, key=lambda one: one.start):
        start = span.start if reached is None else max(span.start, reached)
        if span.end > start:
            total += (span.end - start).total_seconds()
            reached = span.end
    return total
