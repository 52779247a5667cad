"""The one path every tool call takes, and no tool goes round it.

Granted by the card, arguments valid, then one verb of the database (workers/kernel/ledger/tool_calls.begin): the role's
policy, the run's budget, a person's consent, the intent; run under time, size and concurrency limits; outcome recorded.
"""

import asyncio
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError

from workers.agent import narration, planning
from workers.agent.plain import plain
from workers.agent.preview import Preview
from workers.agent.slots import Slots
from workers.kernel.errors import AccessRevoked, FenceLost, Refused, Unavailable
from workers.kernel.ledger import tool_calls
from workers.kernel.ledger.approvals import ApprovalStatus, Ask
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus, Question, RecordedCall
from workers.tools import stored_results
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.tool import Shown, Tool, ToolContext, ToolResult, ToolServices

MAX_RESULT_CHARACTERS = 80_000
_PARALLEL_READS = 4
_MAX_OUTPUT_CHARACTERS = 4_194_304
_MAX_SHOWN_CHARACTERS = 100_000
_LEAST_USD = Decimal("0.000001")

LOST = "A worker was lost while this call ran"
_UNSEEN = "Nobody knows whether it took effect: look before you repeat it."

log = structlog.get_logger()


@dataclass(frozen=True)
class Carried:
    """What became of a step's calls: those that ended, and what people must be asked before the rest can run."""

    ended: list[RecordedCall]
    asks: list[Ask]


