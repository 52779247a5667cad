"""Where logs lie for the tools: PAM's own store, and the stores that an organisation's connections lead to."""

from dataclasses import dataclass
from typing import Protocol

from workers.kernel.ledger.hold import Hold
from workers.logs.query import LogsRefused, LogStore


class LogConnections(Protocol):
    """Connections of the organisation that a run belongs to."""

    async def store(self, hold: Hold, name: str, source: str | None) -> LogStore:
        """The logs that the connection leads to. Raises Refused when the organisation has no such connection."""
        ...


@dataclass(frozen=True)
class LogPlaces:
    """`own` is None where the operator said no place; `connections` None where PAM keeps none."""

    own: LogStore | None
    connections: LogConnections | None = None

    async def of_connection(self, hold: Hold, name: str, source: str | None) -> LogStore:
        """The store behind a connection. Raises LogsRefused or Refused."""
        if self.connections is None:
            raise LogsRefused("The team's application logs cannot be searched: no connection leads to any.")
        return await self.connections.store(hold, name, source)
