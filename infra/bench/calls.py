"""Figures of the path of a tool call: what judging, recording and telling cost, without the tool."""

import time
from dataclasses import replace
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg

from infra.bench.measure import Row, compared
from infra.bench.runs import Bench
from workers.agent.execution import Execution
from workers.agent.planning import plan
from workers.agent.slots import Slots
from workers.kernel import telemetry
from workers.kernel.ledger import steps
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.steps import Step
from workers.kernel.ledger.tool_calls import CallStatus, RecordedCall
from workers.kernel.worker_gateway import WorkerGateway
from workers.model.protocol import ToolCall
from workers.tools import file_list
from workers.tools.tool import ToolContext, ToolResult, ToolServices

CALLS = 20
_HELD_RUN = """
with thread as (
  insert into pam.threads (org_id, title, created_by) values (%(org)s, 'bench', %(user)s) returning id),
run as (
  insert into pam.runs (org_id, thread_id, agent_id, agent_version, user_id, status, turn, max_steps, max_tokens,
                        max_cost_usd, deadline_at, request_sha256)
  select %(org)s, thread.id, a.id, a.version, %(user)s, 'running', 1, 200, 1000000, 1, now() + interval '1 hour', ''
    from pam.agents a, thread where a.org_id = %(org)s and a.name = 'bench' returning id)
insert into pam_private.run_heads (run_id, fence, worker, lease_until)
select run.id, 1, 'bench', now() + interval '1 hour' from run returning run_id
"""


async def _nothing(args: Any, context: ToolContext) -> ToolResult:
    return ToolResult("done")


async def held_run(bench: Bench, gateway: WorkerGateway) -> Hold:
    """A run of the bench's person in this process's hands, for an hour."""
    values = {"org": UUID(bench.org_id), "user": UUID(bench.person.user_id)}
    async with await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as connection:
        row = await (await connection.execute(_HELD_RUN.encode(), values)).fetchone()
    if row is None:
        raise RuntimeError("the bench's agent is not there")
    return Hold(gateway, row[0], 1)


async def path_of_a_call(bench: Bench) -> Row:
    """A call of a tool that does nothing, by the whole path, against a bare call of it and one insert."""
    telemetry.configure("bench", level="warning")  # a line for each call would be measured, too
    tool = replace(file_list.TOOL, run=_nothing)
    gateway = WorkerGateway(dsn=bench.facts.worker_dsn)
    await gateway.open()
    connection = await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True)
    try:
        hold = await held_run(bench, gateway)
        execution = Execution(
            hold=hold,
            org_id=UUID(bench.org_id),
            tools=(tool,),
            services=cast(ToolServices, None),  # a tool that does nothing needs none
            slots=Slots(),
        )
        await connection.execute("create unlogged table public.bench_calls (id uuid primary key, result text)")
        position = 0

        async def by_the_path() -> float:
            nonlocal position
            position += 1
            calls = [
                plan(ToolCall(id=str(n), name=tool.name, arguments_json="{}"), uuid4(), (tool,)) for n in range(CALLS)
            ]
            await steps.record(hold, _step(position), calls, [])
            planned = [
                RecordedCall(**call.model_dump(), step=position, place=place, status=CallStatus.PLANNED, result=None)
                for place, call in enumerate(calls, start=1)
            ]
            began = time.perf_counter()
            for call in planned:
                await execution.carry_out((call,))
            return (time.perf_counter() - began) / CALLS

        async def bare() -> float:
            arguments = tool.arguments()
            context = cast(ToolContext, None)
            began = time.perf_counter()
            for _ in range(CALLS):
                result = await tool.run(arguments, context)
                await connection.execute(
                    "insert into public.bench_calls values (%s, %s)", [uuid4(), result.text], prepare=True
                )
            return (time.perf_counter() - began) / CALLS

        return await compared("path of a tool call, without the tool", by_the_path, "a bare call and one insert", bare)
    finally:
        await connection.execute("drop table if exists public.bench_calls")
        await connection.close()
        await gateway.close()


def _step(position: int) -> Step:
    return Step(
        position=position, message_id=uuid4(), text="", model="bench", input_sha256="", finish="tool_calls",
        input_tokens=1, cached_input_tokens=0, output_tokens=1, is_estimated=False, cost_usd=0, seconds=0,  # type: ignore[arg-type]
    )  # fmt: skip
