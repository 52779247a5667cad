"""The heart of a worker: keeps the leases of all its runs by one statement, and hears which of them must stop."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from uuid import UUID

import structlog

from workers.agent.shutdown import LeavingFlag
from workers.kernel.errors import Unavailable
from workers.kernel.ledger import runs
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WorkerGateway

LEAVE_SECONDS = 5.0
_AT_ONCE = 500

log = structlog.get_logger()


class Halt(StrEnum):
    """Why a run must stop where it is."""

    CANCELLED = "cancelled"
    PAUSED = "paused"
    DEADLINE = "deadline"
    BUDGET = "budget"
    ACCESS_REVOKED = "access_revoked"
    FENCE_LOST = "fence_lost"
    LEAVING = "leaving"
    STOPPED = "stopped"


class Heart:
    """Beats for every run that this worker holds, from its claim to its end."""

    def __init__(
        self, *, gateway: WorkerGateway, leaving: LeavingFlag, lease_seconds: int, pulse_seconds: float
    ) -> None:
        self._gateway = gateway
        self._leaving = leaving
        self._pulse_seconds = pulse_seconds
        self.lease_seconds = lease_seconds
        self._held: dict[UUID, tuple[Hold, asyncio.Future[Halt]]] = {}

    @contextmanager
    def beating_for(self, hold: Hold) -> Iterator[asyncio.Future[Halt]]:
        """Keep this hold while the context lasts; what comes is why it must stop, if it must."""
        halted: asyncio.Future[Halt] = asyncio.get_running_loop().create_future()
        mine = self._held[hold.run_id] = (hold, halted)
        try:
            yield halted
        finally:
            if self._held.get(hold.run_id) is mine:
                del self._held[hold.run_id]
            halted.cancel()

    def stop(self, run_id: UUID | None = None) -> None:
        """Stop one run of this worker, or all of them, because whoever runs the workers said so."""
        for held in [run_id] if run_id else list(self._held):
            self._halt(held, Halt.STOPPED)

    async def beat(self) -> None:
        """Pulse for ever. A database that is away for a moment is no reason to stop: the leases decide."""
        leaving_for = 0.0
        while True:
            await asyncio.sleep(self._pulse_seconds)
            if self._leaving.is_set():
                leaving_for += self._pulse_seconds
            if leaving_for >= LEAVE_SECONDS:
                for run_id in list(self._held):
                    self._halt(run_id, Halt.LEAVING)
            holds = [hold for hold, _ in self._held.values()]
            for first in range(0, len(holds), _AT_ONCE):
                await self._pulse(holds[first : first + _AT_ONCE])

    async def _pulse(self, holds: list[Hold]) -> None:
        try:
            stopped = await runs.pulse(self._gateway, holds, lease_seconds=self.lease_seconds)
        except Unavailable as error:
            log.warning("pulse missed", runs=len(holds), reason=str(error))
            return
        except Exception as error:  # a heart that dies silently lets every lease run out
            log.error("pulse broke", runs=len(holds), error=type(error).__name__)
            return
        asked = {hold.run_id: hold for hold in holds}
        for run_id, reason in stopped.items():
            if run_id in self._held and self._held[run_id][0] is asked.get(run_id):
                self._halt(run_id, Halt(reason))

    def _halt(self, run_id: UUID, why: Halt) -> None:
        _, halted = self._held.get(run_id, (None, None))
        if halted is not None and not halted.done():
            halted.set_result(why)
