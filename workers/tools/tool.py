"""What a tool is: a name, arguments, an effect, limits, and one async function."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.tool_calls import CallEffect
from workers.kernel.model_api import ModelApi
from workers.kernel.workspace import Workspace
from workers.logs.query import LogStore
from workers.outbound.breaker import Breaker
from workers.outbound.client import Outbound
from workers.outbound.credentials import Credentials
from workers.sandbox.sandbox import Runner
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
    workspace: Workspace
    outbound: Outbound
    sandbox: Runner
    own_logs: LogStore | None  # of PAM's own processes; None where the operator said no place
    model_api: ModelApi
    breaker: Breaker
    known: Mapping[str, type[Arguments]]  # the arguments of every registered tool, for who plans a call of another
    credentials: Credentials | None = None


@dataclass(frozen=True)
class Shown:
    """What a person is shown before deciding on a call. `facts` come back to the call when it was approved."""

    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ToolContext:
    """For whom and under what key a call runs.

    `is_repeat`: a worker was lost after the intent was recorded. `agreed`: the facts that a person was shown and
    approved, None when the policy asked nobody. `on_output` shows text to the run's viewers while the call runs.
    """

    hold: Hold
    org_id: UUID
    call_id: UUID
    is_repeat: bool
    services: ToolServices
    agreed: dict[str, Any] | None = None
    on_output: Callable[[str], Awaitable[None]] | None = None


@dataclass(frozen=True)
class ToolResult:
    """What the model reads, and events that viewers see besides (name → value).

    `text` may hold up to 4 MiB: the path cuts it for the model and keeps the rest for file_read.
    `origin` names where the content came from when PAM did not say it itself (a page, a file, rows, a log): the model
    gets it marked as data, and the run counts as having read what nobody vouches for.
    """

    text: str
    notes: dict[str, Any] = field(default_factory=dict)
    origin: str | None = None
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True)
class Tool:
    """One tool. `is_repeatable`: running it again under the same call id has no second effect.

    `effect` is the strongest that the tool can have; `effect_of` says what a call with these arguments has, where they
    decide. `show` makes what a person sees when the policy asks for consent; without it they see the arguments.
    `ceiling_usd` is the most that a call can cost, reserved before it runs.
    """

    name: str
    description: str
    arguments: type[Arguments]
    run: Callable[[Any, ToolContext], Awaitable[ToolResult]]
    effect: CallEffect
    timeout_seconds: float
    is_repeatable: bool
    is_conduct: bool = False
    effect_of: Callable[[Any], CallEffect] | None = None
    show: Callable[[Any, ToolContext], Awaitable[Shown]] | None = None
    ceiling_usd: Callable[[Any], Decimal] | None = None
    max_parallel: int = 4

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, without titles that only cost tokens."""
        return {str(key): value for key, value in _untitled(self.arguments.model_json_schema()).items()}


def _untitled(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _untitled(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
    return [_untitled(item) for item in node] if isinstance(node, list) else node
