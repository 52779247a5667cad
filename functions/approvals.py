"""Approvals: what runs wait for, decided one by one or many at once, signed in or by a signed link."""

import html
import json
from typing import Annotated
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import HTMLResponse

from functions.deps import GatewayDep, HouseDep, PageSize
from workers.kernel.errors import Refused
from workers.kernel.ledger import approvals, organizations
from workers.kernel.ledger.approvals import (
    Approval,
    ApprovalStatus,
    Deciding,
    Decisions,
    Link,
    LinkView,
    Verdict,
)
from workers.kernel.ledger.pages import Cursor, Page

router = APIRouter(prefix="/v1", tags=["approvals"])

# The page a link opens: no script, no style, nothing from elsewhere, and a form that goes nowhere but here.
_CSP = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
_PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'


class Batch(BaseModel):
    """Decisions to take in one step."""

    model_config = ConfigDict(extra="forbid")

    decisions: Annotated[list[Deciding], Field(min_length=1, max_length=200)]


class LinkDecision(BaseModel):
    """What is said by a link."""

    model_config = ConfigDict(extra="forbid")

    verdict: Verdict
    note: str | None = Field(default=None, max_length=20_000)


class LinkDecided(BaseModel):
    """What the approval is now."""

    status: ApprovalStatus


@router.get("/orgs/{org_id}/approvals", summary="List approvals and questions, newest first")
async def list_approvals(
    org_id: UUID,
    gateway: GatewayDep,
    status: Annotated[ApprovalStatus | None, Query(description="only these; pending is what waits")] = None,
    run_id: Annotated[UUID | None, Query(description="only those of this run")] = None,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
    limit: PageSize = 50,
) -> Page[Approval]:
    """What the organisation's runs wait for, or waited for."""
    after = Cursor.parse(cursor) if cursor else None
    page = await approvals.list_newest(gateway, org_id, run_id=run_id, status=status, cursor=after, limit=limit)
    if not page.items:
        await organizations.require(gateway, org_id)
    return page


@router.get("/approvals/{approval_id}", summary="Read an approval")
async def read_approval(approval_id: UUID, gateway: GatewayDep) -> Approval:
    """One approval or question, with what its tool showed of the effect."""
    return await approvals.read(gateway, approval_id)


@router.post("/approvals/decide", summary="Decide one or many")
async def decide_approvals(batch: Batch, gateway: GatewayDep) -> Decisions:
    """Each decision has a result of its own: what it became, or why it was not taken. A run goes on when all of its
    approvals are decided."""
    return await approvals.decide(gateway, batch.decisions)


@router.post("/approvals/{approval_id}/link", status_code=201, summary="Make a link that decides it")
async def make_link(approval_id: UUID, gateway: GatewayDep) -> Link:
    """A signed token for you to decide with, once, without signing in: at /v1/decisions/{token}."""
    return await approvals.make_link(gateway, approval_id)


@router.get("/decisions/{token}", summary="See what a link decides", response_model=LinkView)
async def read_decision(token: str, request: Request, house: HouseDep) -> LinkView | HTMLResponse:
    """What would be decided. Looking, or a mail filter that looks, decides nothing and does not use the link up."""
    is_browser = "text/html" in request.headers.get("accept", "")
    try:
        view = await approvals.read_link(house.gateway(None), token)
    except Refused as refusal:
        if is_browser:
            return _page(f"<h1>{html.escape(str(refusal))}</h1>", status=404 if refusal.code == "not_found" else 409)
        raise
    return _form(view) if is_browser else view


@router.post(
    "/decisions/{token}",
    summary="Decide by a link",
    response_model=LinkDecided,
    openapi_extra={
        "requestBody": {"content": {"application/json": {"schema": LinkDecision.model_json_schema()}}, "required": True}
    },
)
async def take_decision(token: str, request: Request, house: HouseDep) -> LinkDecided | HTMLResponse:
    """Decide, once, as the person the link was made for. Takes JSON, and what the page's own form sends."""
    body = await request.body()
    is_form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    decision = _read_form(body) if is_form else _read_json(body)
    try:
        status = await approvals.decide_by_link(house.gateway(None), token, decision.verdict, decision.note)
    except Refused as refusal:
        if is_form:
            return _page(f"<h1>{html.escape(str(refusal))}</h1>", status=404 if refusal.code == "not_found" else 409)
        raise
    if is_form:
        return _page(f"<h1>This call was {status.value}.</h1><p>You can close this page.</p>")
    return LinkDecided(status=status)


def _read_json(body: bytes) -> LinkDecision:
    try:
        return LinkDecision.model_validate_json(body)
    except ValidationError:
        raise Refused("invalid", 'Send {"verdict": "approve"} or {"verdict": "reject"}, perhaps with a note.') from None


def _read_form(body: bytes) -> LinkDecision:
    try:
        given = parse_qs(body.decode("utf-8", "replace"), max_num_fields=4)
        return LinkDecision.model_validate({name: values[0] for name, values in given.items()})
    except ValueError:  # too many fields, or a ValidationError
        raise Refused("invalid", "The form names a verdict, approve or reject, and perhaps a note.") from None


def _form(view: LinkView) -> HTMLResponse:
    given = html.escape(json.dumps(view.arguments, ensure_ascii=False, indent=2))
    shown = f"<h2>What it would do</h2><pre>{html.escape(view.shown)}</pre>" if view.shown else ""
    return _page(
        f"<h1>May the agent do this?</h1><p><b>{html.escape(view.tool)}</b> ({html.escape(view.effect)})</p>"
        f"<pre>{given}</pre>{shown}<p>{html.escape(view.why)}</p>"
        f"<p>Until {view.expires_at:%Y-%m-%d %H:%M} UTC.</p>"
        '<form method="post"><p><label>Note <input name="note" maxlength="2000"></label></p>'
        '<button name="verdict" value="approve">Approve</button> '
        '<button name="verdict" value="reject">Reject</button></form>'
    )


def _page(body: str, *, status: int = 200) -> HTMLResponse:
    return HTMLResponse(f"{_PAGE}<title>PAM</title>{body}", status, headers={"content-security-policy": _CSP})
