"""Events: the gapless log of a run, AG-UI 1.0 payloads. Facts bring their own; here is what stands alone."""

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from workers.kernel.ledger.hold import Hold

if TYPE_CHECKING:
    from workers.kernel.caller_gateway import CallerGateway


class Event(BaseModel):
    """A row of pam.events."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int = Field(description="1, 2, 3 … within a run, without a gap")
    type: str
    payload: dict[str, Any] = Field(description="an AG-UI 1.0 event")
    created_at: datetime

    @property
    def is_terminal(self) -> bool:
        """Whether the run ended with it; an interrupt only pauses the run."""
        if self.type == "RUN_FINISHED":
            return (self.payload.get("outcome") or {}).get("type") != "interrupt"
        return self.type == "RUN_ERROR"


async def append(hold: Hold, events: list[dict[str, Any]]) -> int:
    """Append events that belong to no other fact; answers the last seq."""
    return int(await hold.call("append_events", events=events))


async def preview(hold: Hold, frame: dict[str, Any]) -> bool:
    """Show text still being written: outside the log, first to be dropped. Answers whether it went out."""
    return bool(await hold.call("preview_message", preview=frame))


async def list_after(gateway: "CallerGateway", run_id: UUID, *, seq: int, limit: int) -> list[Event]:
    """The log of a run from after this seq, in order; empty for a run that the caller may not see."""
    rows = await gateway.select(
        "events", "seq,type,payload,created_at",
        equal={"run_id": run_id}, greater={"seq": seq}, order=("seq",), limit=limit,
    )  # fmt: skip
    return [Event.model_validate(row) for row in rows]
