"""Messages: what was said in a thread; saying something asks an agent."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from functions.deps import GatewayDep, IdempotencyKey, PageSize
from functions.runs import Question, start
from workers.kernel.ledger import messages, threads
from workers.kernel.ledger.messages import Message
from workers.kernel.ledger.pages import Page
from workers.kernel.ledger.runs import Started

router = APIRouter(prefix="/v1/orgs/{org_id}/threads/{thread_id}/messages", tags=["messages"])


@router.get("", summary="List the messages of a thread, oldest first")
async def list_messages(
    org_id: UUID,
    thread_id: UUID,
    gateway: GatewayDep,
    cursor: Annotated[
        int, Query(ge=0, lt=2**63, description="`next` of the page before, or the last position seen")
    ] = 0,
    limit: PageSize = 50,
) -> Page[Message]:
    """What was asked and answered, in order."""
    page = await messages.list_after(gateway, org_id, thread_id, position=cursor, limit=limit)
    if not page.items:
        await threads.read(gateway, org_id, thread_id)
    return page


@router.post("", status_code=202, summary="Say something, which starts a run")
async def say(
    org_id: UUID,
    thread_id: UUID,
    question: Question,
    gateway: GatewayDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Started:
    """Ask an agent in this thread. A thread has one unfinished run at a time: otherwise 409, code `busy`."""
    return await start(gateway, response, org_id, question, thread_id, idempotency_key)
