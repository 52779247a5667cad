"""A hold on a run: its id and the fence under which a worker may write to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:  # functions read the same records, and carry no psycopg
    from workers.kernel.worker_gateway import WorkerGateway

Json = Any  # what jsonb holds


@dataclass(frozen=True)
class Hold:
    """What a claim gives. Every verb through it is refused with FenceLost once another worker took over."""

    gateway: "WorkerGateway"
    run_id: UUID
    fence: int

    async def call(self, verb: str, **arguments: Json) -> Json:
        """A verb of pam_worker on this run, under this fence."""
        return await self.gateway.call(verb, run_id=self.run_id, fence=self.fence, **arguments)
