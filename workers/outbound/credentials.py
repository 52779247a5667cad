"""The seam to an organisation's connections: secrets by name, given to one host, never to the model."""

from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from workers.kernel.ledger.connections import ConnectionTerms
from workers.kernel.ledger.hold import Hold


@dataclass(frozen=True)
class Injection:
    """What a connection adds to a request. `secrets`: every value that must not come back to a reader."""

    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Injection({len(self.headers)} headers, {len(self.query)} parameters)"


class Credentials(Protocol):
    """Connections of the organisation that a run belongs to."""

    async def injected(self, hold: Hold, call_id: UUID, name: str, host: str) -> Injection:
        """What the connection adds for this host (`host`, or `host:port` unless the port is 443).

        Raises Refused when the name is unknown or the connection belongs to another host.
        """
        ...

    async def invalidate(self, hold: Hold, call_id: UUID, name: str) -> bool:
        """The host answered 401 to what `injected` gave this call: whether asking once more may help."""
        ...

    async def opened_for_logs(self, hold: Hold, call_id: UUID, name: str) -> tuple[ConnectionTerms, str]:
        """Where a connection leads that leads to logs, and its secret. Raises Refused."""
        ...
