"""Messages: what was said in a thread."""

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.tool_calls import RecordedCall


class Said(BaseModel):
    """One message; `step` is set for what this run's model wrote."""

    model_config = ConfigDict(frozen=True)

    role: str
    content: str
    step: int | None


class Conversation(BaseModel):
    """What the model must see, in order."""

    model_config = ConfigDict(frozen=True)

    messages: tuple[Said, ...]
    calls: tuple[RecordedCall, ...]


async def read(hold: Hold) -> Conversation:
    """The thread so far: of earlier runs what was asked and answered, of this run everything."""
    return Conversation.model_validate(await hold.call("read_conversation"))
