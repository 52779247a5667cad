"""Events: the log of a run, as JSON pages or as server-sent events that resume by Last-Event-ID.

On Lambda a stream is finite: what follows Last-Event-ID, at once. Under uvicorn it is held open.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from functions.deps import GatewayDep, HouseDep
from workers.kernel.caller_gateway import CallerGateway
from workers.kernel.errors import PamError, Unavailable
from workers.kernel.ledger import events, runs
from workers.kernel.ledger.events import Event

router = APIRouter(prefix="/v1/runs/{run_id}/events", tags=["events"])

HOLD_SECONDS = 600
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 2.0
RECONNECT_MILLISECONDS = 2000
BATCH = 500


class EventPage(BaseModel):
    """A part of the log."""

    items: list[Event]
    last_seq: int = Field(description="ask for what follows with after=last_seq")
    is_complete: bool = Field(description="whether the run has ended and nothing more will follow")


_STREAM = {"description": "The log", "content": {"text/event-stream": {"schema": {"type": "string"}}}}


@router.get(
    "",
    summary="Read or follow the log of a run",
    response_model=EventPage,
    responses={
        200: _STREAM,
        204: {"description": "A stream was asked for, the run has ended, nothing follows"},
    },
)
async def follow(
    run_id: UUID,
    gateway: GatewayDep,
    house: HouseDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="the last seq that you have")] = 0,
    limit: Annotated[int, Query(ge=1, le=BATCH, description="of a JSON page")] = 200,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[
        int | None, Header(ge=0, lt=2**63, description="the last seq that a stream gave; goes before `after`")
    ] = None,
) -> Response:
    """AG-UI 1.0 events: a JSON page, or with `Accept: text/event-stream` a stream whose ids are seqs."""
    is_stream = "text/event-stream" in accept.lower()
    if is_stream and last_event_id is not None:
        after = last_event_id
    run = await runs.read(gateway, run_id)  # before the events: what it calls ended has its last event written
    found = await events.list_after(gateway, run_id, seq=after, limit=BATCH if is_stream else limit)
    if not is_stream:
        is_complete = run.is_ended and len(found) < limit
        last_seq = found[-1].seq if found else after
        page = EventPage(items=found, last_seq=last_seq, is_complete=is_complete)
        return JSONResponse(page.model_dump(mode="json"))
    if run.is_ended and not found:
        return Response(status_code=204)  # an EventSource stops reconnecting on 204
    hold_seconds = HOLD_SECONDS if house.settings.hold_events and not run.is_ended else 0
    stream = _stream(gateway, run_id, found, after, hold_seconds=hold_seconds)
    return StreamingResponse(
        stream,
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _stream(
    gateway: CallerGateway, run_id: UUID, found: list[Event], seq: int, *, hold_seconds: float
) -> AsyncIterator[str]:
    """Frames until the terminal event, the end of the log (hold_seconds 0) or of the patience."""
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
    ends_at = time.monotonic() + hold_seconds
    pause = FIRST_PAUSE_SECONDS
    while True:
        for event in found:
            payload = json.dumps(event.payload, ensure_ascii=False, separators=(",", ":"))
            yield f"id: {event.seq}\ndata: {payload}\n\n"
            seq = event.seq
        if any(event.is_terminal for event in found[-1:]):
            return
        if len(found) < BATCH:
            if time.monotonic() + pause > ends_at:
                return
            pause = FIRST_PAUSE_SECONDS if found else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        try:
            found = await events.list_after(gateway, run_id, seq=seq, limit=BATCH)
        except Unavailable:
            found = []  # the log is still there: go on when PostgREST answers again
        except PamError:
            yield ": your token is no longer accepted; come back with a new one\n\n"
            return
        if not found:
            yield ": nothing new\n\n"
