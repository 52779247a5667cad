"""A run that asks no model: its one step is a call that a job planned, on the path that every call takes."""

import hashlib
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

from workers.agent.decisions import Reply, Stop
from workers.agent.planning import plan
from workers.kernel.ledger.steps import Step
from workers.kernel.ledger.tool_calls import CallStatus, PlannedCall, RecordedCall
from workers.model.protocol import ToolCall
from workers.tools.tool import Tool

NO_MODEL = "none"


def planned(
    task: dict[str, Any], *, message_id: UUID, call_id: UUID, tools: tuple[Tool, ...]
) -> tuple[Step, PlannedCall]:
    """The step, free of charge, and its call."""
    given = json.dumps(task["arguments"], ensure_ascii=False)
    call = plan(ToolCall(id="job", name=str(task["tool"]), arguments_json=given), call_id, tools)
    digest = hashlib.sha256(given.encode()).hexdigest()
    step = Step(
        position=1, message_id=message_id, text="", model=NO_MODEL, input_sha256=digest,
        finish="tool_calls", input_tokens=0, cached_input_tokens=0, output_tokens=0, is_estimated=False,
        cost_usd=Decimal(0), seconds=0,
    )  # fmt: skip
    return step, call


def ended(call: RecordedCall) -> Reply | Stop:
    """What the call's outcome makes of the run."""
    if call.status is CallStatus.SUCCEEDED:
        return Reply(call.result or "")
    return Stop(f"call_{call.status.value}", call.result or f"The call of {call.tool} ended as {call.status.value}.")
