"""Many runs at once, each stopped at a boundary of its own, where its worker is killed, cut off from the answer or frozen."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psutil
import psycopg
from psycopg.rows import dict_row

from infra.chaos.nursery import Nursery
from infra.chaos.team import Team
from infra.chaos.workers import WorkerProcess
from tests.faults.conftest import Lab

WORKERS = 4
AT_ONCE = 8
REACHED_SECONDS = 60.0
ENDED_SECONDS = 60.0


class Fate(StrEnum):
    """What befalls the worker of a run at a boundary."""

    LOST = "killed before its write stands"
    DEAF = "killed before it hears that its write stands"
    FROZEN = "frozen until another has ended the run"


@dataclass(frozen=True)
class Case:
    """One run, stopped once."""

    boundary: int
    fate: Fate

    @property
    def name(self) -> str:
        """The run's name, which its stop goes by."""
        return f"{self.fate.name.lower()}-{self.boundary}"

    def __str__(self) -> str:
        return f"boundary {self.boundary}, {self.fate}"


@dataclass(frozen=True)
class Outcome:
    """A run after its fate."""

    case: Case
    run: dict[str, Any]
    claims: int
    calls: list[dict[str, Any]]


class Sweep:
    """Workers that hold one run each, so that whoever is killed takes nobody else along."""

    def __init__(self, *, lab: Lab, gate: psycopg.AsyncConnection[dict[str, Any]], nursery: Nursery) -> None:
        self._lab = lab
        self._gate = gate
        self._nursery = nursery
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._pool: list[WorkerProcess] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, lab: Lab) -> AsyncIterator["Sweep"]:
        """The sweep with its workers; afterwards none of them is left, nor anything that they had started."""
        async with (
            await psycopg.AsyncConnection.connect(lab.facts.admin_dsn, autocommit=True, row_factory=dict_row) as gate,
            Nursery.open() as nursery,
        ):
            sweep = cls(lab=lab, gate=gate, nursery=nursery)
            sweep._pool = [await sweep._hire() for _ in range(WORKERS)]
            try:
                yield sweep
            finally:
                for worker in sweep._pool:
                    if worker.is_alive:
                        await worker.kill()
                assert [left for worker in sweep._pool for left in worker.survivors()] == []

    async def _hire(self) -> WorkerProcess:
        return await WorkerProcess.start(
            self._lab.facts, nursery=self._nursery, PAM_MAX_RUNS="1", PAM_LOG_LEVEL="warning"
        )

    async def boundaries(self, team: Team) -> list[dict[str, Any]]:
        """What a run writes that nothing befalls: its boundaries in order, each with its verb and how many writes it has."""
        run_id = await team.start("unharmed")
        run = await self._lab.house.until(run_id)
        assert run["status"] == "succeeded", run["reason"]
        return await self._lab.house.admin(
            "select boundary, min(verb) as verb, count(*) as writes, array_agg(target order by place) as targets"
            " from fault.writes where run_id = %s group by boundary order by boundary",
            run_id,
        )

    async def play(self, team: Team, case: Case) -> Outcome:
        """Start a run, let it come to its boundary, let its fate befall the worker there, and wait for its end."""
        async with self._turn:
            await self._gate.execute("insert into fault.stops values (%s, %s)", [case.name, case.boundary])
            await self._gate.execute("select pg_advisory_lock(hashtextextended('fault stop ' || %s, 0))", [case.name])
            run_id = await team.start(case.name)
            standing = await self._standing(case)
            worker = await self._worker_behind(standing["client_port"])
            if case.fate is Fate.FROZEN:
                worker.pause()
            else:
                await worker.kill()
            self._pool.append(await self._hire())  # somebody must be there to take over
            if case.fate is Fate.LOST:  # its statement dies uncommitted; else it is carried out, and nobody hears of it
                await self._gate.execute("select pg_terminate_backend(%s, 5000)", [standing["pid"]])
            await self._gate.execute("delete from fault.stops where name = %s", [case.name])
            await self._gate.execute("select pg_advisory_unlock(hashtextextended('fault stop ' || %s, 0))", [case.name])
            try:
                run = await self._ended(run_id)
            finally:
                if case.fate is Fate.FROZEN:
                    worker.resume()
            return Outcome(case, run, await self._lab.claims(run_id), await self._calls(run_id))

    async def _standing(self, case: Case) -> dict[str, Any]:
        async with asyncio.timeout(REACHED_SECONDS):
            while True:
                rows = await self._lab.house.admin("select * from fault.standing where name = %s", case.name)
                if rows:
                    return rows[0]
                await asyncio.sleep(0.1)

    async def _worker_behind(self, port: int) -> WorkerProcess:
        def look() -> WorkerProcess:
            for worker in self._pool:
                with contextlib.suppress(psutil.Error):
                    if worker.is_alive and any(
                        connection.laddr.port == port
                        for connection in psutil.Process(worker.pid).net_connections("tcp")
                    ):
                        return worker
            raise AssertionError(f"no worker has a connection from port {port}")

        return await asyncio.to_thread(look)

    async def _ended(self, run_id: str) -> dict[str, Any]:
        async with asyncio.timeout(ENDED_SECONDS):
            while True:
                rows = await self._lab.house.admin("select * from pam.runs where id = %s", run_id)
                if rows[0]["ended_at"] is not None:
                    return rows[0]
                await asyncio.sleep(0.2)

    async def _calls(self, run_id: str) -> list[dict[str, Any]]:
        return await self._lab.house.admin(
            "select id::text, tool, status::text, step from pam.tool_calls where run_id = %s order by step, place",
            run_id,
        )
