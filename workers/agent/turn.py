"""One turn of a run from claim to its end, with the worker's heart beside it."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import structlog

from workers.agent import narration
from workers.agent.heart import Halt, Heart
from workers.agent.loop import Loop
from workers.agent.shutdown import Leaving, LeavingFlag
from workers.agent.slots import Slots
from workers.kernel.errors import AccessRevoked, FenceLost, Unavailable
from workers.kernel.ledger import events, runs
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.runs import Claim
from workers.kernel.worker_gateway import WorkerGateway
from workers.model.chain import ModelChain
from workers.tools.tool import Tool, ToolServices

log = structlog.get_logger()


@dataclass(frozen=True)
class Turns:
    """What every turn of this worker shares."""

    gateway: WorkerGateway
    model: ModelChain
    tools: tuple[Tool, ...]
    services: ToolServices
    slots: Slots
    leaving: LeavingFlag
    heart: Heart
    worker: str

    async def next(self) -> Claim | None:
        """The run whose turn it is, now this worker's; None when there is none, or the worker is leaving."""
        if self.leaving.is_set():
            return None
        return await runs.claim_next(self.gateway, worker=self.worker, lease_seconds=self.heart.lease_seconds)

    async def advance(self, claim: Claim) -> None:
        """Work on a claimed run until it has ended, waits, or is somebody else's."""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(run_id=str(claim.run.id), turn=claim.run.turn)
        hold = Hold(self.gateway, claim.run.id, claim.fence)
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
            with self.heart.beating_for(hold) as halted:
                await self._guarded(hold, loop, halted)
        except FenceLost as lost:
            log.warning("run lost", reason=str(lost))
        except AccessRevoked:
            await loop.fail("access_revoked", "The person who asked may not work in this organisation any more.")
        except Unavailable:
            raise
        except Exception as error:  # the job's edge: caught once, recorded, told without its insides
            log.error("run broke", error=type(error).__name__)
            await loop.fail("internal", f"PAM itself failed ({type(error).__name__}): the run can be started again.")

    async def _guarded(self, hold: Hold, loop: Loop, halted: asyncio.Future[Halt]) -> None:
        """The loop beside the heart; whichever ends first decides."""
        work = asyncio.create_task(loop.advance())
        try:
            either: set[asyncio.Future[Any]] = {work, halted}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            halt = halted.result()
            # Who pauses a run means to lose nothing: whether an effect took place is known once it has ended.
            async with loop.between_effects() if halt is Halt.PAUSED else nullcontext():
                work.cancel()
                await asyncio.wait({work})
            if work.done() and not work.cancelled() and work.exception() is None:
                return None  # it ended in the same instant: that end stands
            log.info("run halted", reason=halt.value)
            match halt:
                case Halt.CANCELLED:
                    await loop.cancel()
                case Halt.DEADLINE:
                    await loop.fail("deadline", "The run reached its time limit.")
                case Halt.BUDGET:
                    await loop.fail(
                        "budget", "A budget has no time left: the organisation's, the asker's, or the first run's."
                    )
                case Halt.STOPPED:
                    await loop.fail("stopped", "Whoever runs the workers stopped this run.")
                case Halt.ACCESS_REVOKED:
                    raise AccessRevoked("the asker lost access")
                case Halt.PAUSED:
                    await events.append(hold, narration.rests())
                    await runs.release(hold)
                case Halt.LEAVING:
                    await self._release(hold)
                case Halt.FENCE_LOST:
                    return None
        except Leaving:
            log.info("run released")
            await self._release(hold)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _release(self, hold: Hold) -> None:
        """Give the run back, and say so first: a worker that is lost says nothing."""
        await events.append(hold, narration.released())
        await runs.release(hold)