class Execution:
    """Carries out the calls of one run."""

    def __init__(
        self, *, hold: Hold, org_id: UUID, tools: tuple[Tool, ...], services: ToolServices, slots: Slots
    ) -> None:
        self._hold = hold
        self._org_id = org_id
        self._tools = {tool.name: tool for tool in tools}
        self._services = services
        self._slots = slots
        self.gate = asyncio.Lock()  # held while an effect is under way that could not be repeated

    async def carry_out(self, calls: tuple[RecordedCall, ...]) -> Carried:
        """Reads run side by side, effects one by one, in the order in which the model asked.

        From the first call on that a person must agree to, nothing runs: what else needs a person is asked in the
        same pause, and the rest keeps its place behind it. Raises FenceLost or AccessRevoked; everything else becomes
        the call's outcome.
        """
        ended: list[RecordedCall] = []
        asks: list[Ask] = []
        for group in _groups(calls):
            for outcome in await _all(group, self._look_ahead if asks else self._settle):
                match outcome:
                    case RecordedCall():
                        ended.append(outcome)
                    case Ask():
                        asks.append(outcome)
        return Carried(ended, asks)

    async def _settle(self, call: RecordedCall) -> RecordedCall | Ask:
        """The path from its beginning to its end, or to the question that a person must decide first."""
        tool = self._tools.get(call.tool)
        may_be_cut = call.effect is CallEffect.READ or tool is None or tool.is_repeatable
        async with nullcontext() if may_be_cut else self.gate:
            return await self._pass(call)

    async def _pass(self, call: RecordedCall) -> RecordedCall | Ask:
        began = time.monotonic()
        prepared = await self._prepared(call, began)
        if not isinstance(prepared, _Prepared):
            return prepared
        tool = prepared.tool
        is_repeat = call.status is CallStatus.STARTED
        if is_repeat and prepared.effect is not CallEffect.READ and not tool.is_repeatable:
            result = ToolResult(f"{LOST}. {_UNSEEN}")
            return await self._finish(call, CallStatus.UNKNOWN, result, began)
        try:
            begun = await tool_calls.begin(self._hold, call, ceiling_usd=prepared.ceiling_usd)
        except Refused as refusal:
            return await self._finish_unrun(call, CallStatus.REFUSED, str(refusal), began)
        if isinstance(begun, Question):
            if is_repeat and prepared.effect is not CallEffect.READ:
                return await self._finish_unrun(call, CallStatus.REFUSED, begun.why, began)
            return await self._ask(call, prepared, begun, began)
        context = replace(self._context(call), is_repeat=is_repeat, agreed=begun.agreed)
        async with Preview(hold=self._hold, of="call_id", id=call.id, meter=self._slots.previews) as preview:
            status, result = await self._run(prepared, replace(context, on_output=preview.write))
        return await self._finish(call, status, result, began)

    async def _look_ahead(self, call: RecordedCall) -> RecordedCall | Ask | None:
        """What a person must be asked about a call that keeps its place behind another; it is not started."""
        began = time.monotonic()
        prepared = await self._prepared(call, began)
        if not isinstance(prepared, _Prepared):
            return prepared
        try:
            asked = await tool_calls.ask_about(self._hold, call, ceiling_usd=prepared.ceiling_usd)
        except Refused as refusal:
            return await self._finish(call, CallStatus.REFUSED, ToolResult(str(refusal)), began)
        return await self._ask(call, prepared, asked, began) if isinstance(asked, Question) else None

    async def _prepared(self, call: RecordedCall, began: float) -> "_Prepared | RecordedCall":
        """What needs no database: the person's word, the card's grant, the arguments. Or the call's end."""
        if call.is_answered and call.effect is CallEffect.PAUSE:
            result = ToolResult(f"The person answered: {call.result}")
            return await self._finish(call, CallStatus.SUCCEEDED, result, began)
        if call.is_declined:
            return await self._finish(call, CallStatus.REFUSED, ToolResult(_declined(call)), began)
        tool = self._tools.get(call.tool)
        if tool is None:
            have = ", ".join(self._tools) or "none"
            why = f"There is no tool {call.tool!r} here. You have: {have}."
            return await self._finish_unrun(call, CallStatus.REFUSED, why, began)
        try:
            arguments = tool.arguments.model_validate(planning.given(call))
        except (ValidationError, ToolRetry) as error:
            return await self._finish_unrun(call, CallStatus.FAILED, planning.complaint(tool, error), began)
        effect = planning.effect_of(tool, arguments)
        if effect is not call.effect:
            # What was planned, judged and agreed to was another effect: an edit does not widen it.
            why = f"The changed arguments would have the effect {effect}, not {call.effect}: ask for it as a new call."
            return await self._finish_unrun(call, CallStatus.REFUSED, why, began)
        return _Prepared(tool, arguments, effect, tool.ceiling_usd(arguments) if tool.ceiling_usd else Decimal(0))

    async def _ask(
        self, call: RecordedCall, prepared: "_Prepared", question: Question, began: float
    ) -> RecordedCall | Ask:
        """What people are asked, with what the tool shows of the effect; a call that cannot be shown ends here."""
        if prepared.tool.show is None:
            return Ask(call.id, question.why)
        shown: list[Shown] = []

        async def show(arguments: Any, context: ToolContext) -> ToolResult:
            assert prepared.tool.show is not None
            shown.append(await prepared.tool.show(arguments, context))
            return ToolResult(shown[0].text)

        # Showing has no effect: what goes wrong on the way is a failure, never an unknown outcome.
        harmless = replace(prepared, tool=replace(prepared.tool, run=show), effect=CallEffect.READ)
        status, result = await self._attempt(harmless, self._context(call))
        if not shown:
            return await self._finish(call, status, result, began)
        text = plain(shown[0].text)
        if len(text) > _MAX_SHOWN_CHARACTERS:  # nobody agrees to what they cannot see
            why = f"What a person would have to read is {len(text):,} characters long: do it in smaller calls."
            return await self._finish(call, CallStatus.FAILED, ToolResult(why), began)
        return Ask(call.id, question.why, text, shown[0].facts)

    def _context(self, call: RecordedCall) -> ToolContext:
        return ToolContext(
            hold=self._hold,
            org_id=self._org_id,
            call_id=call.id,
            is_repeat=False,
            services=self._services,
        )

    async def _run(self, prepared: "_Prepared", context: ToolContext) -> tuple[CallStatus, ToolResult]:
        """An effect whose outcome nobody saw is tried once more under its key, where the tool can tell a repeat."""
        status, result = await self._attempt(prepared, context)
        if status is CallStatus.UNKNOWN and prepared.tool.is_repeatable:
            return await self._attempt(prepared, replace(context, is_repeat=True))
        return status, result

    async def _attempt(self, prepared: "_Prepared", context: ToolContext) -> tuple[CallStatus, ToolResult]:
        tool = prepared.tool
        try:
            async with self._slots.taken(tool), asyncio.timeout(tool.timeout_seconds):
                return CallStatus.SUCCEEDED, await tool.run(prepared.arguments, context)
        except ToolRetry as error:
            return CallStatus.FAILED, ToolResult(str(error), cost_usd=error.cost_usd, origin=error.origin)
        except ToolRefused as error:
            return CallStatus.REFUSED, ToolResult(str(error), cost_usd=error.cost_usd, origin=error.origin)
        except Refused as error:
            return CallStatus.REFUSED, ToolResult(str(error))
        except (FenceLost, AccessRevoked):
            raise
        except TimeoutError:
            why = f"{tool.name} took longer than {tool.timeout_seconds:g} s and was stopped."
        except Unavailable as error:
            why = f"{tool.name} could not be carried out now: {error}."
        except Exception as error:
            # A tool's own defect must not end the run, nor show its insides to the model or the log.
            log.error("tool broke", tool=tool.name, call_id=str(context.call_id), error=type(error).__name__)
            why = f"{tool.name} broke inside PAM (call {context.call_id}): this is PAM's fault, not yours."
        if prepared.effect is CallEffect.READ:
            return CallStatus.FAILED, ToolResult(why)
        return CallStatus.UNKNOWN, ToolResult(f"{why} {_UNSEEN}")

    async def _finish_unrun(self, call: RecordedCall, status: CallStatus, why: str, began: float) -> RecordedCall:
        """The end of a call that is not run now. A worker that was lost may have run it: then nobody knows."""
        if call.status is CallStatus.STARTED and call.effect is not CallEffect.READ:
            status, why = CallStatus.UNKNOWN, f"{why} {LOST} before. {_UNSEEN}"
        return await self._finish(call, status, ToolResult(why), began)

    async def _finish(self, call: RecordedCall, status: CallStatus, result: ToolResult, began: float) -> RecordedCall:
        text, output = _for_the_model(call.id, plain(result.text))
        seconds = round(time.monotonic() - began, 3)
        cost = result.cost_usd.quantize(_LEAST_USD, ROUND_HALF_UP)  # as the ledger keeps it
        log.info("tool call ended", tool=call.tool, call_id=str(call.id), status=status.value, seconds=seconds)
        notes = {**result.notes, **({"pam.decision": _decision(call)} if call.decision else {})}
        return await tool_calls.finish(
            self._hold,
            call,
            status,
            text,
            narration.outcome(call, status, text, seconds, notes, origin=result.origin, cost_usd=cost),
            origin=plain(result.origin) if result.origin else None,
            cost_usd=cost,
            output=output,
        )


