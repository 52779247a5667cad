"""Messages that runs send to live topics, each once per call."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold


class Sent(BaseModel):
    """Where to, the payload's size as JSON, and whether this call had sent it before."""

    model_config = ConfigDict(frozen=True)

    topic: str
    size_bytes: int
    is_replay: bool


async def send(hold: Hold, call_id: UUID, *, topic: str, event: str, payload: dict[str, Any]) -> Sent:
    """Send to a topic of the run's organisation, as the run's person. Raises Refused with the reason."""
    answer = await hold.call("send_message", call=call_id, topic=topic, event=event, payload=payload)
    return Sent.model_validate(answer)
