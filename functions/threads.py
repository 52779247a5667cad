"""Threads: the conversations of an organisation with its agents."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from functions.deps import GatewayDep, PageSize
from functions.wording import Line
from workers.kernel.ledger import organizations, threads
from workers.kernel.ledger.pages import Cursor, Page
from workers.kernel.ledger.threads import Thread

router = APIRouter(prefix="/v1/orgs/{org_id}/threads", tags=["threads"])


class NewThread(BaseModel):
    """A conversation to open."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[Line, Field(max_length=200)] = ""


@router.post("", status_code=201, summary="Open a thread")
async def create_thread(org_id: UUID, thread: NewThread, gateway: GatewayDep, response: Response) -> Thread:
    """Open an empty conversation. Starting a run without a thread opens one too."""
    thread_id = await threads.create(gateway, org_id, title=thread.title)
    response.headers["location"] = f"/v1/orgs/{org_id}/threads/{thread_id}"
    return await threads.read(gateway, org_id, thread_id)


@router.get("", summary="List threads, newest first")
async def list_threads(
    org_id: UUID,
    gateway: GatewayDep,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
    limit: PageSize = 50,
) -> Page[Thread]:
    """The organisation's conversations."""
    page = await threads.list_newest(gateway, org_id, cursor=Cursor.parse(cursor) if cursor else None, limit=limit)
    if not page.items:
        await organizations.require(gateway, org_id)
    return page


@router.get("/{thread_id}", summary="Read a thread")
async def read_thread(org_id: UUID, thread_id: UUID, gateway: GatewayDep) -> Thread:
    """One conversation, without its messages."""
    return await threads.read(gateway, org_id, thread_id)
