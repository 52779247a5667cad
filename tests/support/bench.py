"""A run in its worker's hands, to carry out one tool call at a time: real ledger, real services, no model."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import httpcore

from infra.cli.setting import home
from infra.local.facts import StackFacts
from tests.support.database import Database
from workers.agent.execution import Carried, Execution
from workers.agent.planning import plan
from workers.agent.slots import Slots
from workers.kernel.blobs import FolderBlobs
from workers.kernel.envelope import Envelope
from workers.kernel.key_file import LocalKeyRing
from workers.kernel.ledger import messages, runs, steps, tool_calls
from workers.kernel.ledger.approvals import Ask
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.steps import Step
from workers.kernel.ledger.tool_calls import CallStatus, RecordedCall
from workers.kernel.worker_gateway import WorkerGateway
from workers.kernel.workspace import Workspace
from workers.logs.local_store import LocalLogs
from workers.model.openai_api import OpenAIApi
from workers.model.openai_wire import OpenAIModel
from workers.model.protocol import ToolCall
from workers.model.retry import Retries
from workers.outbound.breaker import Breaker
from workers.outbound.client import Outbound
from workers.outbound.limits import OutboundLimits
from workers.outbound.network import GuardedNetwork, public_trust, system_resolver
from workers.sandbox.probe import ProbedSandbox, sandbox_home
from workers.tools import REGISTERED, TOOLS
from workers.tools.bound_sql import BoundSql, SqlLimits
from workers.tools.redis_space import RedisSpace
from workers.tools.tool import Tool, ToolContext, ToolServices

_TOOLS = {tool.name: tool for tool in TOOLS}


def folder_workspace(folder: Path) -> Workspace:
    """A workspace whose history lies in a folder, sealed under a key file beside it."""
    LocalKeyRing.make_file(folder / "keys.json")
    envelope = Envelope(ring=LocalKeyRing(file=folder / "keys.json"))
    return Workspace(blobs=FolderBlobs(folder=folder / "files", envelope=envelope))


@dataclass
class Bench:
    """One claimed run of a person in an organisation."""

    database: Database
    hold: Hold
    org_id: UUID
    user_id: UUID
    services: ToolServices
    steps: int = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, facts: StackFacts, *, limits: SqlLimits | None = None
    ) -> AsyncIterator["Bench"]:
        """A new person, organisation and run, and the services that its tools may reach."""
        gateway = WorkerGateway(dsn=database.worker_dsn)
        sql = BoundSql(dsn=database.agent_dsn, limits=limits)
        redis = RedisSpace(url=facts.upstash_url, token=facts.upstash_token)
        breaker = Breaker(url=facts.upstash_url, token=facts.upstash_token)
        network = GuardedNetwork(
            resolver=system_resolver, connector=httpcore.AnyIOBackend(), trust=public_trust(), may_reach_loopback=True
        )
        outbound = Outbound(network=network, breaker=breaker, limits=OutboundLimits(backoff_seconds=0))
        wire = OpenAIModel(name="rehearsal", api_key="sk-canary-of-the-bench", base_url=facts.rehearsal_url)
        retries = Retries(max_attempts=3, total_seconds=100, base_pause_seconds=0.01)
        model_api = OpenAIApi(
            wire=wire, base_url=facts.rehearsal_url, models=("rehearsal", "rehearsal-small"), retries=retries
        )
        sandbox = ProbedSandbox(home=sandbox_home(str(home())))
        await gateway.open()
        await sql.open()
        try:
            user, org = await database.new_organization()
            logs = LocalLogs(folder=Path(facts.state) / "logs")
            with TemporaryDirectory(prefix="pam-files-") as folder:
                services = ToolServices(
                    sql=sql, redis=redis, workspace=folder_workspace(Path(folder)), outbound=outbound, own_logs=logs,
                    model_api=model_api, breaker=breaker, sandbox=sandbox, known=REGISTERED,
                )  # fmt: skip
                yield await cls._claimed(database, gateway, services, user, org)
        finally:
            await sandbox.close()
            await model_api.aclose()
            await breaker.close()
            await redis.close()
            await sql.close()
            await gateway.close()

    @classmethod
    async def _claimed(
        cls, database: Database, gateway: WorkerGateway, services: ToolServices, user: UUID, org: UUID
    ) -> "Bench":
        run = await database.new_run(user, org)
        hold = Hold(gateway, run, await database.claimed(run, lease_seconds=600))
        return cls(database, hold, org, user, services)

    async def beside(self) -> "Bench":
        """Another run of the same person in the same organisation."""
        return await self._claimed(self.database, self.hold.gateway, self.services, self.user_id, self.org_id)

    async def elsewhere(self) -> "Bench":
        """A run of somebody else in another organisation."""
        user, org = await self.database.new_organization()
        return await self._claimed(self.database, self.hold.gateway, self.services, user, org)

    async def planned(self, tool: str, arguments: dict[str, Any], *, tools: tuple[Tool, ...] = TOOLS) -> RecordedCall:
        """Record a step whose model asks for this call."""
        self.steps += 1
        asked = ToolCall(id=f"call_{self.steps}", name=tool, arguments_json=json.dumps(arguments))
        call = plan(asked, uuid4(), tools)
        step = Step(
            position=self.steps, message_id=uuid4(), text="", model="bench", input_sha256="", finish="tool_calls",
            input_tokens=1, cached_input_tokens=0, output_tokens=1, is_estimated=False, cost_usd=0, seconds=0,  # type: ignore[arg-type]
        )  # fmt: skip
        await steps.record(self.hold, step, [call], [])
        return RecordedCall(**call.model_dump(), step=self.steps, place=1, status=CallStatus.PLANNED, result=None)

    async def carry_out(self, call: RecordedCall) -> RecordedCall:
        """The path that every call takes, from intent to outcome."""
        carried = await self.carry_out_all(call)
        assert not carried.asks, carried.asks
        return carried.ended[0]

    async def carry_out_all(self, *calls: RecordedCall, tools: tuple[Tool, ...] = TOOLS) -> Carried:
        """The path for several calls of a step, with what people must be asked."""
        execution = Execution(hold=self.hold, org_id=self.org_id, tools=tools, services=self.services, slots=Slots())
        return await execution.carry_out(calls)

    async def asked(self, tool: str, /, **arguments: Any) -> tuple[RecordedCall, Ask]:
        """A call that a person must agree to, with what they are asked; nothing has run."""
        call = await self.planned(tool, arguments)
        carried = await self.carry_out_all(call)
        assert not carried.ended, carried.ended
        return call, carried.asks[0]

    async def agreed(self, tool: str, /, **arguments: Any) -> tuple[str, str]:
        """A call that the run waits with, that its person approves, and that is carried out then."""
        call, ask = await self.asked(tool, **arguments)
        decided = await self.decided(call, ask, verdict="approve")
        done = await self.carry_out(decided)
        return done.status.value, done.result or ""

    async def decided(self, call: RecordedCall, ask: Ask, *, by: UUID | None = None, **decision: Any) -> RecordedCall:
        """Let the run wait with this question, decide it as a person (the asker unless said), and claim the run again."""
        await runs.interrupt(self.hold, [ask], events=[])
        answer = await self.database.rpc(
            by or self.user_id, "decide", decisions=[{"approval_id": str(call.id), **decision}]
        )
        assert "status" in answer["results"][0], answer
        fence = await self.database.claimed(self.hold.run_id, lease_seconds=600)
        self.hold = Hold(self.hold.gateway, self.hold.run_id, fence)
        read = await messages.read(self.hold)
        return next(known for known in read.calls if known.id == call.id)

    async def use(self, tool: str, /, **arguments: Any) -> tuple[str, str]:
        """One call: how it went, and what the model reads."""
        done = await self.carry_out(await self.planned(tool, arguments))
        return done.status.value, done.result or ""

    async def effect_without_outcome(self, tool: str, /, **arguments: Any) -> RecordedCall:
        """A call whose worker was lost after the effect and before its record; to be carried out again."""
        call = await self.planned(tool, arguments)
        await tool_calls.begin(self.hold, call)
        context = ToolContext(
            hold=self.hold, org_id=self.org_id, call_id=call.id, is_repeat=False, services=self.services
        )
        await _TOOLS[tool].run(_TOOLS[tool].arguments.model_validate(arguments), context)
        return call.model_copy(update={"status": CallStatus.STARTED})