@dataclass(frozen=True)
class _Prepared:
    """A call that may be judged: its tool, its arguments, and what they do and may cost."""

    tool: Tool
    arguments: Any
    effect: CallEffect
    ceiling_usd: Decimal


def _groups(calls: tuple[RecordedCall, ...]) -> list[list[RecordedCall]]:
    """Neighbouring reads together, everything else alone."""
    groups: list[list[RecordedCall]] = []
    for call in calls:
        is_read = call.effect is CallEffect.READ
        if is_read and groups and groups[-1][-1].effect is CallEffect.READ and len(groups[-1]) < _PARALLEL_READS:
            groups[-1].append(call)
        else:
            groups.append([call])
    return groups


async def _all(group: list[RecordedCall], settle: Any) -> list[RecordedCall | Ask | None]:
    """Every call of a group; the first FenceLost or AccessRevoked ends the others."""
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(settle(call)) for call in group]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in started]


def _declined(call: RecordedCall) -> str:
    """A no, for the model: final, with the person's words."""
    assert call.decision is not None
    if call.decision.status is ApprovalStatus.EXPIRED:
        return "Nobody agreed to this call in time, so it was not carried out: say so, and go on without it."
    said = f": {call.decision.note}" if call.decision.note else "."
    return f"A person declined this call{said} Do not try the same by another way; go on without it, or ask."


def _decision(call: RecordedCall) -> dict[str, Any]:
    """What viewers see of a decision."""
    assert call.decision is not None
    return {
        "approval_id": str(call.id),
        "status": call.decision.status.value,
        "is_edited": call.decision.edited_arguments is not None,
    }


def _for_the_model(call_id: UUID, text: str) -> tuple[str, str | None]:
    """The result as the model gets it, and the whole of it when it had to be cut."""
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text, None
    more = len(text) - MAX_RESULT_CHARACTERS
    path = stored_results.path_of(call_id)
    note = (
        f"[cut: {more:,} characters more; file_read {path} from first_character {MAX_RESULT_CHARACTERS + 1} reads on]"
    )
    return f"{text[:MAX_RESULT_CHARACTERS]}\n{note}", text[:_MAX_OUTPUT_CHARACTERS]
