"""Messages: what was said in a thread."""

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.pages import Page
from workers.kernel.ledger.tool_calls import RecordedCall

if TYPE_CHECKING:
    from workers.kernel.caller_gateway import CallerGateway


class Message(BaseModel):
    """A row of pam.messages."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    thread_id: UUID
    run_id: UUID | None
    step: int | None
    position: int = Field(description="rises within a thread, with gaps")
    role: str
    content: str
    created_at: datetime


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
    finish: str | None = Field(default=None, description="why the model ended this run's last step")


async def read(hold: Hold) -> Conversation:
    """The thread so far: of earlier runs what was asked and answered, of this run everything."""
    return Conversation.model_validate(await hold.call("read_conversation"))


async def take(hold: Hold) -> list[Said]:
    """Before the thread is read: what people have said to this run takes its place in it."""
    return [Said.model_validate(row) for row in await hold.call("take_messages")]


async def list_after(
    gateway: "CallerGateway", org_id: UUID, thread_id: UUID, *, position: int, limit: int
) -> Page[Message]:
    """Messages of a thread in the order they were said, from after this position."""
    rows = await gateway.select(
        "messages",
        equal={"org_id": org_id, "thread_id": thread_id},
        greater={"position": position},
        order=("position",),
        limit=limit + 1,
    )
    found = [Message.model_validate(row) for row in rows[:limit]]
    return Page(items=found, next=str(found[-1].position) if len(rows) > limit else None)
