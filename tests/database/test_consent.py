"""Policies of tools: who sets them, what holds without them, and what a call is told when it begins."""

import itertools
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.database.test_organizations import audit, code
from tests.database.world import BROKEN, call, custom, step
from tests.support.database import Database
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools import CARD_TOOLS

EFFECTS = tuple(effect.value for effect in CallEffect if effect is not CallEffect.PAUSE)
ROLES = ("developer", "admin", "owner")


async def planned(database: Database, person: UUID, org: UUID, *calls: dict[str, Any]) -> dict[str, Any]:
    """A run of this person that has planned these calls: how to hold it."""
    run = await database.new_run(person, org)
    held = {"run_id": run, "fence": await database.claimed(run)}
    await database.worker("record_step", **held, step=step(), calls=list(calls), events=[])
    return held


async def test_admins_set_policies_and_none_above_their_own_role(database: Database) -> None:
    owner, org = await database.new_organization()
    told = {"org_id": org, "tool": "api_call", "effect": "external"}
    expected = {
        ("viewer", "developer"): "forbidden", ("developer", "developer"): "forbidden",
        ("admin", "developer"): "", ("admin", "admin"): "", ("admin", "owner"): "forbidden", ("owner", "owner"): "",
    }  # fmt: skip
    for (role, target), answer in expected.items():
        person = owner if role == "owner" else await database.new_member(org, role)
        assert code(await database.rpc(person, "set_policy", **told, role=target)) == answer, (role, target)
        assert code(await database.rpc(person, "reset_policy", **told, role=target)) == answer, (role, target)
    foreign, _ = await database.new_organization()
    for verb in ("set_policy", "reset_policy", "read_policy"):
        assert code(await database.rpc(foreign, verb, **told, role="developer")) == "not_found"
    assert await audit(database, org, "policy.set") == [False, False, True, True, False, True]


@pytest.mark.parametrize(
    "wrong",
    [{"tool": "API"}, {"tool": ""}, {"tool": None}, {"tool": "a" * 64}, {"effect": "pause"}, {"decided_by": "viewer"},
     {"role": None}, {"consent": None}, {"is_allowed": None}],
)  # fmt: skip
async def test_a_policy_that_says_nothing_is_refused(database: Database, wrong: dict[str, Any]) -> None:
    owner, org = await database.new_organization()
    told = {"org_id": org, "role": "developer", "tool": "api_call", "effect": "external", **wrong}
    assert code(await database.rpc(owner, "set_policy", **told)) == "invalid"


async def test_a_tools_own_row_goes_before_the_row_for_every_tool(database: Database) -> None:
    owner, org = await database.new_organization()
    told = {"org_id": org, "role": "developer", "effect": "external"}
    await database.rpc(owner, "set_policy", **told, tool="*", is_allowed=False)
    await database.rpc(owner, "set_policy", **told, tool="api_call", consent="four_eyes", decided_by="owner")
    read = {
        tool: await database.rpc(owner, "read_policy", **told, tool=tool) for tool in ("api_call", "websocket_send")
    }
    assert (read["api_call"]["is_allowed"], read["api_call"]["consent"], read["api_call"]["decided_by"]) == (
        True, "four_eyes", "owner",
    )  # fmt: skip
    assert read["websocket_send"]["is_allowed"] is False
    other, elsewhere = await database.new_organization()
    foreign = await database.rpc(other, "read_policy", **{**told, "org_id": elsewhere}, tool="api_call")
    assert (foreign["is_default"], foreign["consent"]) == (True, "never"), (
        "what one organisation says holds for no other"
    )
    await database.rpc(owner, "reset_policy", **told, tool="*")
    assert (await database.rpc(owner, "read_policy", **told, tool="websocket_send"))["is_default"] is True


async def test_what_holds_without_a_policy(database: Database) -> None:
    owner, org = await database.new_organization()
    for role, tool, effect in itertools.product(("viewer", *ROLES), CARD_TOOLS, EFFECTS):
        holds = await database.rpc(owner, "read_policy", org_id=org, role=role, tool=tool, effect=effect)
        asks = "ask" if effect == "irreversible" or (tool, effect) == ("database_query", "write") else "never"
        after = "ask" if effect in ("external", "irreversible") else "never"
        decider = "admin" if effect == "irreversible" else "developer"
        assert (holds["is_allowed"], holds["consent"], holds["consent_after_untrusted"], holds["decided_by"]) == (
            role != "viewer", asks, after, decider,
        ), (role, tool, effect)  # fmt: skip


