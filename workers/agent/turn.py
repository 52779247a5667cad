"""One turn of a run from claim to its end, with a heart that keeps the lease and hears when to stop."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import structlog

from workers.agent.loop import Loop
from workers.agent.shutdown import Leaving, LeavingFlag
from workers.agent.slots import Slots
from workers.kernel.errors import AccessRevoked, FenceLost, Unavailable
from workers.kernel.ledger import runs
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.runs import RunNotClaimable
from workers.kernel.worker_gateway import WorkerGateway
from workers.model.protocol import Model
from workers.tools.tool import Tool, ToolServices

LEAVE_SECONDS = 5.0

log = structlog.get_logger()


class _Halt(StrEnum):
    """Why the heart stopped the loop."""

    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    ACCESS_REVOKED = "access_revoked"
    FENCE_LOST = "fence_lost"
    LEAVING = "leaving"


@dataclass(frozen=True)
class Turns:
    """What every turn of this worker shares."""

    gateway: WorkerGateway
    model: Model
    tools: tuple[Tool, ...]
    services: ToolServices
    slots: Slots
    leaving: LeavingFlag
    worker: str
    lease_seconds: int
    pulse_seconds: float

    async def advance(self, run_id: UUID, turn: int) -> None:
        """Claim the run and work until it has ended, waits, or is somebody else's. Safe to repeat."""
        structlog.contextvars.unbind_contextvars("org_id")
        structlog.contextvars.bind_contextvars(run_id=str(run_id), turn=turn)
        try:
            claim = await runs.claim(self.gateway, run_id, turn, worker=self.worker, lease_seconds=self.lease_seconds)
        except RunNotClaimable as reason:
            log.info("nothing to do", reason=str(reason))
            return
        hold = Hold(self.gateway, run_id, claim.fence)
        loop = Loop(
            hold=hold,
            claim=claim,
            model=self.model,
            tools=self.tools,
            services=self.services,
            slots=self.slots,
            leaving=self.leaving,
        )
        structlog.contextvars.bind_contextvars(org_id=str(claim.run.org_id))  # whose lines these are: log_search
        log.info("run claimed", attempt=claim.run.attempt, fence=claim.fence)
        try:
            await self._guarded(hold, loop)
        except FenceLost as lost:
            log.warning("run lost", reason=str(lost))
        except AccessRevoked:
            await loop.fail("access_revoked", "The person who asked may not work in this organisation any more.")
        except Unavailable:
            raise
        except Exception as error:  # the job's edge: caught once, recorded, told without its insides
            log.error("run broke", error=type(error).__name__)
            await loop.fail("internal", f"PAM itself failed ({type(error).__name__}): the run can be started again.")

    async def _guarded(self, hold: Hold, loop: Loop) -> None:
        """The loop beside its heart; whichever ends first decides."""
        work = asyncio.create_task(loop.advance())
        heart = asyncio.create_task(self._beat(hold))
        try:
            await asyncio.wait({work, heart}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            halt = heart.result()
            work.cancel()
            await asyncio.wait({work})
            if work.done() and not work.cancelled() and work.exception() is None:
                return None  # it ended in the same instant: that end stands
            log.info("run halted", reason=halt.value)
            match halt:
                case _Halt.CANCELLED:
                    await loop.cancel()
                case _Halt.DEADLINE:
                    await loop.fail("deadline", "The run reached its time limit.")
                case _Halt.ACCESS_REVOKED:
                    raise AccessRevoked("the asker lost access")
                case _Halt.LEAVING:
                    await runs.release(hold)
                case _Halt.FENCE_LOST:
                    return None
        except Leaving:
            log.info("run released")
            await runs.release(hold)
        finally:
            for task in (work, heart):
                task.cancel()
            await asyncio.gather(work, heart, return_exceptions=True)

    async def _beat(self, hold: Hold) -> _Halt:
        """Pulse until something says stop. A database that is away for a moment is no reason: the lease decides."""
        leaving_for = 0.0
        while True:
            await asyncio.sleep(self.pulse_seconds)
            if self.leaving.is_set():
                leaving_for += self.pulse_seconds
                if leaving_for >= LEAVE_SECONDS:
                    return _Halt.LEAVING
            try:
                pulse = await runs.pulse(hold, lease_seconds=self.lease_seconds)
            except FenceLost:
                return _Halt.FENCE_LOST
            except Unavailable as error:
                log.warning("pulse missed", reason=str(error))
                continue
            if pulse.cancel_requested:
                return _Halt.CANCELLED
            if pulse.deadline_passed:
                return _Halt.DEADLINE
            if pulse.access_revoked:
                return _Halt.ACCESS_REVOKED
