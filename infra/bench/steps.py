"""Figures of a step that a run adds: everything durable here, against openai-agents' step, which keeps nothing."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import psycopg
import structlog

from infra.bench.measure import Row, Timed, compared
from infra.bench.queued import queue_runs
from infra.bench.runs import Bench
from infra.bench.steady_model import TOOL, steady_model, steps_question
from workers.agent.heart import Heart
from workers.agent.shutdown import LeavingFlag
from workers.agent.slots import Slots
from workers.agent.turn import Turns
from workers.kernel.worker_gateway import WorkerGateway
from workers.model.chain import ModelChain
from workers.model.openai_wire import OpenAIModel
from workers.model.retry import Retries, RetryingModel
from workers.outbound.breaker import Breaker
from workers.tools import file_list
from workers.tools.tool import ToolContext, ToolResult, ToolServices

FEW, MANY = 10, 40
NOTE = (
    "both ask one model over HTTP that answers at once, and call one tool that does nothing; ours streams and records"
    " step, message, call, intent, outcome and events in Postgres, openai-agents neither streams nor keeps anything;"
    f" the mean of steps {FEW + 1} to {MANY}, which grow with the conversation"
)


async def _nothing(args: Any, context: ToolContext) -> ToolResult:
    return ToolResult("done")


@asynccontextmanager
async def turns_of_a_worker(bench: Bench, model_url: str) -> AsyncIterator[Turns]:
    """What a worker process shares among its runs, in this process and with a tool that does nothing."""
    before = structlog.get_config()  # two lines for each step would be measured, too
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    facts = bench.facts
    gateway = WorkerGateway(dsn=facts.worker_dsn)
    breaker = Breaker(url=facts.upstash_url, token=facts.upstash_token)
    model = OpenAIModel(name=facts.model, api_key="none", base_url=model_url)
    leaving = LeavingFlag()
    await gateway.open()
    try:
        yield Turns(
            gateway=gateway,
            model=ModelChain(models=[RetryingModel(model=model, retries=Retries())], breaker=breaker),
            tools=(replace(file_list.TOOL, run=_nothing),),
            services=cast(ToolServices, None),  # a tool that does nothing needs none
            slots=Slots(),
            leaving=leaving,
            heart=Heart(gateway=gateway, leaving=leaving, lease_seconds=600, pulse_seconds=60),
            worker="bench",
        )
    finally:
        structlog.configure(**before)
        await breaker.close()
        await gateway.close()


def _per_step(run: Any, few: int, many: int) -> Timed:
    """The slope: what many steps take more than few, for each of those added; `run` takes steps, answers seconds."""

    async def once() -> float:
        return float(await run(many) - await run(few)) / (many - few)

    return once


async def durable_step(bench: Bench, *, few: int = FEW, many: int = MANY, runs: int = 9) -> Row:
    """A step that a run adds, in this process: everything recorded by us, nothing by openai-agents' Runner.

    `few` and `many` are the steps of the two runs whose times are taken from each other.
    """
    async with (
        steady_model(pause_seconds=0) as url,
        turns_of_a_worker(bench, url) as turns,
        await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as database,
    ):
        unpersisted = _unpersisted(url)

        async def durable(steps: int) -> float:
            (run_id,) = await queue_runs(database, bench, 1, question=steps_question(steps))
            began = time.perf_counter()
            claim = await turns.next()
            if claim is None or claim.run.id != run_id:
                raise RuntimeError("another run than the bench's was next")
            await turns.advance(claim)
            taken = time.perf_counter() - began
            ended = await database.execute("select status::text, steps, reason from pam.runs where id = %s", [run_id])
            if (row := await ended.fetchone()) != ("succeeded", steps + 1, None):
                raise RuntimeError(f"the run ended as {row}")
            return taken

        return await compared(
            "added step, everything durable",
            _per_step(durable, few, many),
            "the same step by openai-agents, nothing kept",
            _per_step(unpersisted, few, many),
            runs=runs,
            note=NOTE,
            must=0.40,
            aim=0.20,
        )


def _unpersisted(url: str) -> Any:
    """A run of so many steps by openai-agents, over Chat Completions and without its tracing; answers seconds."""
    import agents  # in the test lock alone, and slow to load

    def nothing() -> str:
        return "done"

    tool = agents.function_tool(nothing, name_override=TOOL, description_override=file_list.TOOL.description)
    agent = agents.Agent(name="bench", instructions="You measure.", tools=[tool])
    provider = agents.OpenAIProvider(api_key="none", base_url=url, use_responses=False)
    config = agents.RunConfig(model="steady", model_provider=provider, tracing_disabled=True)

    async def run(steps: int) -> float:
        began = time.perf_counter()
        result = await agents.Runner.run(agent, steps_question(steps), max_turns=steps + 1, run_config=config)
        taken = time.perf_counter() - began
        if len(result.raw_responses) != steps + 1:
            raise RuntimeError(f"openai-agents took {len(result.raw_responses)} turns, not {steps + 1}")
        return taken

    return run
