"""A run told as AG-UI 1.0 events: each function makes one closed batch, so that a takeover finds nothing half said.

Source: AG-UI's event types as `ag-ui-protocol` ships them; money and outcomes travel as CUSTOM events `pam.*`.
"""

import json
import time
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from ag_ui.core import (
    BaseEvent,
    CustomEvent,
    Interrupt,
    MessagesSnapshotEvent,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    TokenUsage,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)

from workers.kernel.ledger.approvals import Ask
from workers.kernel.ledger.runs import Run
from workers.kernel.ledger.steps import Step
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus, PlannedCall, RecordedCall

Event = dict[str, Any]

_MAX_SHOWN_CHARACTERS = 20_000


def _told(*events: BaseEvent) -> list[Event]:
    now = int(time.time() * 1000)
    return [{**e.model_dump(mode="json", by_alias=True, exclude_none=True), "timestamp": now} for e in events]


def step(told: Step, calls: list[PlannedCall]) -> list[Event]:
    """One model call: what it wrote, what it asks for, what it cost."""
    name, message_id = f"step {told.position}", str(told.message_id)
    events: list[BaseEvent] = [StepStartedEvent(step_name=name)]
    if told.text:
        events += [
            TextMessageStartEvent(message_id=message_id, role="assistant"),
            TextMessageContentEvent(message_id=message_id, delta=told.text),
            TextMessageEndEvent(message_id=message_id),
        ]
    for call in calls:
        given = json.dumps(call.arguments, ensure_ascii=False)
        events += [
            ToolCallStartEvent(
                tool_call_id=str(call.id),
                tool_call_name=call.tool,
                parent_message_id=message_id if told.text else None,
            ),
            ToolCallArgsEvent(tool_call_id=str(call.id), delta=given),
            ToolCallEndEvent(tool_call_id=str(call.id)),
        ]
    spent = {
        "model": told.model,
        "input_tokens": told.input_tokens,
        "cached_input_tokens": told.cached_input_tokens,
        "output_tokens": told.output_tokens,
        "is_estimated": told.is_estimated,
        "cost_usd": str(told.cost_usd),
        "seconds": told.seconds,
        "finish": told.finish,
    }
    events += [CustomEvent(name="pam.usage", value=spent), StepFinishedEvent(step_name=name)]
    return _told(*events)


def outcome(
    call: RecordedCall,
    status: CallStatus,
    result: str,
    seconds: float,
    notes: dict[str, Any],
    *,
    origin: str | None = None,
    cost_usd: Decimal = Decimal(0),
) -> list[Event]:
    """A tool call's result, how it went, what it cost, whose its content is, and what else viewers should see."""
    return _told(
        ToolCallResultEvent(message_id=str(uuid4()), tool_call_id=str(call.id), content=result, role="tool"),
        CustomEvent(
            name="pam.tool_outcome",
            value={
                "toolCallId": str(call.id),
                "tool": call.tool,
                "status": status.value,
                "effect": call.effect.value,
                "seconds": seconds,
                **({"origin": origin} if origin else {}),
                **({"cost_usd": str(cost_usd)} if cost_usd else {}),
            },
        ),
        *(CustomEvent(name=name, value=value) for name, value in notes.items()),
    )


def waiting(
    run: Run, asks: list[Ask], calls: dict[UUID, RecordedCall], transcript: list[dict[str, Any]]
) -> list[Event]:
    """The run waits for people: the state and messages so far, then one interrupt for each thing to decide."""
    return _told(
        StateSnapshotEvent(snapshot={"status": "interrupted", "runId": str(run.id)}),
        MessagesSnapshotEvent.model_validate({"messages": transcript}),
        RunFinishedEvent(
            thread_id=str(run.thread_id),
            run_id=str(run.id),
            usage=[_usage(run)],
            outcome=RunFinishedInterruptOutcome(interrupts=[_interrupt(ask, calls[ask.id]) for ask in asks]),
        ),
    )


def _interrupt(ask: Ask, call: RecordedCall) -> Interrupt:
    if call.effect is CallEffect.PAUSE:
        asked = str(call.arguments.get("question", ""))
        return Interrupt(id=str(call.id), reason="question", message=asked, tool_call_id=str(call.id))
    given = json.dumps(call.arguments, ensure_ascii=False)
    told = f"May the agent do this? {call.tool} {given if len(given) <= 2000 else given[:2000] + '…'}"
    return Interrupt(
        id=str(call.id),
        reason="approval",
        message="\n".join(part for part in (told, ask.why, _begun(ask.shown or "")) if part),
        tool_call_id=str(call.id),
    )


def _begun(shown: str) -> str:
    """What is shown, or its beginning: an event is no place for a book, and the approval's row has it whole."""
    more = len(shown) - _MAX_SHOWN_CHARACTERS
    return shown if more <= 0 else f"{shown[:_MAX_SHOWN_CHARACTERS]}\n[cut: {more:,} characters more in the approval]"


def recalled(run: Run, transcript: list[dict[str, Any]]) -> list[Event]:
    """A run goes on after an answer: what was said before, so that this part of the log stands for itself."""
    return _told(
        StateSnapshotEvent(snapshot={"status": "running", "runId": str(run.id)}),
        MessagesSnapshotEvent.model_validate({"messages": transcript}),
    )


def paused(sentence: str, seconds: float) -> list[Event]:
    """No model answers: the run waits, holds no worker, and comes back by itself."""
    return _told(CustomEvent(name="pam.paused", value={"message": sentence, "seconds": round(seconds, 1)}))


def rests() -> list[Event]:
    """A person has paused the run: it rests until somebody resumes it."""
    return _told(CustomEvent(name="pam.paused", value={"message": "A person has paused the run."}))


def released() -> list[Event]:
    """The worker leaves in good order and gives the run back: whoever claims it next takes over from nobody lost."""
    return _told(CustomEvent(name="pam.released", value={}))


def succeeded(run: Run, text: str) -> list[Event]:
    """The end of a run that answered."""
    return _told(
        RunFinishedEvent(
            thread_id=str(run.thread_id),
            run_id=str(run.id),
            result={"text": text},
            outcome=RunFinishedSuccessOutcome(),
            usage=[_usage(run)],
        )
    )


def cancelled(run: Run) -> list[Event]:
    """The end of a run that a person stopped."""
    return _told(
        RunFinishedEvent(
            thread_id=str(run.thread_id),
            run_id=str(run.id),
            outcome=RunFinishedCancelledOutcome(),
            usage=[_usage(run)],
        )
    )


def failed(run: Run, reason: str, sentence: str) -> list[Event]:
    """The end of a run that could not go on."""
    return _told(RunErrorEvent(message=sentence, code=reason, usage=[_usage(run)]))


def preview(of: str, id: UUID, offset: int, text: str) -> Event:
    """Text that is still being written, of a message_id or a call_id: no AG-UI event, and never stored."""
    return {of: str(id), "offset": offset, "text": text}


def _usage(run: Run) -> TokenUsage:
    return TokenUsage(
        input_tokens=run.input_tokens,
        output_tokens=run.output_tokens,
        total_tokens=run.input_tokens + run.output_tokens,
    )
