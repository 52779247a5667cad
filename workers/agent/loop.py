"""The loop of one run: think, decide, act, record, until it ends, waits or is taken away."""

import time
from contextlib import aclosing
from decimal import Decimal
from typing import assert_never
from uuid import UUID

import structlog

from workers.agent import context, decisions, narration
from workers.agent.decisions import AskAgain, AwaitPerson, CallTools, Decision, Reply, Stop
from workers.agent.execution import Execution, plan
from workers.agent.limits import Allowance, allowance
from workers.agent.plain import plain
from workers.agent.preview import Preview
from workers.agent.shutdown import Leaving, LeavingFlag
from workers.kernel.ledger import messages, runs, steps
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.runs import Claim, Run, RunStatus
from workers.kernel.ledger.steps import Step
from workers.kernel.ledger.tool_calls import CallStatus, RecordedCall
from workers.model.estimate import estimated_usage
from workers.model.failures import ContextTooLong, ModelFailure
from workers.model.prices import cost_of
from workers.model.protocol import Answer, Message, Model, Restarted, TextDelta
from workers.tools.tool import Tool, ToolServices

log = structlog.get_logger()


class Loop:
    """Advances one claimed run. Whether the worker is leaving is asked between steps."""

    def __init__(
        self,
        *,
        hold: Hold,
        claim: Claim,
        model: Model,
        tools: tuple[Tool, ...],
        services: ToolServices,
        leaving: LeavingFlag,
    ) -> None:
        self._hold = hold
        self._run: Run = claim.run
        self._definition = claim.agent
        self._model = model
        self._tools = context.granted(claim.agent, tools)
        self._offered = context.specs(self._tools)
        self._execution = Execution(hold=hold, org_id=claim.run.org_id, tools=self._tools, services=services)
        self._leaving = leaving

    @property
    def run(self) -> Run:
        """The run with its newest totals."""
        return self._run

    async def advance(self) -> None:
        """Work until the run has ended or waits. Raises FenceLost, AccessRevoked, Unavailable, Leaving."""
        transcript = context.Transcript(definition=self._definition, conversation=await messages.read(self._hold))
        empty_answers = 0
        while True:
            if self._leaving.is_set():
                raise Leaving
            decision: Decision = decisions.next_calls(transcript.calls_of(self._run.steps)) or await self._think(
                transcript, empty_answers
            )
            match decision:
                case CallTools(calls):
                    for call in await self._execution.carry_out(calls):
                        transcript.settled(call)
                    empty_answers = 0
                case AskAgain():
                    empty_answers += 1
                case AwaitPerson(call):
                    return await runs.interrupt(
                        self._hold,
                        call.id,
                        events=narration.question(self._run, call, transcript.snapshot(self._run)),
                    )
                case Reply(text):
                    return await runs.finish(
                        self._hold,
                        RunStatus.SUCCEEDED,
                        reason=None,
                        events=narration.succeeded(self._run, text),
                    )
                case Stop(reason, sentence):
                    return await self.fail(reason, sentence)
                case _:
                    assert_never(decision)

    async def fail(self, reason: str, sentence: str) -> None:
        """End the run with a reason."""
        log.info("run failed", reason=reason)
        await runs.finish(
            self._hold, RunStatus.FAILED, reason=reason, events=narration.failed(self._run, reason, sentence)
        )

    async def cancel(self) -> None:
        """End the run because a person said so."""
        await runs.finish(self._hold, RunStatus.CANCELLED, reason="cancelled", events=narration.cancelled(self._run))

    async def _think(self, transcript: context.Transcript, empty_answers: int) -> Decision:
        """One model call, recorded with its planned calls before anything is done about it."""
        spoken = transcript.messages()
        estimate = estimated_usage(spoken, self._offered, output_text="")
        allowed = allowance(self._run, model=self._model.name, estimated_input_tokens=estimate.input_tokens)
        if isinstance(allowed, Stop):
            return allowed
        position = self._run.steps + 1
        message_id = context.deterministic_id(self._run.id, "message", position, self._hold.fence)
        began = time.monotonic()
        try:
            answer = await self._stream(spoken, allowed, message_id)
        except ContextTooLong as failure:
            return Stop("context_too_long", str(failure))
        except ModelFailure as failure:
            return Stop("model_failed", str(failure))
        usage = answer.usage + answer.lost_usage if answer.lost_usage else answer.usage
        planned = [
            plan(
                call,
                context.deterministic_id(self._run.id, "call", position, self._hold.fence, place),
                self._tools,
            )
            for place, call in enumerate(answer.tool_calls)
        ]
        step = Step(
            position=position,
            message_id=message_id,
            text=plain(answer.text),
            model=plain(answer.model)[:200],
            input_sha256=context.digest(spoken, self._offered),
            finish=answer.finish.value,
            input_tokens=usage.input_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            output_tokens=usage.output_tokens,
            is_estimated=usage.is_estimated,
            cost_usd=cost_of(usage, model=self._model.name).usd.quantize(Decimal("0.000001")),
            seconds=round(time.monotonic() - began, 3),
        )
        self._run = await steps.record(self._hold, step, planned, narration.step(step, planned))
        log.info(
            "step recorded",
            position=position,
            input_tokens=step.input_tokens,
            output_tokens=step.output_tokens,
            cost_usd=str(step.cost_usd),
        )
        recorded = [
            RecordedCall(**call.model_dump(), step=position, place=place, status=CallStatus.PLANNED, result=None)
            for place, call in enumerate(planned, start=1)
        ]
        transcript.said(step.text, position, recorded)
        return decisions.decide(answer, recorded, empty_answers=empty_answers)

    async def _stream(self, spoken: list[Message], allowed: Allowance, message_id: UUID) -> Answer:
        """The model's answer, shown while it is written."""
        preview = Preview(hold=self._hold, message_id=message_id)
        async with aclosing(
            self._model.stream(spoken, self._offered, max_output_tokens=allowed.max_output_tokens)
        ) as items:
            async for item in items:
                match item:
                    case TextDelta(text):
                        await preview.write(plain(text))
                    case Restarted():
                        await preview.restart()
                    case Answer():
                        return item
        raise AssertionError("a model's stream ends with an Answer or a ModelFailure")
