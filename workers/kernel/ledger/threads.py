"""Threads: the conversations of an organisation with its agents."""

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.errors import Refused
from workers.kernel.ledger.pages import Cursor, Page

if TYPE_CHECKING:
    from workers.kernel.caller_gateway import CallerGateway


class Thread(BaseModel):
    """A row of pam.threads."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    org_id: UUID
    id: UUID
    title: str
    created_by: UUID
    created_at: datetime


async def create(gateway: "CallerGateway", org_id: UUID, *, title: str) -> UUID:
    """Open an empty conversation; answers its id. Raises Refused as pam.create_thread does."""
    answer = await gateway.rpc("create_thread", {"org_id": str(org_id), "title": title})
    return UUID(answer["thread_id"])


async def read(gateway: "CallerGateway", org_id: UUID, thread_id: UUID) -> Thread:
    """One thread. Raises Refused(not_found), alike for an absent and a foreign one."""
    rows = await gateway.select("threads", equal={"org_id": org_id, "id": thread_id})
    if not rows:
        raise Refused("not_found", "There is no such thread in this organisation.")
    return Thread.model_validate(rows[0])


async def list_newest(gateway: "CallerGateway", org_id: UUID, *, cursor: Cursor | None, limit: int) -> Page[Thread]:
    """Threads of an organisation, newest first."""
    rows = await gateway.select(
        "threads",
        equal={"org_id": org_id},
        either=cursor.older if cursor else None,
        order=("created_at", "id"),
        is_descending=True,
        limit=limit + 1,
    )
    return Page.newest([Thread.model_validate(row) for row in rows], limit)
