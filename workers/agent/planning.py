"""What a model asked for, as the ledger can keep it: arguments made storable, judged against the tool, told apart."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from workers.agent.plain import plain
from workers.kernel.ledger.tool_calls import CallEffect, PlannedCall, RecordedCall
from workers.model.protocol import ToolCall
from workers.tools.failures import ToolRetry
from workers.tools.tool import Tool

_MAX_KEPT_CHARACTERS = 200_000
_MAX_DEPTH = 64


def plan(call: ToolCall, call_id: UUID, tools: tuple[Tool, ...]) -> PlannedCall:
    """A model's call as the ledger keeps it: arguments that are no JSON object are kept as they came."""
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict) or not _storable(arguments):
        arguments = {"malformed": plain(call.arguments_json)[:_MAX_KEPT_CHARACTERS]}
    effect = _planned_effect(next((tool for tool in tools if tool.name == call.name), None), arguments)
    return PlannedCall(
        id=call_id, call_id=plain(call.id)[:200], tool=plain(call.name)[:200], arguments=arguments, effect=effect
    )


def _planned_effect(tool: Tool | None, arguments: dict[str, Any]) -> CallEffect:
    """What the call would do. One whose arguments do not fit never runs: it counts as the tool's strongest."""
    if tool is None:
        return CallEffect.READ
    try:
        return effect_of(tool, tool.arguments.model_validate(arguments))
    except ValidationError:
        return tool.effect


def effect_of(tool: Tool, arguments: Any) -> CallEffect:
    """What a call of the tool with these arguments does to the world."""
    return tool.effect_of(arguments) if tool.effect_of else tool.effect


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


def given(call: RecordedCall) -> dict[str, Any]:
    """The arguments to carry out. Raises ToolRetry when the model sent no JSON object."""
    if set(call.arguments) == {"malformed"}:
        raise ToolRetry("the arguments are no JSON object of plain text")
    return call.given


def complaint(tool: Tool, error: ValidationError | ToolRetry) -> str:
    """What is wrong with the arguments, for the model: no echo of their values."""
    if isinstance(error, ToolRetry):
        return f"The arguments of {tool.name} are no JSON object of whole characters: send them again as valid JSON."
    faults = "; ".join(
        f"{'.'.join(map(str, f['loc'])) or 'arguments'}: {f['msg']}" for f in error.errors(include_url=False)[:8]
    )
    known = ", ".join(tool.arguments.model_fields)
    return f"The arguments of {tool.name} do not fit: {faults}. Its arguments are: {known}."
