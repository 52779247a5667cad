"""What a tool is: a name, arguments, an effect, limits, and one async function."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools.bound_sql import BoundSql
from workers.tools.redis_space import RedisSpace


class Arguments(BaseModel):
    """The base of every tool's arguments: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class ToolServices:
    """What tools may reach beyond the ledger. None of it holds the service key."""

    sql: BoundSql
    redis: RedisSpace


@dataclass(frozen=True)
class ToolContext:
    """For whom and under what key a call runs. `is_repeat`: a worker was lost after the intent was recorded."""

    hold: Hold
    org_id: UUID
    call_id: UUID
    is_repeat: bool
    services: ToolServices


@dataclass(frozen=True)
class ToolResult:
    """What the model reads, and events that viewers see besides (name → value)."""

    text: str
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tool:
    """One tool. `is_repeatable`: running it again under the same call id has no second effect."""

    name: str
    description: str
    arguments: type[Arguments]
    run: Callable[[Any, ToolContext], Awaitable[ToolResult]]
    effect: CallEffect
    timeout_seconds: float
    is_repeatable: bool
    is_conduct: bool = False

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, without titles that only cost tokens."""
        return {str(key): value for key, value in _untitled(self.arguments.model_json_schema()).items()}


def _untitled(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _untitled(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
    return [_untitled(item) for item in node] if isinstance(node, list) else node
