"""Every tool × effect × role × own or foreign organisation × consent: what begins, what waits, what is refused."""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.database.world import call, step
from tests.support.database import Database, Template
from workers.kernel.errors import FenceLost, Refused
from workers.kernel.worker_gateway import WorkerGateway
from workers.tools import CARD_TOOLS

EFFECTS = ("read", "write", "external", "irreversible")
ROLES = ("developer", "admin", "owner")
ALL = tuple(itertools.product(CARD_TOOLS, EFFECTS))
ASK = {"consent": "ask", "consent_after_untrusted": "ask", "decided_by": "developer"}

# How an organisation stands: what its policy says, whether the run has read untrusted data, who decides how.
STANDINGS: dict[str, dict[str, Any]] = {
    "by default": {},
    "by default, tainted": {"is_tainted": True},
    "trusting, tainted": {"policy": {"consent": "never", "consent_after_untrusted": "never"}, "is_tainted": True},
    "denied": {"policy": {"is_allowed": False}},
    "asked, undecided": {"policy": ASK},
    "agreed by the asker": {"policy": ASK, "by": "asker", "verdict": "approve"},
    "agreed by an admin": {"policy": ASK, "by": "another", "verdict": "approve"},
    "declined": {"policy": ASK, "by": "another", "verdict": "reject"},
    "four eyes, the asker tries": {"policy": {**ASK, "consent": "four_eyes"}, "by": "asker", "verdict": "approve"},
    "four eyes, agreed": {"policy": {**ASK, "consent": "four_eyes"}, "by": "another", "verdict": "approve"},
}


def expected(standing: str, tool: str, effect: str) -> str:
    """What should happen, said without the product's words."""
    is_outward = effect in ("external", "irreversible")
    waits_by_default = effect == "irreversible" or (tool, effect) == ("database_query", "write")
    match standing:
        case "by default":
            return "asks" if waits_by_default else "begins"
        case "by default, tainted":
            return "asks" if waits_by_default or is_outward else "begins"
        case "trusting, tainted" | "agreed by the asker" | "agreed by an admin" | "four eyes, agreed":
            return "begins"
        case "denied":
            return "forbidden"
        case "asked, undecided":
            return "asks"
        case "declined":
            return "not_agreed"
        case "four eyes, the asker tries":
            return "may not decide"
    raise AssertionError(standing)


@dataclass
class Cells:
    """One run with a call for every tool and effect, in an organisation that stands as said."""

    run: UUID
    fence: int
    calls: dict[tuple[str, str], str]
    seen: dict[tuple[str, str], str] = field(default_factory=dict)


async def filled(database: Database, gateway: WorkerGateway, role: str, standing: str) -> Cells:
    """The run, brought to where its calls begin."""
    how = STANDINGS[standing]
    owner, org = await database.new_organization()
    asker = owner if role == "owner" else await database.new_member(org, role)
    another = await database.new_member(org, "owner")
    if "policy" in how:
        await _set_policies(database, owner, org, role, how["policy"])
    run = await database.new_run(asker, org)
    if how.get("is_tainted"):
        await database.admin("update pam.runs set tainted_at = now(), taint = 'page x' where id = %s", run)
    held = {"run_id": run, "fence": await database.claimed(run, lease_seconds=600)}
    planned = {(tool, effect): call(tool, effect) for tool, effect in ALL}
    await gateway.call("record_step", **held, step=step(), calls=list(planned.values()), events=[])
    cells = Cells(run, held["fence"], {cell: one["id"] for cell, one in planned.items()})
    if "by" in how:
        await gateway.call("interrupt_run", **held, asks=[{"id": one} for one in cells.calls.values()], events=[])
        decisions = [{"approval_id": one, "verdict": how["verdict"]} for one in cells.calls.values()]
        answer = await database.rpc(asker if how["by"] == "asker" else another, "decide", decisions=decisions)
        for cell, result in zip(ALL, answer["results"], strict=True):
            if "refused" in result:
                cells.seen[cell] = "may not decide" if result["refused"]["code"] == "forbidden" else "?"
        if not cells.seen:
            cells.fence = await database.claimed(run, lease_seconds=600)
    return cells


async def _set_policies(database: Database, owner: UUID, org: UUID, role: str, policy: dict[str, Any]) -> None:
    """The same policy for every tool and effect, by the owner's own call."""
    more = "".join(f", {name} => '{value}'" for name, value in policy.items())
    async with database.person(owner) as connection:
        rows = await connection.execute(
            f"select pam.set_policy(%s, %s, x.tool, x.effect::pam.call_effect{more}) as answer"
            " from unnest(%s::text[], %s::text[]) as x (tool, effect)".encode(),
            [org, role, [tool for tool, _ in ALL], [effect for _, effect in ALL]],
        )
        assert not [row async for row in rows if "refused" in row["answer"]]


async def begun(gateway: WorkerGateway, cells: Cells, one: str) -> str:
    """What begin_call says of a call, in one word."""
    try:
        answer = await gateway.call("begin_call", run_id=cells.run, fence=cells.fence, id=UUID(one))
    except Refused as refusal:
        return refusal.code
    except FenceLost:
        return "out of reach"
    return "asks" if "ask" in answer else "begins"


@pytest.mark.parametrize("role", ROLES)
async def test_no_cell_of_the_matrix_surprises(template: Template, role: str) -> None:
    count, surprises = 0, []
    async with template.clone() as database:
        gateway = WorkerGateway(dsn=database.worker_dsn)
        await gateway.open()
        try:
            stranger = await filled(database, gateway, role, "trusting, tainted")
            for standing in STANDINGS:
                cells = await filled(database, gateway, role, standing)
                for cell, one in cells.calls.items():
                    seen = cells.seen.get(cell) or await begun(gateway, cells, one)
                    # From another organisation the same call is out of reach, whatever its own organisation allows.
                    foreign = await begun(gateway, stranger, one)
                    count += 2
                    if (seen, foreign) != (expected(standing, *cell), "out of reach"):
                        surprises.append((standing, cell, seen, foreign))
        finally:
            await gateway.close()
    assert surprises == []
    assert count >= 1_000


async def test_a_viewer_starts_nothing_for_any_tool_to_do(template: Template) -> None:
    async with template.clone() as database:
        _, org = await database.new_organization()
        viewer = await database.new_member(org, "viewer")
        answer = await database.rpc(viewer, "start_run", org_id=org, agent="engineer", message="x")
        assert answer["refused"]["code"] == "forbidden"


async def test_one_who_became_a_viewer_begins_nothing_more(template: Template) -> None:
    async with template.clone() as database:
        gateway = WorkerGateway(dsn=database.worker_dsn)
        await gateway.open()
        try:
            cells = await filled(database, gateway, "developer", "by default")
            await database.admin("update pam.members set role = 'viewer' where role = 'developer'")
            states = await asyncio.gather(
                *(refused(database, cells, one) for one in cells.calls.values()),
            )
            assert set(states) == {"PM003"}
        finally:
            await gateway.close()


async def refused(database: Database, cells: Cells, one: str) -> str:
    try:
        await database.worker("begin_call", run_id=cells.run, fence=cells.fence, id=UUID(one))
    except psycopg.Error as error:
        return error.sqlstate or "?"
    return ""
