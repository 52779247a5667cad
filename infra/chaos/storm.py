"""A storm: runs of twelve steps start without end while faults strike; then it calms, and everything is counted."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from infra.chaos import evidence
from infra.chaos.crew import Crew
from infra.chaos.evidence import Evidence
from infra.chaos.outside import OutsideLedger
from infra.chaos.parts import Parts
from infra.chaos.team import Team
from infra.chaos.weather import WORKERS, Fault, forecast
from infra.cli.person import CommandFailed
from infra.local.facts import StackFacts

AT_ONCE = 6  # runs under way
TEAMS = 2
SETTLE_SECONDS = 90.0  # after the last fault every run must have ended within this
LEAVES_SECONDS = 20.0  # and nothing may be left over after so many more
_TOLD_EVERY_SECONDS = 10.0

Progress = Callable[[str], None]


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    breaches: list[dict[str, str]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    slowest_seconds: float = 0.0


class Storm:
    """One storm over a stack that has no other workers and no other runs."""

    def __init__(self, *, facts: StackFacts, ledger: OutsideLedger, seed: int, progress: Progress) -> None:
        self._facts = facts
        self._ledger = ledger
        self._seed = seed
        self._progress = progress
        self._parts = Parts(facts=facts)
        self._crew = Crew(facts=facts, places=WORKERS)
        self._lasting: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    async def blow(self, *, seconds: float) -> Tally:
        """Let it rage for so long, let it calm, and hold everything against the invariants.

        Raises CommandFailed or ProcessFailed when it cannot even begin.
        """
        teams = [await Team.found(self._facts, self._ledger) for _ in range(TEAMS)]
        await self._crew.begin()
        try:
            began = time.monotonic()
            async with self._told(began):
                await self._rage(teams, seconds=seconds)
            await asyncio.gather(*self._lasting)
            self._progress("The storm is over: everything must come to its end now")
            with contextlib.suppress(psycopg.Error):  # it is asked once more below
                await self._settle()
        finally:
            left = await self._crew.leave()
        try:
            await self._judge(left)
        except psycopg.Error as error:  # also an outcome: whatever struck the database, it has to come back
            self.tally.breaches.append({"breach": "I1 the database is back in time", "subject": str(error)})
        return self.tally

    async def _rage(self, teams: list[Team], *, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for place in range(AT_ONCE):
                tasks.create_task(self._work(teams[place % len(teams)], place, ends_at))
            tasks.create_task(self._strike(forecast(self._seed, seconds=seconds)))

    async def _work(self, team: Team, place: int, ends_at: float) -> None:
        """Start one run after another, each when the one before has ended."""
        number = 0
        while time.monotonic() < ends_at:
            number += 1
            try:
                run_id = await team.start(f"storm-{place}-{number}")
            except CommandFailed as error:
                self.tally.breaches.append({"breach": "I1 a run is accepted in time", "subject": str(error)})
                return
            self.tally.accepted.append(run_id)
            began = time.monotonic()
            while time.monotonic() < ends_at and not await self._has_ended(run_id):
                await asyncio.sleep(0.25)
            self.tally.slowest_seconds = max(self.tally.slowest_seconds, round(time.monotonic() - began, 1))

    async def _strike(self, faults: list[Fault]) -> None:
        began = time.monotonic()
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at_seconds - time.monotonic()))
            self.tally.kills += fault.is_kill
            self.tally.faults[f"{fault.act} {fault.part}"] += 1
            await self._do(fault)

    async def _do(self, fault: Fault) -> None:
        match fault.part, fault.act:
            case "worker", "kill":
                await self._crew.kill(fault.place)
            case "worker", "freeze":
                self._lasts(self._crew.freeze(fault.place, seconds=fault.lasts_seconds))
            case "worker", "restart":
                self._crew.restart(fault.place)
            case "redis", "flush":
                await self._parts.flush_redis()
            case part, "freeze":
                self._lasts(self._parts.freeze(part, seconds=fault.lasts_seconds))
            case part, _:
                self._parts.kill(part)

    def _lasts(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    async def _settle(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if await self._unfinished() == 0:
                break
            await asyncio.sleep(0.25)
        else:
            return
        deadline = time.monotonic() + LEAVES_SECONDS  # what is still being put away, such as a job's last line in Redis
        while time.monotonic() < deadline and await self._left_in_redis():
            await asyncio.sleep(0.25)
        self.tally.breaches += [
            {"breach": f"I7 {one['what']}", "subject": one["about"]} for one in await self._left_in_redis()
        ]

    async def _judge(self, left: list[dict[str, str]]) -> None:
        left = left + await evidence.connections_of_workers(self._facts)
        jobs = [str(row[0]) for row in await self._ask("select id from pam.runs where task is not null")]
        told = Evidence(accepted=[*self.tally.accepted, *jobs], received=self._ledger.received, left=left)
        self.tally.breaches += await evidence.breaches(self._facts, told)
        rows = await self._ask("select concat_ws(': ', status, reason), count(*) from pam.runs group by 1 order by 1")
        self.tally.ends = {str(end): int(count) for end, count in rows}

    async def _left_in_redis(self) -> list[dict[str, str]]:
        rows = await self._ask("select id::text from pam.runs where status in ('succeeded', 'failed', 'cancelled')")
        return await evidence.left_in_redis(self._facts, ended=[str(row[0]) for row in rows])

    async def _has_ended(self, run_id: str) -> bool:
        with contextlib.suppress(psycopg.Error):
            rows = await self._ask(
                "select status in ('succeeded', 'failed', 'cancelled') from pam.runs where id = %s", run_id
            )
            return bool(rows and rows[0][0])
        return False

    async def _unfinished(self) -> int:
        with contextlib.suppress(psycopg.Error):
            rows = await self._ask(
                "select (select count(*) from pam.runs where status not in ('succeeded', 'failed', 'cancelled'))"
                " + (select count(*) from pam.jobs where status in ('scheduled', 'queued', 'running'))"
            )
            return int(rows[0][0])
        return -1

    async def _ask(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        async with await psycopg.AsyncConnection.connect(
            self._facts.admin_dsn, autocommit=True, connect_timeout=5
        ) as connection:
            return await (await connection.execute(statement.encode(), values or None)).fetchall()

    @contextlib.asynccontextmanager
    async def _told(self, began: float) -> AsyncIterator[None]:
        async def tell() -> None:
            while True:
                await asyncio.sleep(_TOLD_EVERY_SECONDS)
                tally, effects = self.tally, len(self._ledger.effects)
                told = f"{len(tally.accepted)} runs, {tally.kills} kills, {effects} effects outside"
                self._progress(f"{time.monotonic() - began:6.0f} s: {told}")

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
