"""The one path every tool call takes: granted, valid, intent recorded, run under its limits, outcome recorded."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError

from workers.agent import narration
from workers.agent.plain import plain
from workers.kernel.errors import AccessRevoked, FenceLost, Refused, Unavailable
from workers.kernel.ledger import tool_calls
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus, PlannedCall, RecordedCall
from workers.model.protocol import ToolCall
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.tool import Tool, ToolContext, ToolResult, ToolServices

MAX_RESULT_CHARACTERS = 80_000
_PARALLEL_READS = 4
_MAX_KEPT_CHARACTERS = 200_000

_MAX_DEPTH = 64
_UNSEEN = "Nobody knows whether it took effect: look before you repeat it."

log = structlog.get_logger()


def plan(call: ToolCall, call_id: UUID, tools: tuple[Tool, ...]) -> PlannedCall:
    """A model's call as the ledger keeps it: arguments that are no JSON object are kept as they came."""
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict) or not _storable(arguments):
        arguments = {"malformed": plain(call.arguments_json)[:_MAX_KEPT_CHARACTERS]}
    effect = next((tool.effect for tool in tools if tool.name == call.name), CallEffect.READ)
    return PlannedCall(
        id=call_id, call_id=plain(call.id)[:200], tool=plain(call.name)[:200], arguments=arguments, effect=effect
    )


def _storable(arguments: dict[str, Any]) -> bool:
    """Whether jsonb can keep them: finite numbers, whole characters, no NUL, neither endless nor bottomless."""
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    if len(text) >= 2_500_000 or _is_deeper(arguments, _MAX_DEPTH):
        return False
    return all(plain(piece) == piece for piece in _texts(arguments))


def _is_deeper(node: Any, levels: int) -> bool:
    """Whether a JSON value nests deeper than this."""
    if not isinstance(node, (dict, list)):
        return False
    if levels == 0:
        return True
    return any(_is_deeper(child, levels - 1) for child in (node.values() if isinstance(node, dict) else node))


def _texts(node: Any) -> Iterator[str]:
    """Every text in a JSON value, keys too."""
    match node:
        case str():
            yield node
        case dict():
            yield from node
            for value in node.values():
                yield from _texts(value)
        case list():
            for value in node:
                yield from _texts(value)


class Execution:
    """Carries out the calls of one run."""

    def __init__(self, *, hold: Hold, org_id: UUID, tools: tuple[Tool, ...], services: ToolServices) -> None:
        self._hold = hold
        self._org_id = org_id
        self._tools = {tool.name: tool for tool in tools}
        self._services = services

    async def carry_out(self, calls: tuple[RecordedCall, ...]) -> list[RecordedCall]:
        """Reads run side by side, effects one by one, in the order in which the model asked.

        Raises FenceLost or AccessRevoked; everything else becomes the call's outcome.
        """
        done: list[RecordedCall] = []
        for group in _groups(calls):
            done += await _all(group, self._settle)
        return done

    async def _settle(self, call: RecordedCall) -> RecordedCall:
        began = time.monotonic()
        if call.is_answered:
            return await self._finish(
                call, CallStatus.SUCCEEDED, ToolResult(f"The person answered: {call.result}"), began
            )
        tool = self._tools.get(call.tool)
        if tool is None:
            have = ", ".join(self._tools) or "none"
            return await self._finish(
                call,
                CallStatus.REFUSED,
                ToolResult(f"There is no tool {call.tool!r} here. You have: {have}."),
                began,
            )
        try:
            arguments = tool.arguments.model_validate(_given(call))
        except (ValidationError, ToolRetry) as error:
            return await self._finish(call, CallStatus.FAILED, ToolResult(_complaint(tool, error)), began)
        is_repeat = call.status is CallStatus.STARTED
        if is_repeat and tool.effect is not CallEffect.READ and not tool.is_repeatable:
            return await self._finish(
                call, CallStatus.UNKNOWN, ToolResult(f"A worker was lost while this call ran. {_UNSEEN}"), began
            )
        await tool_calls.begin(self._hold, call)
        context = ToolContext(
            hold=self._hold,
            org_id=self._org_id,
            call_id=call.id,
            is_repeat=is_repeat,
            services=self._services,
        )
        status, result = await self._run(tool, arguments, context)
        return await self._finish(call, status, result, began)

    async def _run(self, tool: Tool, arguments: Any, context: ToolContext) -> tuple[CallStatus, ToolResult]:
        """An effect whose outcome nobody saw is tried once more under its key, where the tool can tell a repeat."""
        status, result = await self._attempt(tool, arguments, context)
        if status is CallStatus.UNKNOWN and tool.is_repeatable:
            return await self._attempt(tool, arguments, replace(context, is_repeat=True))
        return status, result

    async def _attempt(self, tool: Tool, arguments: Any, context: ToolContext) -> tuple[CallStatus, ToolResult]:
        try:
            async with asyncio.timeout(tool.timeout_seconds):
                return CallStatus.SUCCEEDED, await tool.run(arguments, context)
        except ToolRetry as error:
            return CallStatus.FAILED, ToolResult(str(error))
        except (ToolRefused, Refused) as error:
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
        if tool.effect is CallEffect.READ:
            return CallStatus.FAILED, ToolResult(why)
        return CallStatus.UNKNOWN, ToolResult(f"{why} {_UNSEEN}")

    async def _finish(self, call: RecordedCall, status: CallStatus, result: ToolResult, began: float) -> RecordedCall:
        text = _plain_result(result.text)
        seconds = round(time.monotonic() - began, 3)
        log.info("tool call ended", tool=call.tool, call_id=str(call.id), status=status.value, seconds=seconds)
        return await tool_calls.finish(
            self._hold, call, status, text, narration.outcome(call, status, text, seconds, result.notes)
        )


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


async def _all(group: list[RecordedCall], settle: Any) -> list[RecordedCall]:
    """Every call of a group; the first FenceLost or AccessRevoked ends the others."""
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(settle(call)) for call in group]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in started]


def _given(call: RecordedCall) -> dict[str, Any]:
    if set(call.arguments) == {"malformed"}:
        raise ToolRetry("the arguments are no JSON object of plain text")
    return call.arguments


def _complaint(tool: Tool, error: ValidationError | ToolRetry) -> str:
    """What is wrong with the arguments, for the model: no echo of their values."""
    if isinstance(error, ToolRetry):
        return f"The arguments of {tool.name} are no JSON object of whole characters: send them again as valid JSON."
    faults = "; ".join(
        f"{'.'.join(map(str, f['loc'])) or 'arguments'}: {f['msg']}" for f in error.errors(include_url=False)[:8]
    )
    known = ", ".join(tool.arguments.model_fields)
    return f"The arguments of {tool.name} do not fit: {faults}. Its arguments are: {known}."


def _plain_result(text: str) -> str:
    kept = plain(text)
    if len(kept) <= MAX_RESULT_CHARACTERS:
        return kept
    more = len(kept) - MAX_RESULT_CHARACTERS
    return f"{kept[:MAX_RESULT_CHARACTERS]}\n[cut: {more:,} characters more; ask for a narrower part]"
