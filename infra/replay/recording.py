"""A recording: what is stored of one run that its loop could see or decide, as one value and as one JSON file."""

import hashlib
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from workers.agent.context import deterministic_id
from workers.kernel.errors import PamError
from workers.kernel.ledger.approvals import ApprovalKind, ApprovalStatus, Decision
from workers.kernel.ledger.runs import AgentDefinition, Run, RunStatus
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus

# Ends that no loop decides: a person, a clock or the database ended the run, wherever its loop stood.
FROM_OUTSIDE = frozenset({"cancelled", "deadline", "stopped", "access_revoked", "internal", "attempts", "unanswered"})
_MAX_FILE_BYTES = 256 * 1024 * 1024
_MAX_FENCE = 10_000


class RecordingRefused(PamError):
    """The recording cannot be replayed; the message says why, and what to do."""


class _Part(BaseModel):
    """A part of a recording: nothing in it is unknown, nothing is guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SaidBefore(_Part):
    """A message of the thread that the run found: its own task, and what earlier runs asked and answered."""

    role: Literal["user", "assistant"]
    content: str


class SaidOnTheWay(_Part):
    """What a person said to the run, and the step before which it took it."""

    content: str
    before_step: int


class RecordedStep(_Part):
    """One model call: what it was asked (as a digest), what it answered, what it cost."""

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


class StoredCall(_Part):
    """One call of the ledger. `is_started`: whether its intent was ever recorded; no result: nobody saw its end."""

    id: UUID
    step: int
    place: int
    call_id: str
    tool: str
    arguments: dict[str, Any]
    effect: CallEffect
    status: CallStatus
    is_started: bool
    result: str | None
    origin: str | None
    cost_usd: Decimal


class StoredApproval(_Part):
    """What people were asked about a call, were shown, and said."""

    id: UUID
    kind: ApprovalKind
    status: ApprovalStatus
    why: str
    shown: str | None
    facts: dict[str, Any]
    needs_role: str
    is_four_eyes: bool
    expires_at: datetime
    edited_arguments: dict[str, Any] | None
    note: str | None

    @property
    def is_decided(self) -> bool:
        """Whether the run went on with it."""
        return self.status not in (ApprovalStatus.PENDING, ApprovalStatus.WITHDRAWN)

    @property
    def decision(self) -> Decision:
        """As a worker reads it."""
        return Decision(status=self.status, note=self.note, edited_arguments=self.edited_arguments)


class RecordedEnd(_Part):
    """How the run ended: the answer's text, or why not in a sentence."""

    status: RunStatus
    reason: str | None
    text: str

    @property
    def is_from_outside(self) -> bool:
        """Whether somebody else than the loop decided it."""
        return self.reason in FROM_OUTSIDE


class Recording(_Part):
    """One run. `pauses`: the calls that each pause asked people about; no end: it waits for people."""

    run: Run
    agent: AgentDefinition
    said: tuple[SaidBefore, ...]
    steps: tuple[RecordedStep, ...]
    calls: tuple[StoredCall, ...]
    approvals: tuple[StoredApproval, ...]
    pauses: tuple[tuple[UUID, ...], ...]
    end: RecordedEnd | None
    steered: tuple[SaidOnTheWay, ...] = ()

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        """Every id is the one that the loop gives at this place, under one fence a step: nothing was left out."""
        if [step.position for step in self.steps] != list(range(1, self.run.steps + 1)):
            raise ValueError(f"the run has {self.run.steps} steps, and the recording others")
        for step in self.steps:
            fence = self.fence_of(step.position)
            calls = [call for call in self.calls if call.step == step.position]
            if [call.place for call in calls] != list(range(1, len(calls) + 1)):
                raise ValueError(f"the calls of step {step.position} are not whole")
            for call in calls:
                if call.id != deterministic_id(self.run.id, *call_name(call.step, fence, call.place, self.run)):
                    raise ValueError(f"call {call.place} of step {call.step} bears an id that this run does not give")
        known = {call.id for call in self.calls if call.step <= len(self.steps)}
        asked = {approval.id for approval in self.approvals}
        if (
            len(known) != len(self.calls)
            or not asked <= known
            or not {id for each in self.pauses for id in each} <= asked
        ):
            raise ValueError("a call, an approval or a pause belongs to nothing")
        if (self.end is not None) is not self.run.is_ended or (self.end and self.end.status is not self.run.status):
            raise ValueError("the run and its end do not agree")
        return self

    def fence_of(self, position: int) -> int:
        """Under which fence a step was recorded: the ids of what it brought say so. Raises ValueError."""
        wanted = self.steps[position - 1].message_id
        for fence in range(1, _MAX_FENCE):
            if deterministic_id(self.run.id, "message", position, fence) == wanted:
                return fence
        raise ValueError(f"step {position} bears an id that this run does not give")

    def save(self, file: Path) -> None:
        """Write one JSON file, readable by its owner alone. Raises RecordingRefused when it is there already."""
        told = self.model_dump(mode="json")
        whole = {"pam_recording": 1, "sha256": _digest(told), "recording": told}
        try:
            file.touch(mode=0o600, exist_ok=False)
            file.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except FileExistsError:
            raise RecordingRefused(f"{file} is there already: remove it first, or choose another name") from None
        except OSError as error:
            raise RecordingRefused(f"{file} cannot be written: {error.strerror}") from None


def call_name(step: int, fence: int, place: int, run: Run) -> tuple[object, ...]:
    """What a call's id is made of (workers/agent/loop): a job's one call has no place of its own."""
    return ("call", step, fence) if run.task else ("call", step, fence, place - 1)


def built(**parts: Any) -> Recording:
    """A recording of these parts. Raises RecordingRefused when they do not hold together."""
    try:
        return Recording(**parts)
    except ValidationError as error:
        raise RecordingRefused(f"what is stored of this run cannot be replayed: {_first(error)}") from None


def load(file: Path) -> Recording:
    """The recording in a file. Raises RecordingRefused in a sentence for whatever is wrong with it."""
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise RecordingRefused(f"{file} is larger than any recording (256 MiB)")
        whole = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordingRefused(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise RecordingRefused(f"{file} is no JSON: `pam replay RUN --save FILE` makes a recording") from None
    if not isinstance(whole, dict) or set(whole) != {"pam_recording", "sha256", "recording"}:
        raise RecordingRefused(f"{file} is no recording: `pam replay RUN --save FILE` makes one")
    if whole["pam_recording"] != 1:
        raise RecordingRefused(f"{file} was written by another version of pam: record the run again")
    if whole["sha256"] != _digest(whole["recording"]):
        raise RecordingRefused(f"{file} was changed after it was recorded: record the run again")
    try:
        return Recording.model_validate(whole["recording"])
    except ValidationError as error:
        raise RecordingRefused(f"{file} does not hold together: {_first(error)}. Record the run again") from None


def _first(error: ValidationError) -> str:
    """The first fault and its place, without any value."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"]))
    return f"{where}: {fault['msg']}" if where else str(fault["msg"]).removeprefix("Value error, ")


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