async def test_reading_what_nobody_vouches_for_taints_the_run_its_thread_and_nothing_else(database: Database) -> None:
    owner, org = await database.new_organization()
    read, send, again = call("file_read", "read"), call("api_call", "external"), call("api_call", "external")
    held = await planned(database, owner, org, read, send, again)
    begun = await database.worker("begin_call", **held, id=send["id"])
    assert begun["call"]["status"] == "started", "nothing was read yet"
    done = {"status": "succeeded", "result": "x", "events": [custom()]}
    await database.worker("finish_call", **held, id=send["id"], **done)
    await database.worker("begin_call", **held, id=read["id"])
    await database.worker("finish_call", **held, id=read["id"], **done, origin="file notes.md")
    asked = await database.worker("begin_call", **held, id=again["id"])
    assert "file notes.md" in asked["ask"]["why"]
    (run,) = await database.admin("select thread_id, taint, tainted_at from pam.runs where id = %s", held["run_id"])
    assert run["taint"] == "file notes.md"

    finished = {"type": "RUN_FINISHED", "outcome": {"type": "success"}}
    await database.worker("finish_run", **held, status="succeeded", reason=None, events=[finished])
    next_run = await database.new_run(owner, org, thread_id=run["thread_id"])
    other = await database.new_run(owner, org)
    rows = await database.admin("select id, taint from pam.runs")
    assert {row["id"]: row["taint"] for row in rows} == {
        held["run_id"]: "file notes.md",
        next_run: "file notes.md",
        other: None,
    }


@pytest.mark.parametrize("where", ["the same run", "a later run of the thread"])
async def test_the_same_effect_again_is_a_persons_to_agree_to_while_nobody_knows_of_the_first(
    database: Database, where: str
) -> None:
    owner, org = await database.new_organization()
    first, same, other = (
        call("redis_set", "write", key="a", value=1),
        call("redis_set", "write", value=1, key="a"),
        call("redis_set", "write", key="a", value=2),
    )
    held = await planned(database, owner, org, first, *([same, other] if where == "the same run" else []))
    await database.worker("begin_call", **held, id=first["id"])
    await database.worker("finish_call", **held, id=first["id"], status="unknown", result="x", events=[custom()])
    if where != "the same run":
        await database.worker("finish_run", **held, status="failed", reason="x", events=[BROKEN])
        (run,) = await database.admin("select thread_id from pam.runs")
        again = await database.new_run(owner, org, thread_id=run["thread_id"])
        held = {"run_id": again, "fence": await database.claimed(again)}
        await database.worker("record_step", **held, step=step(), calls=[same, other], events=[custom()])
    asked = await database.worker("begin_call", **held, id=same["id"])
    assert "nobody knows whether it took effect" in asked["ask"]["why"]
    assert code(await database.worker("begin_call", **held, id=other["id"])) == "", "another value is another effect"
    elsewhere = await planned(database, owner, org, {**same, "id": str(uuid4())})
    (call_id,) = await database.admin("select id from pam.tool_calls where run_id = %s", elsewhere["run_id"])
    assert "ask" not in await database.worker("begin_call", **elsewhere, id=call_id["id"]), (
        "no matter of another thread"
    )


async def test_a_call_that_the_card_does_not_grant_never_begins(database: Database) -> None:
    owner, org = await database.new_organization()
    held = await planned(database, owner, org, call("format_disk", "read"))
    (row,) = await database.admin("select id from pam.tool_calls where run_id = %s", held["run_id"])
    assert code(await database.worker("begin_call", **held, id=row["id"])) == "not_granted"


