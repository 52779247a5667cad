"""A stack without workers of its own, and a lab that starts, stops and kills them at chosen points of a run."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis.asyncio

from infra.chaos import evidence
from infra.chaos.evidence import Evidence
from infra.chaos.outside import OutsideLedger
from infra.chaos.parts import NO_POWER_CUT
from infra.chaos.team import SCRIPTS, Team
from infra.chaos.workers import LEASE_SECONDS, WorkerProcess
from infra.local.attach import running_stack
from infra.local.facts import StackFacts
from infra.local.stack import ROOT, StackOptions
from tests.support.house import Engineer, House

HERE = Path(__file__).parent
TAKEOVER_SECONDS = 12.0  # lease, sweep, and the rest of the run


class Lab:
    """The stack, its people, and the workers that a test may do anything to."""

    def __init__(
        self, *, facts: StackFacts, house: House, ada: Engineer, ledger: OutsideLedger, homeless: WorkerProcess
    ) -> None:
        self.facts = facts
        self.house = house
        self.ada = ada
        self.ledger = ledger
        self.homeless = homeless  # a worker whose database is not there: it needs ten seconds to give up
        self._workers: list[WorkerProcess] = []

    async def staff(self) -> None:
        """Two workers ready and a third on its way; those that a test has killed are replaced."""
        self._workers = [worker for worker in self._workers if worker.is_alive]
        missing = range(3 - len(self._workers))
        self._workers += await asyncio.gather(*(WorkerProcess.start(self.facts) for _ in missing))
        await asyncio.gather(*(worker.ready() for worker in self._workers[:2]))

    @property
    def workers(self) -> list[WorkerProcess]:
        """Those that live."""
        return [worker for worker in self._workers if worker.is_alive]

    async def close(self) -> None:
        """End every worker."""
        for worker in [*self.workers, self.homeless]:
            if worker.is_alive:
                await worker.kill()

    async def holder(self, run_id: str) -> WorkerProcess:
        """The worker that holds the run."""
        name = (await self.house.admin("select worker from pam_private.run_heads where run_id = %s", run_id))[0][
            "worker"
        ]
        return next(worker for worker in self._workers if name.endswith(f":{worker.pid}"))

    async def team(self) -> Team:
        """Somebody new whose runs take twelve steps and reach the outside ledger."""
        return await Team.found(self.facts, self.ledger)

    async def start(self, script: str) -> tuple[str, str]:
        """Start a run on a script; answers its id and its message."""
        message = await self.house.script(script)
        return await self.ada.start(message), message

    async def model_is_asked(self, message: str) -> None:
        """Wait until the model has begun to answer the first turn."""
        async with asyncio.timeout(20):
            while 1 in (await self.house.unused(message)).get("unused", {}).get(message.split()[-1].rstrip("."), []):
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def barrier(self, place: str, script: str) -> AsyncIterator[tuple[str, str]]:
        """A run that stands still where it comes to this place; afterwards the way is free."""
        message = await self.house.script(script)
        async with await psycopg.AsyncConnection.connect(self.facts.admin_dsn, autocommit=True) as gate:
            await self.switch("lose webhooks", is_on=True)  # nobody may claim it before the barrier stands
            run_id = await self.ada.start(message)
            await gate.execute("insert into fault.barriers values (%s, %s)", [run_id, place])
            await gate.execute("select pg_advisory_lock(hashtextextended('fault ' || %s, 0))", [run_id])
            await self.switch("lose webhooks", is_on=False)
            await self.age(run_id)
            async with asyncio.timeout(20):
                while not await self._waiting():
                    await asyncio.sleep(0.02)
            try:
                yield run_id, message
            finally:
                await gate.execute("delete from fault.barriers where run_id = %s", [run_id])

    async def _waiting(self) -> list[dict[str, Any]]:
        return await self.house.admin(
            "select pid from pg_stat_activity where wait_event_type = 'Lock' and wait_event = 'advisory'"
        )

    async def kill_at_the_barrier(self, run_id: str) -> WorkerProcess:
        """kill -9 the worker that stands at the barrier; its statement dies uncommitted with its connection."""
        worker = await self.holder(run_id)
        await worker.kill()
        for row in await self._waiting():
            await self.house.admin("select pg_terminate_backend(%s, 5000)", row["pid"])
        return worker

    async def age(self, run_id: str) -> None:
        """Let the ring for a queued run be an old one, so that the next sweep rings again."""
        await self.house.admin(
            "update pam_private.run_heads set rung_at = rung_at - interval '11 s' where run_id = %s", run_id
        )

    async def switch(self, name: str, *, is_on: bool) -> None:
        """Turn a standing fault on or off."""
        turn = (
            "insert into fault.switches values (%s) on conflict do nothing"
            if is_on
            else "delete from fault.switches where name = %s"
        )
        await self.house.admin(turn, name)

    @asynccontextmanager
    async def without_redis(self) -> AsyncIterator[None]:
        """Redis is killed, and stays away; afterwards it comes back with what it had kept."""
        url = self.facts.redis_url
        pids = await asyncio.to_thread(_children, Path(self.facts.state))
        os.kill(self.facts.supervisor_pid, signal.SIGSTOP)  # else it starts Redis again at once
        try:
            os.kill(pids["redis"], signal.SIGKILL)
            yield
        finally:
            os.kill(self.facts.supervisor_pid, signal.SIGCONT)
        client = redis.asyncio.Redis.from_url(url)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(redis.exceptions.RedisError, OSError):
                    await client.ping()
                    break
                await asyncio.sleep(0.05)
        await client.aclose()

    async def ended(self, run_id: str, *, status: str = "succeeded") -> dict[str, Any]:
        """The run when it has ended in time, its log whole and valid."""
        async with asyncio.timeout(TAKEOVER_SECONDS + LEASE_SECONDS):
            run = await self.house.until(run_id)
        assert run["status"] == status, (run["status"], run["reason"], [w.log[-2000:] for w in self._workers])
        await self.house.events(run_id)
        return run

    async def claims(self, run_id: str) -> int:
        """How often the run was claimed, as its log says."""
        rows = await self.house.events(run_id)
        return sum(e["type"] == "RUN_STARTED" or (e["type"] == "CUSTOM" and e["name"] == "pam.resumed") for e in rows)


def _children(state: Path) -> dict[str, int]:
    found: dict[str, tuple[int, float]] = json.loads((state / "children.json").read_text())
    return {name: pid for name, (pid, _) in found.items()}


@pytest.fixture(scope="module")
async def lab() -> AsyncIterator[Lab]:
    """The lab, with a stack of its own."""
    folder = Path(tempfile.mkdtemp(prefix="pam-faults-"))
    folder.chmod(0o755)
    options = StackOptions(
        state=folder / "stack",
        home=Path(os.environ.get("PAM_HOME") or ROOT / ".pam").resolve(),
        model=None,
        workers=0,
        scripts=(SCRIPTS,),
        postgres_settings=NO_POWER_CUT,
    )
    async with running_stack(options) as facts, House.open(facts) as house, OutsideLedger.open() as ledger:
        async with await psycopg.AsyncConnection.connect(facts.admin_dsn, autocommit=True) as connection:
            for name in ("fault.sql", "boundaries.sql"):
                await connection.execute((HERE / name).read_bytes())
        nowhere = "postgresql://pam_worker:x@127.0.0.1:9/postgres"
        homeless = await WorkerProcess.start(facts, PAM_DATABASE_URL=nowhere)
        opened = Lab(facts=facts, house=house, ada=await house.engineer(), ledger=ledger, homeless=homeless)
        try:
            yield opened
        finally:
            await opened.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
async def invariants(lab: Lab) -> AsyncIterator[None]:
    """After every scenario, every run has ended and every invariant holds."""
    yield
    alive = await lab.house.admin("select id from pam.runs where status in ('queued', 'running')")
    for row in alive:
        await lab.house.until(str(row["id"]))
    assert await evidence.breaches(lab.facts, Evidence(received=lab.ledger.received)) == []
