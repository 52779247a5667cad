"""A hold on a run: its id and the fence under which a worker may write to it."""

from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

Json = Any  # what jsonb holds


class Verbs(Protocol):
    """Whatever carries out verbs of pam_worker: workers/kernel/worker_gateway, or a recording of what it answered."""

    async def call(self, verb: str, **arguments: Json) -> Json:
        """Call pam_worker.<verb> by named arguments and answer its jsonb."""
        ...


@dataclass(frozen=True)
class Hold:
    """What a claim gives. Every verb through it is refused with FenceLost once another worker took over."""

    gateway: Verbs
    run_id: UUID
    fence: int

    async def call(self, verb: str, **arguments: Json) -> Json:
        """A verb of pam_worker on this run, under this fence."""
        return await self.gateway.call(verb, run_id=self.run_id, fence=self.fence, **arguments)
