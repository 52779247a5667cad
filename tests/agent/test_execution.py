"""The path every call takes, where a tool is slow, breaks, or leaves its effect unseen."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from tests.support.database import Database
from workers.agent.decisions import Stop
from workers.agent.limits import MAX_OUTPUT_TOKENS, Allowance, allowance
from workers.agent.planning import plan
from workers.kernel.errors import Unavailable
from workers.kernel.ledger import tool_calls
from workers.kernel.ledger.runs import Run
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus, RecordedCall
from workers.model.protocol import ToolCall
from workers.tools import TOOLS
from workers.tools.tool import Tool, ToolContext, ToolResult


@pytest.fixture
async def bench(database: Database, stack: StackFacts) -> AsyncIterator[Bench]:
    async with Bench.open(database, stack) as opened:
        yield opened


async def carried_out(bench: Bench, tool: Tool, call: RecordedCall) -> RecordedCall:
    """The call by this tool instead of the one it was planned for."""
    return (await bench.carry_out_all(call, tools=(tool,))).ended[0]


def standing_in(effect: CallEffect, run: Any, *, is_repeatable: bool) -> Tool:
    """A tool under a real one's name and arguments that does something else."""
    listed = next(tool for tool in TOOLS if tool.name == "file_list")
    return replace(listed, run=run, effect=effect, is_repeatable=is_repeatable, timeout_seconds=0.2)


@pytest.mark.parametrize(
    ("effect", "is_repeatable", "status", "tries"),
    [
        (CallEffect.READ, True, "failed", 1),
        (CallEffect.WRITE, False, "unknown", 1),
        (CallEffect.WRITE, True, "unknown", 2),
    ],
)
@pytest.mark.parametrize("trouble", ["slow", "away", "broken"])
async def test_an_effect_that_nobody_saw_is_unknown_and_only_a_repeatable_one_is_tried_again(
    bench: Bench, effect: CallEffect, is_repeatable: bool, status: str, tries: int, trouble: str
) -> None:
    repeats: list[bool] = []

    async def run(args: Any, context: ToolContext) -> ToolResult:
        repeats.append(context.is_repeat)
        if trouble == "slow":
            await asyncio.Event().wait()
        raise Unavailable("it is away") if trouble == "away" else RuntimeError("secret-canary")

    tool = standing_in(effect, run, is_repeatable=is_repeatable)
    call = await bench.planned("file_list", {}, tools=(tool,))
    done = await carried_out(bench, tool, call)
    assert done.status.value == status
    assert repeats == [False, True][:tries]
    assert "secret-canary" not in (done.result or "")
    assert ("look before you repeat it" in (done.result or "")) is (status == "unknown")


async def test_a_lost_effect_that_cannot_be_told_apart_is_not_repeated(bench: Bench) -> None:
    ran: list[ToolContext] = []

    async def run(args: Any, context: ToolContext) -> ToolResult:
        ran.append(context)
        return ToolResult("done twice")

    tool = standing_in(CallEffect.WRITE, run, is_repeatable=False)
    call = await bench.planned("file_list", {}, tools=(tool,))
    done = await carried_out(bench, tool, call.model_copy(update={"status": CallStatus.STARTED}))
    assert done.status is CallStatus.UNKNOWN
    assert ran == []


async def test_a_lost_effect_that_is_not_let_run_again_is_unknown_and_not_refused(bench: Bench) -> None:
    async def run(args: Any, context: ToolContext) -> ToolResult:
        raise AssertionError("it runs no more")

    tool = standing_in(CallEffect.EXTERNAL, run, is_repeatable=True)
    told = {"org_id": bench.org_id, "role": "owner", "tool": "file_list", "effect": "external"}
    for policy, tools in (
        ({"is_allowed": False}, (tool,)),
        ({"consent": "ask"}, (tool,)),
        ({}, ()),  # the next version of the worker knows no such tool
    ):
        call = await bench.planned("file_list", {}, tools=(tool,))
        await tool_calls.begin(bench.hold, call)
        if policy:
            await bench.database.rpc(bench.user_id, "set_policy", **told, **policy)
        lost = call.model_copy(update={"status": CallStatus.STARTED})
        carried = await bench.carry_out_all(lost, tools=tools)
        await bench.database.rpc(bench.user_id, "reset_policy", **told)
        assert ([done.status for done in carried.ended], carried.asks) == ([CallStatus.UNKNOWN], []), policy
        assert "look before you repeat it" in (carried.ended[0].result or "")


async def test_an_unknown_outcome_becomes_known_when_the_repeat_succeeds(bench: Bench) -> None:
    async def run(args: Any, context: ToolContext) -> ToolResult:
        if not context.is_repeat:
            raise Unavailable("the answer was lost")
        return ToolResult("done before")

    tool = standing_in(CallEffect.WRITE, run, is_repeatable=True)
    done = await carried_out(bench, tool, await bench.planned("file_list", {}, tools=(tool,)))
    assert (done.status, done.result) == (CallStatus.SUCCEEDED, "done before")


@pytest.mark.parametrize("depth", [65, 260, 100_000])
def test_bottomless_arguments_are_kept_as_they_came(depth: int) -> None:
    text = '{"a":' + "[" * depth + "]" * depth + "}"
    planned = plan(ToolCall(id="c", name="file_list", arguments_json=text), uuid4(), TOOLS)
    assert planned.arguments == {"malformed": text[:200_000]}
    assert planned.model_dump(mode="json")


async def test_an_answer_may_be_no_longer_than_what_is_left(bench: Bench) -> None:
    (row,) = await bench.database.admin("select * from pam.runs where id = %s", bench.hold.run_id)
    run = Run.model_validate(row)

    def allowed(**changed: Any) -> int | Stop:
        left = allowance(run.model_copy(update=changed), models=("rehearsal",), estimated_input_tokens=1_000)
        return left.output_tokens if isinstance(left, Allowance) else left

    assert allowed() == MAX_OUTPUT_TOKENS
    assert allowed(max_tokens=3_000) == 2_000
    cents = allowed(max_cost_usd=Decimal("0.00225"))  # 0.00025 for the input at $0.25, 0.002 left at $2 a million
    assert cents == 1_000
    for changed in ({"max_tokens": 1_100}, {"max_cost_usd": Decimal("0.0003")}, {"steps": run.max_steps}):
        assert isinstance(allowed(**changed), Stop), changed
