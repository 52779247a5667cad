"""Reads a timeline out of a run's log: a pure function of the run's row, its events and the present moment."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from ag_ui.core import (
    CustomEvent,
    Event,
    RunErrorEvent,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunStartedEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    ToolCallArgsEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)
from pydantic import TypeAdapter, ValidationError

from infra.cli.timeline import (
    SLOW_SECONDS,
    SLOW_SHARE,
    After,
    Asked,
    Called,
    Claimed,
    Ended,
    Ending,
    Entry,
    Lost,
    Mark,
    Noted,
    Paused,
    Released,
    Reminded,
    Span,
    Steered,
    Stepped,
    Summary,
    Tainted,
    Timeline,
    Unfinished,
    Waited,
    seconds_of,
)
from infra.cli.timeline_values import (
    DecisionValue,
    LostValue,
    OutcomeValue,
    PausedValue,
    ReminderValue,
    ResumedValue,
    SteeredValue,
    UsageValue,
)
from workers.kernel.errors import PamError
from workers.kernel.ledger import events
from workers.kernel.ledger.runs import Run, RunStatus

_ONE_BATCH_SECONDS = 0.5  # the database writes a batch at once; a worker's lease lasts for seconds
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_ABOUT_WORKERS = (Claimed, Lost, Released, Paused, Waited)
_BAD = {"unknown": Mark.UNKNOWN_OUTCOME, "failed": Mark.FAILED, "refused": Mark.REFUSED}


class LogUnreadable(PamError):
    """The log is not what this version of pam can read; the message says where, and what to do."""


@dataclass(frozen=True)
class _Told:
    """An event of the log with the moment when it was stored."""

    seq: int
    at: datetime
    event: Event


@dataclass
class _Call:
    """A call while the log is read."""

    step: int
    tool: str
    asked: _Told
    arguments: str = ""
    result: str = ""


@dataclass
class _Reading:
    """What is known so far."""

    run: Run
    entries: list[Entry] = field(default_factory=list)
    calls: dict[str, _Call] = field(default_factory=dict)
    model: list[Span] = field(default_factory=list)
    tools: list[Span] = field(default_factory=list)
    people: list[Span] = field(default_factory=list)
    unheld: list[Span] = field(default_factory=list)
    step: int = 0
    words: list[str] = field(default_factory=list)  # what the step has said
    asked_in_step: list[str] = field(default_factory=list)
    usage: UsageValue | None = None
    free: After | None = After.QUEUED  # why nobody holds the run; None while a worker does
    free_at: datetime | None = None
    wait: int | None = None  # the entry of what people are asked now
    is_tainted: bool = False

    def after(self, moment: datetime) -> float:
        """Seconds since the run was asked for."""
        return (moment - self.run.created_at).total_seconds()

    def take(self, told: _Told, before: datetime, following: _Told | None) -> None:
        """One event; `before` is the moment of the last one, `following` the next."""
        match told.event:
            case RunStartedEvent():
                if _is_claim(following, told):
                    self._claimed(told, self.free or After.LOST, self.free_at or before)
            case StepStartedEvent():
                self.step, self.words, self.asked_in_step, self.usage = self.step + 1, [], [], None
            case TextMessageContentEvent(delta=delta):
                self.words.append(delta)
            case ToolCallStartEvent(tool_call_id=id, tool_call_name=tool):
                self.calls[id] = _Call(self.step, tool, told)
                self.asked_in_step.append(tool)
            case ToolCallArgsEvent(tool_call_id=id, delta=delta) if id in self.calls:
                self.calls[id].arguments += delta
            case ToolCallResultEvent(tool_call_id=id, content=content) if id in self.calls:
                self.calls[id].result = str(content)
            case StepFinishedEvent():
                self._stepped(told)
            case CustomEvent(name=name, value=value):
                self._custom(told, name, value, before)
            case RunFinishedEvent(outcome=RunFinishedInterruptOutcome(interrupts=interrupts)):
                asks = tuple(Asked(one.id, one.reason, one.message or "") for one in interrupts)
                self._waits(told, asks)
            case RunFinishedEvent() | RunErrorEvent():
                self._ended(told, before)
            case _:
                return

    def _claimed(self, told: _Told, after: After, since: datetime, *, resumed: ResumedValue | None = None) -> None:
        span = Span(since, told.at)
        (self.people if after is After.PEOPLE else self.unheld).append(span)
        if self.wait is not None:
            waited = self.entries[self.wait]
            assert isinstance(waited, Waited)
            self.entries[self.wait] = replace(waited, waited_seconds=seconds_of([span]), is_over=True)
        is_news = self.free is None  # an older log tells a loss by the next claim alone
        self.free = self.free_at = self.wait = None
        self.entries.append(
            Claimed(
                seq=told.seq, at_seconds=self.after(told.at), after=after, unheld_seconds=seconds_of([span]),
                turn=resumed.turn if resumed else None, attempt=resumed.attempt if resumed else None,
                marks=(Mark.LOST_WORKER,) if after is After.LOST and is_news else (),
            )
        )  # fmt: skip

    def _stepped(self, told: _Told) -> None:
        if self.usage is None:
            raise LogUnreadable(f"step {self.step} of the log (seq {told.seq}) does not say what it used")
        used = self.usage
        self.model.append(Span(told.at - timedelta(seconds=used.seconds), told.at))
        self.entries.append(
            Stepped(
                seq=told.seq, at_seconds=self.after(told.at), step=self.step, model=used.model,
                text="".join(self.words), calls=tuple(self.asked_in_step), input_tokens=used.input_tokens,
                cached_input_tokens=used.cached_input_tokens, output_tokens=used.output_tokens,
                is_estimated=used.is_estimated, cost_usd=used.cost_usd, took_seconds=used.seconds, finish=used.finish,
                marks=(Mark.BROKE_OFF,) if used.finish in ("failed", "length", "refused") else (),
            )
        )  # fmt: skip

    def _custom(self, told: _Told, name: str, value: Any, before: datetime) -> None:
        match name:
            case "pam.usage":
                self.usage = UsageValue.model_validate(value)
            case "pam.tool_outcome":
                self._called(told, OutcomeValue.model_validate(value))
            case "pam.resumed":
                after = self.free if self.free in (After.RELEASED, After.MODEL, After.PEOPLE) else After.LOST
                self._claimed(told, after, self.free_at or before, resumed=ResumedValue.model_validate(value))
            case "pam.lost":
                lost = LostValue.model_validate(value)
                self.free, self.free_at = After.LOST, before
                self.entries.append(
                    Lost(
                        seq=told.seq, at_seconds=self.after(told.at), worker=lost.worker or "?", attempt=lost.attempt,
                        steps=lost.steps, calls=tuple(lost.calls), marks=(Mark.LOST_WORKER,),
                    )
                )  # fmt: skip
            case "pam.released":
                self.free, self.free_at = After.RELEASED, told.at
                self.entries.append(Released(seq=told.seq, at_seconds=self.after(told.at)))
            case "pam.paused":
                pause = PausedValue.model_validate(value)
                is_by_person = pause.seconds is None
                self.free, self.free_at = After.PEOPLE if is_by_person else After.MODEL, told.at
                self.entries.append(
                    Paused(
                        seq=told.seq, at_seconds=self.after(told.at), sentence=pause.message, is_by_person=is_by_person
                    )
                )  # fmt: skip
            case "pam.steered":
                content = SteeredValue.model_validate(value).content
                self.entries.append(Steered(seq=told.seq, at_seconds=self.after(told.at), content=content))
            case "pam.reminder":
                waiting = len(ReminderValue.model_validate(value).waiting)
                self.entries.append(Reminded(seq=told.seq, at_seconds=self.after(told.at), waiting=waiting))
            case _:
                self._noted(told, name, value)

    def _called(self, told: _Told, outcome: OutcomeValue) -> None:
        call = self.calls.pop(outcome.toolCallId, None)
        if call is None:
            raise LogUnreadable(f"seq {told.seq} of the log ends a call that the log never began")
        self.tools.append(Span(told.at - timedelta(seconds=outcome.seconds), told.at))
        marks = [_BAD[outcome.status]] if outcome.status in _BAD else []
        last = next((one for one in reversed(self.entries) if isinstance(one, Called) and one.tool == call.tool), None)
        if last and last.status in _BAD and last.step < call.step:
            marks.append(Mark.REPEATED if last.arguments == call.arguments else Mark.RETRY)
        self.entries.append(
            Called(
                seq=told.seq, at_seconds=self.after(told.at), id=outcome.toolCallId, step=call.step, tool=call.tool,
                arguments=call.arguments, effect=outcome.effect, status=outcome.status, took_seconds=outcome.seconds,
                cost_usd=outcome.cost_usd, origin=outcome.origin, decision=None, result=call.result, notes=(),
                marks=tuple(marks),
            )
        )  # fmt: skip
        if outcome.origin and not self.is_tainted:
            self.is_tainted = True
            taint = Tainted(seq=told.seq, at_seconds=self.after(told.at), origin=outcome.origin, marks=(Mark.TAINTED,))
            self.entries.append(taint)

    def _noted(self, told: _Told, name: str, value: Any) -> None:
        """A note belongs to the call whose outcome stands before it."""
        place = len(self.entries) - 1
        if place >= 0 and isinstance(self.entries[place], Tainted):
            place -= 1
        called = self.entries[place] if place >= 0 else None
        if not isinstance(called, Called):
            self.entries.append(Noted(seq=told.seq, at_seconds=self.after(told.at), name=name))
        elif name == "pam.decision":
            decided = DecisionValue.model_validate(value)
            word = f"{decided.status}, with other arguments" if decided.is_edited else decided.status
            self.entries[place] = replace(called, decision=word)
        else:
            self.entries[place] = replace(called, notes=(*called.notes, name))

    def _waits(self, told: _Told, asks: tuple[Asked, ...]) -> None:
        if self.wait is not None:  # a reminder: the same wait goes on
            return
        self.free, self.free_at, self.wait = After.PEOPLE, told.at, len(self.entries)
        self.entries.append(
            Waited(seq=told.seq, at_seconds=self.after(told.at), asks=asks, waited_seconds=0, is_over=False)
        )

    def _ended(self, told: _Told, before: datetime) -> None:
        match told.event:
            case RunErrorEvent(message=sentence, code=reason, usage=usage):
                status = Ending.FAILED
            case RunFinishedEvent(outcome=outcome, result=result, usage=usage):
                is_cancelled = getattr(outcome, "type", None) == "cancelled"
                status = Ending.CANCELLED if is_cancelled else Ending.SUCCEEDED
                sentence = str(result.get("text", "")) if isinstance(result, dict) else ""
                reason = None
            case _:
                raise AssertionError("only the end ends a run")
        is_by_database = usage is None  # a worker tells what was used
        if is_by_database:
            self._let_go(told.at, self.free_at or before)
        self.free = self.free_at = self.wait = None
        marks = (Mark.LOST_WORKER,) if is_by_database and self._is_held() else ()
        self.entries.append(
            Ended(
                seq=told.seq, at_seconds=self.after(told.at), status=status, reason=reason, sentence=sentence,
                is_by_database=is_by_database, marks=(*marks, *((Mark.FAILED,) if status is Ending.FAILED else ())),
            )
        )  # fmt: skip

    def _is_held(self) -> bool:
        """Whether the last that is told of a worker is that it took the run, and no wait or release came after."""
        last = next((one for one in reversed(self.entries) if isinstance(one, _ABOUT_WORKERS)), None)
        return isinstance(last, Claimed)

    def _let_go(self, until: datetime, since: datetime) -> None:
        """The time from when nobody held the run to its end, or to now."""
        span = Span(since, until)
        (self.people if self.free is After.PEOPLE else self.unheld).append(span)
        if self.wait is not None:
            waited = self.entries[self.wait]
            assert isinstance(waited, Waited)
            self.entries[self.wait] = replace(waited, waited_seconds=seconds_of([span]))

    def finish(self, last: datetime, now: datetime) -> Timeline:
        """The whole, when the log is read to its end."""
        until = last
        if not any(isinstance(entry, Ended) for entry in self.entries):
            until = max(now, last)
            if self.run.status in (RunStatus.QUEUED, RunStatus.INTERRUPTED):
                self._let_go(until, self.free_at or last)
        for id, call in self.calls.items():
            self.entries.append(
                Unfinished(
                    seq=call.asked.seq, at_seconds=self.after(call.asked.at), id=id, step=call.step, tool=call.tool,
                    arguments=call.arguments, marks=(Mark.UNKNOWN_OUTCOME,) if self.run.is_ended else (),
                )
            )  # fmt: skip
        wall = self.after(until)
        least = max(SLOW_SECONDS, SLOW_SHARE * wall)
        entries = tuple(
            replace(entry, marks=(*entry.marks, Mark.SLOW)) if entry.seconds >= least else entry
            for entry in self.entries
        )
        return Timeline(self.run, entries, self._summary(entries, wall))

    def _summary(self, entries: tuple[Entry, ...], wall: float) -> Summary:
        spent = [seconds_of(spans) for spans in (self.model, self.tools, self.people, self.unheld)]
        steps_usd = sum((one.cost_usd for one in entries if isinstance(one, Stepped)), Decimal(0))
        calls_usd = sum((one.cost_usd for one in entries if isinstance(one, Called)), Decimal(0))
        return Summary(
            wall_seconds=wall, model_seconds=spent[0], tools_seconds=spent[1], people_seconds=spent[2],
            unheld_seconds=spent[3], other_seconds=max(wall - sum(spent), 0.0), cost_usd=self.run.cost_usd,
            steps_usd=steps_usd, calls_usd=calls_usd,
            unseen_usd=max(self.run.cost_usd - steps_usd - calls_usd, Decimal(0)),
            counts=dict(Counter(entry.kind for entry in entries)),
            marks=dict(Counter(mark.value for entry in entries for mark in entry.marks)),
            outcomes=dict(Counter(one.status for one in entries if isinstance(one, Called))),
        )  # fmt: skip


class LogReader:
    """Takes a log event by event, in its order: however long it is, no more of it is held than is shown."""

    def __init__(self, run: Run) -> None:
        self._reading = _Reading(run, free_at=run.created_at)
        self._before = run.created_at
        self._last: _Told | None = None  # understood once it is known what follows

    def read(self, row: events.Event) -> None:
        """The next event. Raises LogUnreadable with the place."""
        place = self._last.seq + 1 if self._last else 1
        if row.seq != place:
            raise LogUnreadable(
                f"the log of this run has seq {row.seq} where {place} must stand: "
                "`pam events` shows what is there; a log of PAM's has no gap"
            )
        try:
            told = _Told(row.seq, row.created_at, _EVENT.validate_python(row.payload))
        except ValidationError as error:
            raise _odd(row.seq) from error
        self._take(told)
        self._last = told

    def finish(self, *, now: datetime) -> Timeline:
        """The timeline, when the log is read to its end. Raises LogUnreadable with the place."""
        self._take(None)
        return self._reading.finish(self._before, now)

    def _take(self, following: _Told | None) -> None:
        if self._last is None:
            return
        try:
            self._reading.take(self._last, self._before, following)
        except ValidationError as error:
            raise _odd(self._last.seq) from error
        self._before = self._last.at


def read_timeline(run: Run, log: Iterable[events.Event], *, now: datetime) -> Timeline:
    """The timeline of a run from its row and its whole log. Raises LogUnreadable with the place."""
    reader = LogReader(run)
    for row in log:
        reader.read(row)
    return reader.finish(now=now)


def _odd(seq: int) -> LogUnreadable:
    return LogUnreadable(
        f"seq {seq} of the log is no event that this version of pam can read: upgrade pam, or look with `pam events`"
    )


def _is_claim(following: _Told | None, told: _Told) -> bool:
    """Whether a worker began this part of the log: a reminder and an end without a worker open it, too."""
    match following.event if following else None:
        case CustomEvent(name="pam.reminder"):
            return False
        case RunErrorEvent(usage=None) | RunFinishedEvent(usage=None):
            assert following is not None
            return (following.at - told.at).total_seconds() > _ONE_BATCH_SECONDS
    return True
