"""A model and tools that answer what is recorded: they reach nothing, and know nothing else."""

import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, cast

from infra.replay.recorded_ledger import Differs, RecordedLedger, WorkerWasLost
from infra.replay.recording import RecordedStep, Recording, StoredCall
from workers.agent.execution import MAX_RESULT_CHARACTERS
from workers.agent.loop import FAILED
from workers.kernel.errors import Unavailable
from workers.kernel.ledger.tool_calls import CallStatus
from workers.model.failures import ContextTooLong, ModelFailure
from workers.model.protocol import Allowance, Answer, Finish, Message, StreamItem, ToolCall, ToolSpec, Usage
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.tool import Shown, Tool, ToolContext, ToolResult, ToolServices

_CUT = re.compile(r"\n\[cut: ([\d,]+) characters more; [^\n]*\]\Z")
_AWAY = re.compile(r" could not be carried out now: (.*?)\. Nobody knows", re.DOTALL)


class RecordedModel:
    """Answers each step with its recorded answer, and breaks off where the model did."""

    def __init__(self, *, recording: Recording, ledger: RecordedLedger) -> None:
        self._recording = recording
        self._ledger = ledger

    @property
    def name(self) -> str:
        """The name that the server gave: prices go by it."""
        return self._recording.steps[0].model if self._recording.steps else "recorded"

    @property
    def names(self) -> tuple[str, ...]:
        """It alone answers."""
        return (self.name,)

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], *, allowed: Allowance
    ) -> AsyncGenerator[StreamItem, None]:
        """The recorded answer of the next step, in one piece."""
        position = self._ledger.run.steps + 1
        if position > len(self._recording.steps):
            self._ledger.no_more_steps()
            raise self._failure(None)
        if self._recording.fence_of(position) != self._ledger.fence:
            raise WorkerWasLost(f"step {position} is another worker's")
        step = self._recording.steps[position - 1]
        if step.finish == FAILED:
            raise self._failure(step)
        yield Answer(
            text=step.text,
            tool_calls=tuple(_asked(call) for call in self._recording.calls if call.step == position),
            usage=_usage(step),
            finish=Finish(step.finish),
            model=step.model,
        )

    def _failure(self, step: RecordedStep | None) -> ModelFailure:
        end = self._recording.end
        kind = ContextTooLong if end and end.reason == "context_too_long" else ModelFailure
        failure = kind(end.text if end else "the answer broke off")
        failure.lost_usage = _usage(step) if step else None
        return failure


def _usage(step: RecordedStep) -> Usage:
    return Usage(
        input_tokens=step.input_tokens,
        output_tokens=step.output_tokens,
        cached_input_tokens=step.cached_input_tokens,
        is_estimated=step.is_estimated,
    )


def _asked(call: StoredCall) -> ToolCall:
    malformed = call.arguments.get("malformed")
    is_malformed = isinstance(malformed, str) and len(call.arguments) == 1
    text = str(malformed) if is_malformed else json.dumps(call.arguments, ensure_ascii=False)
    return ToolCall(id=call.call_id, name=call.tool, arguments_json=text)


class _OutOfReach:
    """Stands where a worker's services are."""

    def __getattr__(self, name: str) -> Any:
        raise Differs("a tool", "its result", f"it reaches for {name}")


def services() -> ToolServices:
    """What tools may reach in a replay: nothing."""
    return cast(ToolServices, _OutOfReach())


def standing_in(tools: Sequence[Tool], ledger: RecordedLedger) -> tuple[Tool, ...]:
    """The tools as the loop knows them now (names, arguments, effects, limits), each answering what is recorded."""

    by_name = {tool.name: tool for tool in tools}

    async def run(arguments: Any, context: ToolContext) -> ToolResult:
        call = ledger.stored(context.call_id)
        ledger.check_arguments(call, by_name[call.tool], arguments)
        return _answer(call)

    async def show(arguments: Any, context: ToolContext) -> Shown:
        asked = ledger.approval(context.call_id)
        if asked is not None:
            return Shown(asked.shown or "", asked.facts)
        _answer(ledger.stored(context.call_id))
        raise Differs("a call", "its effect could not be shown", "it is shown")

    return tuple(replace(tool, run=run, show=show if tool.show else None) for tool in tools)


def _answer(call: StoredCall) -> ToolResult:
    """The recorded result, or the failure that became it; the ledger knows that nobody saw an end."""
    text = _whole(call.result or "")
    match call.status:
        case CallStatus.FAILED:
            raise ToolRetry(text, origin=call.origin, cost_usd=call.cost_usd)
        case CallStatus.REFUSED:
            raise ToolRefused(text, origin=call.origin, cost_usd=call.cost_usd)
        case CallStatus.UNKNOWN if " took longer than " in text:
            raise TimeoutError
        case CallStatus.UNKNOWN if away := _AWAY.search(text):
            raise Unavailable(away[1])
        case CallStatus.UNKNOWN:
            raise RuntimeError("the tool broke inside PAM")
    return ToolResult(text, origin=call.origin, cost_usd=call.cost_usd)


def _whole(text: str) -> str:
    """A result that was cut for the model, as long as it was: what was cut is blank, for nobody read it here."""
    if len(text) <= MAX_RESULT_CHARACTERS or not (cut := _CUT.search(text)):
        return text
    return text[:MAX_RESULT_CHARACTERS] + " " * int(cut[1].replace(",", ""))