async def test_what_a_call_may_cost_is_set_aside_and_settled(database: Database) -> None:
    owner, org = await database.new_organization()
    calls = [call("openai_api_call", "external", n=n) for n in range(4)]
    held = await planned(database, owner, org, *calls)  # the run may spend $0.50
    begin = [await database.worker("begin_call", **held, id=one["id"], ceiling_usd=Decimal("0.2")) for one in calls[:3]]
    assert [code(one) for one in begin] == ["", "", "budget"]
    assert "$0.2" in begin[2]["refused"]["message"]
    done = {"result": "x", "events": [custom()]}
    await database.worker(
        "finish_call", **held, id=calls[0]["id"], status="succeeded", **done, cost_usd=Decimal("0.05")
    )
    assert code(await database.worker("begin_call", **held, id=calls[2]["id"], ceiling_usd=Decimal("0.2"))) == ""
    # Where nobody saw the outcome, what was set aside is charged.
    await database.worker("finish_call", **held, id=calls[1]["id"], status="unknown", **done)
    await database.worker("finish_call", **held, id=calls[2]["id"], status="failed", **done, cost_usd=Decimal("0.01"))
    (run,) = await database.admin("select cost_usd from pam.runs")
    assert float(run["cost_usd"]) == pytest.approx(0.05 + 0.2 + 0.01 + 0.000125)
    (left,) = await database.admin("select sum(reserved_usd) as usd from pam.tool_calls")
    assert float(left["usd"]) == 0


@pytest.mark.parametrize("ending", ["by its worker", "by the database"])
async def test_what_was_set_aside_is_charged_when_the_run_ends_under_its_call(database: Database, ending: str) -> None:
    owner, org = await database.new_organization()
    begun, never = call("openai_api_call", "external"), call("openai_api_call", "external", n=1)
    held = await planned(database, owner, org, begun, never)
    assert code(await database.worker("begin_call", **held, id=begun["id"], ceiling_usd=Decimal("0.2"))) == ""
    if ending == "by its worker":
        await database.worker("finish_run", **held, status="failed", reason="x", events=[BROKEN])
    else:
        await database.admin("update pam_private.run_heads set lease_until = now() where run_id = %s", held["run_id"])
        await database.rpc(owner, "cancel_run", run_id=held["run_id"])
    (run,) = await database.admin("select status, cost_usd from pam.runs")
    assert run["status"] in ("failed", "cancelled")
    assert float(run["cost_usd"]) == pytest.approx(0.2 + 0.000125)
    rows = await database.admin("select status, cost_usd, reserved_usd from pam.tool_calls order by cost_usd desc")
    told = [(row["status"], float(row["cost_usd"]), float(row["reserved_usd"])) for row in rows]
    assert told == [("unknown", 0.2, 0), ("refused", 0, 0)]


async def test_a_repeated_beginning_sets_nothing_aside_twice(database: Database) -> None:
    owner, org = await database.new_organization()
    one = call("openai_api_call", "external")
    held = await planned(database, owner, org, one)
    for _ in range(3):
        assert code(await database.worker("begin_call", **held, id=one["id"], ceiling_usd=Decimal("0.4"))) == ""


async def test_a_long_result_is_kept_for_its_conversation_alone(database: Database) -> None:
    owner, org = await database.new_organization()
    one = call("file_read", "read")
    held = await planned(database, owner, org, one)
    await database.worker("begin_call", **held, id=one["id"])
    done = {"status": "succeeded", "result": "cut", "events": [custom()], "origin": "page x", "output": "ä" * 5_000_000}
    await database.worker("finish_call", **held, id=one["id"], **done)
    part = await database.worker(
        "read_output", **held, call=UUID(one["id"]), first_character=4_194_300, max_characters=100
    )
    assert part == {"characters": 4_194_304, "origin": "page x", "text": "ä" * 5}
    elsewhere = await planned(database, owner, org, call("file_read", "read"))
    foreign = await planned(database, *await database.new_organization(), call("file_read", "read"))
    for other in (elsewhere, foreign):
        answer = await database.worker(
            "read_output", **other, call=UUID(one["id"]), first_character=1, max_characters=9
        )
        assert code(answer) == "not_found"
    assert (
        code(await database.worker("read_output", **held, call=uuid4(), first_character=1, max_characters=9))
        == "not_found"
    )
