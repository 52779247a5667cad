"""The loop of one run: think, decide, act, record, until it ends, waits or is taken away."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from decimal import Decimal
from typing import assert_never
from uuid import UUID

import structlog

from workers.agent import context, decisions, limits, narration, task
from workers.agent.decisions import AskAgain, AwaitPerson, CallTools, Decision, Postpone, Reply, Stop
from workers.agent.execution import Execution
from workers.agent.plain import plain
from workers.agent.planning import plan
from workers.agent.preview import Preview
from workers.agent.shutdown import Leaving, LeavingFlag
from workers.agent.slots import Slots
from workers.kernel.errors import Refused
from workers.kernel.ledger import events, messages, runs, steps
from workers.kernel.ledger.approvals import Ask
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.runs import Claim, Run, RunStatus
from workers.kernel.ledger.steps import Step
from workers.kernel.ledger.tool_calls import CallStatus, PlannedCall, RecordedCall
from workers.model.chain import ModelChain, is_away
from workers.model.estimate import estimated_usage
from workers.model.failures import ContextTooLong, ModelFailure
from workers.model.prices import cost_of
from workers.model.protocol import Allowance, Answer, Finish, Message, Restarted, TextDelta, Usage
from workers.tools.tool import Tool, ToolServices

MAX_ASKS = 200  # decisions that one pause waits for
FAILED = "failed"  # the finish of a step whose answer broke off

log = structlog.get_logger()


class Loop:
    """Advances one claimed run. Whether the worker is leaving is asked between steps."""

    def __init__(
        self,
        *,
        hold: Hold,
        claim: Claim,
        model: ModelChain,
        tools: tuple[Tool, ...],
        services: ToolServices,
        slots: Slots,
        leaving: LeavingFlag,
    ) -> None:
        self._hold = hold
        self._run: Run = claim.run
        self._definition = claim.agent
        self._model = model
        self._tools = context.granted(claim.agent, tools)
        self._offered = context.specs(self._tools)
        self._execution = Execution(
            hold=hold, org_id=claim.run.org_id, tools=self._tools, services=services, slots=slots
        )
        self._slots = slots
        self._leaving = leaving
        self._is_free = False  # the next step begins without asking: nobody has spoken, no budget asks

    @property
    def run(self) -> Run:
        """The run with its newest totals."""
        return self._run

    def between_effects(self) -> asyncio.Lock:
        """Held, it keeps the run from beginning what could not be repeated, and nothing of that kind is under way."""
        return self._execution.gate

    async def advance(self) -> None:
        """Work until the run has ended or waits. Raises FenceLost, AccessRevoked, Unavailable, Leaving."""
        await messages.take(self._hold)  # so that it stands in the thread where it is read
        conversation = await messages.read(self._hold)
        transcript = context.Transcript(definition=self._definition, conversation=conversation)
        empty_answers = 0
        decision = self._left_behind(transcript, conversation.finish)
        while True:
            if self._leaving.is_set():
                raise Leaving
            decision = (
                decision
                or decisions.next_calls(transcript.calls_of(self._run.steps))
                or await (self._perform(transcript) if self._run.task else self._think(transcript, empty_answers))
            )
            match decision:
                case CallTools(calls):
                    if any(call.is_answered for call in calls):
                        await events.append(self._hold, narration.recalled(self._run, transcript.snapshot(self._run)))
                    carried = await self._execution.carry_out(calls)
                    self._is_free = all(call.is_free for call in carried.ended)
                    for call in carried.ended:
                        transcript.settled(call)
                        self._run = self._run.model_copy(update={"cost_usd": self._run.cost_usd + call.cost_usd})
                    if carried.asks:
                        return await self._wait(transcript, carried.asks)
                    empty_answers = 0
                case AskAgain():
                    empty_answers += 1
                case AwaitPerson():
                    return await self._wait(transcript, [])
                case Reply(text):
                    told = narration.succeeded(self._run, text)
                    if await runs.finish(self._hold, RunStatus.SUCCEEDED, reason=None, events=told):
                        return None
                case Postpone(sentence, seconds):
                    paused = narration.paused(sentence, seconds)
                    if not await runs.postpone(self._hold, seconds=seconds, events=paused):
                        await self.fail("model_failed", sentence)
                    return None
                case Stop(reason, sentence):
                    return await self.fail(reason, sentence)
                case _:
                    assert_never(decision)
            decision = None

    def _left_behind(self, transcript: context.Transcript, finish: str | None) -> Decision | None:
        """What a lost worker had still to do with an answer it recorded: the model is not asked, nor paid, twice."""
        text = transcript.text_of(self._run.steps)
        if text is None or transcript.calls_of(self._run.steps) or finish == FAILED:
            return None
        return decisions.decide(Finish(finish or Finish.STOP), text, [], empty_answers=0)

    async def fail(self, reason: str, sentence: str) -> None:
        """End the run with a reason."""
        log.info("run failed", reason=reason)
        await runs.finish(
            self._hold, RunStatus.FAILED, reason=reason, events=narration.failed(self._run, reason, sentence)
        )

    async def cancel(self) -> None:
        """End the run because a person said so."""
        await runs.finish(self._hold, RunStatus.CANCELLED, reason="cancelled", events=narration.cancelled(self._run))

    async def _wait(self, transcript: context.Transcript, asks: list[Ask]) -> None:
        """Let the run wait for people: for what must be agreed to, and for the step's questions, in one pause."""
        calls = {call.id: call for call in transcript.calls_of(self._run.steps)}
        asks = [*asks, *(Ask(call.id) for call in calls.values() if decisions.is_question(call) and not call.is_ended)]
        asks = asks[:MAX_ASKS]  # what is left over is asked next
        await runs.interrupt(
            self._hold, asks, events=narration.waiting(self._run, asks, calls, transcript.snapshot(self._run))
        )

    async def _perform(self, transcript: context.Transcript) -> Decision:
        """A job's one call, recorded as a step of no model before anything is done about it; then its outcome."""
        if self._run.steps:
            return task.ended(transcript.calls_of(1)[0])
        assert self._run.task is not None
        message_id, call_id = (
            context.deterministic_id(self._run.id, part, 1, self._hold.fence) for part in ("message", "call")
        )
        step, call = task.planned(self._run.task, message_id=message_id, call_id=call_id, tools=self._tools)
        self._run = await steps.record(self._hold, step, [call], narration.step(step, [call]))
        recorded = RecordedCall(**call.model_dump(), step=1, place=1, status=CallStatus.PLANNED, result=None)
        transcript.said("", 1, [recorded])
        return CallTools((recorded,))

    async def _think(self, transcript: context.Transcript, empty_answers: int) -> Decision:
        """One model call, recorded with its planned calls before anything is done about it."""
        allowed, spoken = await self._allowed(transcript)
        if not isinstance(allowed, Allowance):
            return allowed
        position = self._run.steps + 1
        message_id = context.deterministic_id(self._run.id, "message", position, self._hold.fence)
        began = time.monotonic()
        try:
            answer = await self._stream(spoken, allowed, message_id)
        except ModelFailure as failure:
            if failure.lost_usage:  # an answer that broke off is paid for, too
                await self._record(position, message_id, spoken, failure.lost_usage, FAILED, began)
            if failure.lacks_allowance and empty_answers < decisions.MAX_ASKED_AGAIN:
                return AskAgain()  # once more is reserved
            if is_away(failure):
                return Postpone(str(failure), limits.pause_seconds(self._run, failure.retry_after_seconds))
            return Stop("context_too_long" if isinstance(failure, ContextTooLong) else "model_failed", str(failure))
        usage = answer.usage + answer.lost_usage if answer.lost_usage else answer.usage
        text = plain(answer.text)
        planned = [
            plan(
                call,
                context.deterministic_id(self._run.id, "call", position, self._hold.fence, place),
                self._tools,
            )
            for place, call in enumerate(answer.tool_calls)
        ]
        await self._record(
            position,
            message_id,
            spoken,
            usage,
            answer.finish.value,
            began,
            text=text,
            model=answer.model,
            asked=answer.asked,
            calls=planned,
        )
        recorded = [
            RecordedCall(**call.model_dump(), step=position, place=place, status=CallStatus.PLANNED, result=None)
            for place, call in enumerate(planned, start=1)
        ]
        transcript.said(text, position, recorded)
        return decisions.decide(answer.finish, text, recorded, empty_answers=empty_answers)

    async def _allowed(self, transcript: context.Transcript) -> tuple[Allowance | Decision, list[Message]]:
        """What the next call may use, reserved, and what it is asked, with the last that people have said."""
        while True:
            spoken = transcript.messages()
            estimate = estimated_usage(spoken, self._offered, output_text="")
            allowed = limits.allowance(
                self._run, models=self._model.names, estimated_input_tokens=estimate.input_tokens
            )
            if isinstance(allowed, Stop):
                return allowed, spoken
            if self._is_free:
                self._is_free = False
                return allowed, spoken
            try:
                begun = await steps.begin(
                    self._hold,
                    input_tokens=allowed.input_tokens,
                    output_tokens=allowed.output_tokens,
                    input_usd=allowed.input_usd,
                    output_usd=allowed.output_usd,
                )
            except Refused as refusal:
                if refusal.code == "held":
                    return Postpone(str(refusal), limits.wait_seconds(self._run)), spoken
                return Stop(refusal.code, str(refusal)), spoken
            if isinstance(begun, steps.Begun):
                return allowed.within(begun.output_tokens, is_all=begun.is_reserved), spoken
            for said in begun:
                transcript.heard(said)

    async def _record(
        self,
        position: int,
        message_id: UUID,
        spoken: list[Message],
        usage: Usage,
        finish: str,
        began: float,
        *,
        text: str = "",
        model: str = "",
        asked: str = "",
        calls: Sequence[PlannedCall] = (),
    ) -> None:
        """Store the step with its price; the run's totals are what the database says then."""
        step = Step(
            position=position,
            message_id=message_id,
            text=text,
            model=plain(model)[:200] or self._model.name,
            input_sha256=context.digest(spoken, self._offered),
            finish=finish,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            is_estimated=usage.is_estimated,
            cost_usd=cost_of(usage, model=asked or self._model.name).usd.quantize(Decimal("0.000001")),
            seconds=round(time.monotonic() - began, 3),
        )
        self._run = await steps.record(self._hold, step, list(calls), narration.step(step, list(calls)))
        log.info(
            "step recorded",
            position=position,
            input_tokens=step.input_tokens,
            output_tokens=step.output_tokens,
            cost_usd=str(step.cost_usd),
        )

    async def _stream(self, spoken: list[Message], allowed: Allowance, message_id: UUID) -> Answer:
        """The model's answer, shown while it is written."""
        stream = self._model.stream(spoken, self._offered, allowed=allowed)
        async with (
            Preview(hold=self._hold, of="message_id", id=message_id, meter=self._slots.previews) as preview,
            aclosing(stream) as items,
        ):
            async for item in items:
                match item:
                    case TextDelta(text):
                        await preview.write(text)
                    case Restarted():
                        await preview.restart()
                    case Answer():
                        return item
        raise AssertionError("a model's stream ends with an Answer or a ModelFailure")
