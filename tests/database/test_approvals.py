"""Approvals: who may decide, once, in time, on what exactly; links; reminders; and what holds when the call begins."""

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.database.test_organizations import audit, code
from tests.database.world import call, custom, step
from tests.support.database import Database

REST = {"url": "https://api.example.com/"}


@dataclass
class Waiting:
    """A run that waits for people to decide on its calls."""

    database: Database
    owner: UUID
    org: UUID
    asker: UUID
    run: UUID
    calls: list[UUID]

    async def decide(self, person: UUID, *calls: UUID, verdict: str = "approve", **more: Any) -> list[Any]:
        """What became of each, as its status or the code of its refusal."""
        sent = [{"approval_id": str(one), "verdict": verdict, **more} for one in calls or self.calls]
        answer = await self.database.rpc(person, "decide", decisions=sent)
        return [one.get("status") or code(one) for one in answer["results"]]

    async def begin(self, one: UUID | None = None, **more: Any) -> Any:
        """Claim the run if nobody holds it, and begin a call."""
        self.fence = getattr(self, "fence", 0) or await self.database.claimed(self.run)
        return await self.database.worker(
            "begin_call", run_id=self.run, fence=self.fence, id=one or self.calls[0], **more
        )

    async def status(self) -> str:
        """The run's status."""
        return str((await self.database.admin("select status from pam.runs where id = %s", self.run))[0]["status"])


async def waiting(
    database: Database, *, asker: str = "developer", calls: int = 1, effect: str = "irreversible", **policy: Any
) -> Waiting:
    """A run of a member with this role that waits with so many calls; policy: what set_policy is told first."""
    owner, org = await database.new_organization()
    person = owner if asker == "owner" else await database.new_member(org, asker)
    if policy:
        told = {"org_id": org, "role": asker, "tool": "api_call", "effect": effect, **policy}
        assert "refused" not in await database.rpc(owner, "set_policy", **told)
    run = await database.new_run(person, org)
    fence = await database.claimed(run)
    planned = [call("api_call", effect, **REST, n=n) for n in range(calls)]
    held = {"run_id": run, "fence": fence}
    await database.worker("record_step", **held, step=step(), calls=planned, events=[])
    for one in planned:
        assert "ask" in await database.worker("begin_call", **held, id=one["id"])
    interrupts = [{"id": one["id"], "reason": "approval", "message": "?"} for one in planned]
    finished = {"type": "RUN_FINISHED", "outcome": {"type": "interrupt", "interrupts": interrupts}}
    asks = [{"id": one["id"], "why": "policy", "shown": "3 rows", "facts": {"rows": 3}} for one in planned]
    await database.worker("interrupt_run", **held, asks=asks, events=[finished])
    return Waiting(database, owner, org, person, run, [UUID(one["id"]) for one in planned])


async def test_arguments_sent_back_as_they_are_are_no_edit_however_they_are_written(database: Database) -> None:
    there = await waiting(database)
    for table in ("tool_calls", "approvals"):
        await database.admin(f"update pam.{table} set arguments = '{{\"amount\": 1.0}}' where id = %s", there.calls[0])
    assert await there.decide(there.owner, arguments={"amount": 1}) == ["approved"]
    begun = await there.begin()
    assert begun["call"]["status"] == "started", begun


async def test_a_pause_holds_no_worker_and_says_who_may_decide_until_when(database: Database) -> None:
    there = await waiting(database)
    (row,) = await database.admin(
        "select *, expires_at - created_at as time_left from pam.approvals where run_id = %s", there.run
    )
    assert (row["status"], row["kind"], row["tool"], row["effect"]) == (
        "pending",
        "approval",
        "api_call",
        "irreversible",
    )
    assert (row["needs_role"], row["is_four_eyes"], row["asker_id"]) == ("admin", False, there.asker)
    assert (row["shown"], row["facts"], row["arguments"]) == ("3 rows", {"rows": 3}, {**REST, "n": 0})
    assert 23.9 < row["time_left"].total_seconds() / 3600 < 24.001
    (head,) = await database.admin("select lease_until from pam_private.run_heads where run_id = %s", there.run)
    assert head["lease_until"] is None


async def test_only_one_who_has_the_role_decides(database: Database) -> None:
    there = await waiting(database)
    for role in ("viewer", "developer"):
        assert await there.decide(await database.new_member(there.org, role)) == ["forbidden"]
    assert await there.decide(there.asker) == ["forbidden"], "a developer has not the role that the policy names"
    assert await there.decide(await database.new_person()) == ["not_found"]
    foreign, _ = await database.new_organization()
    assert await there.decide(foreign) == ["not_found"]
    assert await there.decide(foreign, uuid4()) == ["not_found"], "a foreign id and an absent id answer alike"
    assert await there.status() == "interrupted"
    admin = await database.new_member(there.org, "admin")
    assert await there.decide(admin) == ["approved"]
    assert await there.status() == "queued"
    assert await audit(database, there.org, "approval.decide") == [False, False, False, True]


async def test_deciding_twice_is_told_and_changes_nothing(database: Database) -> None:
    there = await waiting(database)
    assert await there.decide(there.owner, verdict="reject", note="no") == ["rejected"]
    assert await there.decide(there.owner) == ["conflict"]
    (row,) = await database.admin("select status, note, decided_through from pam.approvals")
    assert row == {"status": "rejected", "note": "no", "decided_through": "session"}


async def test_twenty_who_decide_at_once_decide_once(database: Database) -> None:
    there = await waiting(database)
    verdicts = ["approve", "reject"] * 10
    told = await asyncio.gather(*(there.decide(there.owner, verdict=verdict) for verdict in verdicts))
    assert sum(one[0] in ("approved", "rejected") for one in told) == 1
    assert sum(one[0] == "conflict" for one in told) == 19
    assert (await database.admin("select turn from pam.runs"))[0]["turn"] == 2


async def test_four_eyes_are_two_people(database: Database) -> None:
    there = await waiting(database, asker="owner", consent="four_eyes", decided_by="developer")
    assert await there.decide(there.asker) == ["forbidden"]
    assert await there.decide(await database.new_member(there.org, "developer")) == ["forbidden"], (
        "not the asker, no admin"
    )
    assert await there.decide(await database.new_member(there.org, "admin")) == ["approved"]
    assert (await there.begin())["agreed"] == {"rows": 3}


async def test_sixty_are_decided_in_one_step_and_the_run_goes_on_once(database: Database) -> None:
    there = await waiting(database, calls=60)
    assert await there.decide(there.owner, *there.calls[:59]) == ["approved"] * 59
    assert await there.status() == "interrupted", "one still waits"
    mixed = await there.decide(there.owner, *there.calls)
    assert mixed == ["conflict"] * 59 + ["approved"]
    assert (await database.admin("select turn, status from pam.runs"))[0] == {"turn": 2, "status": "queued"}


async def test_two_batches_in_opposite_order_do_not_wait_for_each_other(database: Database) -> None:
    first, second = await waiting(database), await waiting(database)
    judge = await database.new_person()
    for there in (first, second):
        await database.admin("insert into pam.members values (%s, %s, 'owner')", there.org, judge)
    orders = [[first.calls[0], second.calls[0]], [second.calls[0], first.calls[0]]] * 8
    told = await asyncio.gather(*(first.decide(judge, *order) for order in orders))
    assert sum(one == "approved" for batch in told for one in batch) == 2


@pytest.mark.parametrize(
    "decisions",
    [None, [], {}, [1], [{"approval_id": str(uuid4())}] * 201],
    ids=["null", "empty", "object", "number", "too many"],
)
async def test_a_batch_that_is_none_is_refused_whole(database: Database, decisions: Any) -> None:
    there = await waiting(database)
    async with database.person(there.owner) as connection:
        row = await (
            await connection.execute(
                "select pam.decide(%s::text::jsonb) as answer", [psycopg.types.json.json.dumps(decisions)]
            )
        ).fetchone()
    assert row is not None
    assert code(row["answer"]) == "invalid"


async def test_what_is_said_must_fit_what_was_asked(database: Database) -> None:
    there = await waiting(database)
    for more in (
        {"verdict": "answer", "note": "x"}, {"verdict": "maybe"}, {"verdict": None},
        {"note": "x" * 20_001}, {"arguments": [1]}, {"arguments": "x"}, {"verdict": "reject", "arguments": {"url": "x"}},
    ):  # fmt: skip
        assert await there.decide(there.owner, **more) == ["invalid"], more
    assert await there.status() == "interrupted"


async def test_edited_arguments_are_what_was_agreed_to(database: Database) -> None:
    there = await waiting(database)
    edited = {"url": "https://api.example.com/safe"}
    assert await there.decide(there.owner, arguments=edited) == ["approved"]
    fence = await database.claimed(there.run)
    told = await database.worker("read_conversation", run_id=there.run, fence=fence)
    assert told["calls"][0]["decision"]["edited_arguments"] == edited
    assert told["calls"][0]["arguments"] == {**REST, "n": 0}, "what the model asked stays as it was"
    begun = await database.worker("begin_call", run_id=there.run, fence=fence, id=there.calls[0])
    assert begun["call"]["status"] == "started"


async def test_an_approval_is_bound_to_the_arguments(database: Database) -> None:
    there = await waiting(database)
    await there.decide(there.owner)
    await database.admin('update pam.tool_calls set arguments = \'{"url": "https://evil.example"}\'')
    assert code(await there.begin()) == "not_agreed"


async def test_an_approval_lapses_with_its_time_its_approver_and_a_stricter_policy(database: Database) -> None:
    late, orphaned, tightened, demoted = [await waiting(database) for _ in range(4)]
    for there in (late, orphaned, tightened, demoted):
        assert await there.decide(there.owner) == ["approved"]
    await database.admin("update pam.approvals set expires_at = now() where run_id = %s", late.run)
    await database.admin("delete from pam.members where user_id = %s", orphaned.owner)
    await database.admin("update pam.members set role = 'developer' where user_id = %s", demoted.owner)
    await database.rpc(
        tightened.owner, "set_policy", org_id=tightened.org, role="developer", tool="api_call", effect="irreversible",
        is_allowed=False,
    )  # fmt: skip
    assert [code(await there.begin()) for there in (late, orphaned, demoted)] == ["not_agreed"] * 3
    assert code(await tightened.begin()) == "forbidden"

    own = await waiting(database, asker="owner")
    assert await own.decide(own.asker) == ["approved"]
    await database.rpc(
        own.owner, "set_policy", org_id=own.org, role="owner", tool="*", effect="irreversible", consent="four_eyes"
    )
    assert code(await own.begin()) == "not_agreed"


async def test_nobody_decides_in_time_and_the_run_is_told(database: Database) -> None:
    there = await waiting(database, calls=2)
    await there.decide(there.owner, there.calls[0])
    await database.admin("update pam.approvals set expires_at = now() where status = 'pending'")
    assert await there.decide(there.owner, there.calls[1]) == ["conflict"]
    assert await database.worker("sweep_approvals") == [{"run_id": str(there.run), "turn": 2}]
    assert await database.worker("sweep_approvals") == []
    fence = await database.claimed(there.run)
    told = await database.worker("read_conversation", run_id=there.run, fence=fence)
    assert [(one["status"], one["decision"]["status"]) for one in told["calls"]] == [
        ("answered", "approved"),
        ("answered", "expired"),
    ]
    assert await there.decide(there.owner, there.calls[1]) == ["conflict"], "too late is said for good"


async def test_what_waits_long_is_reminded_of_in_the_log(database: Database) -> None:
    there = await waiting(database, calls=2)
    await there.decide(there.owner, there.calls[0])
    for expected in (1, 2, 3, 3):
        await database.admin("update pam.approvals set remind_at = now() where remind_at is not null")
        assert await database.worker("sweep_approvals") == []
        reminders = await database.admin("select payload from pam.events where payload ->> 'name' = 'pam.reminder'")
        assert len(reminders) == expected
    assert [one["approval_id"] for one in reminders[-1]["payload"]["value"]["waiting"]] == [str(there.calls[1])]
    (last,) = await database.admin("select payload from pam.events order by seq desc limit 1")
    assert [one["id"] for one in last["payload"]["outcome"]["interrupts"]] == [str(there.calls[1])]
    assert await there.status() == "interrupted"
    rows = await database.admin("select seq from pam.events where run_id = %s order by seq", there.run)
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))


async def test_a_reminder_reaches_whoever_may_decide_and_nobody_else(database: Database) -> None:
    there = await waiting(database, calls=2)
    (org,) = await database.admin("select org_id from pam.runs where id = %s", there.run)
    admin = await database.new_member(org["org_id"], "admin")
    await database.new_member(org["org_id"], "developer")
    await database.new_organization()
    await database.admin("update pam.approvals set is_four_eyes = true, remind_at = now()")
    await database.worker("sweep_approvals")
    told = await database.admin("select topic, payload from realtime.messages where event = 'pam.reminder' and private")
    assert {row["topic"] for row in told} == {f"user:{there.owner}", f"user:{admin}"}
    assert all(row["payload"]["payload"] == {"run_id": str(there.run), "waiting": 2} for row in told)


async def test_what_waits_goes_with_its_run(database: Database) -> None:
    there = await waiting(database)
    await database.rpc(there.asker, "cancel_run", run_id=there.run)
    assert (await database.admin("select status from pam.approvals"))[0]["status"] == "withdrawn"
    assert await there.decide(there.owner) == ["conflict"]


async def link_of(there: Waiting, person: UUID | None = None) -> str:
    return str(
        (await there.database.rpc(person or there.owner, "make_decision_link", approval_id=there.calls[0]))["token"]
    )


async def test_a_link_decides_once_without_a_session(database: Database) -> None:
    there = await waiting(database)
    token = await link_of(there)
    for _ in range(2):  # looking does not use it up
        seen = await database.rpc(None, "read_decision_link", token=token)
        assert (seen["tool"], seen["shown"]) == ("api_call", "3 rows")
    assert code(await database.rpc(None, "decide_by_link", token=token, verdict="maybe")) == "invalid"
    presses = await asyncio.gather(
        *(database.rpc(None, "decide_by_link", token=token, verdict="approve") for _ in range(10))
    )
    assert sorted(code(press) for press in presses) == ["", *["conflict"] * 9]
    (row,) = await database.admin("select status, decided_by, decided_through from pam.approvals")
    assert row == {"status": "approved", "decided_by": there.owner, "decided_through": "link"}
    used = await database.rpc(None, "read_decision_link", token=token)
    assert used["refused"]["message"] == "This link was used already."
    assert await there.status() == "queued"


async def test_a_link_is_for_those_who_may_decide_and_dies_with_their_rights(database: Database) -> None:
    there = await waiting(database)
    stranger = await database.new_person()
    for person, expected in ((there.asker, "forbidden"), (stranger, "not_found"), (None, "signed_out")):
        assert code(await database.rpc(person, "make_decision_link", approval_id=there.calls[0])) == expected
    admin = await database.new_member(there.org, "admin")
    token = await link_of(there, admin)
    await database.admin("update pam.members set role = 'developer' where user_id = %s", admin)
    assert code(await database.rpc(None, "decide_by_link", token=token, verdict="approve")) == "forbidden"
    await database.rpc(there.owner, "remove_member", org_id=there.org, user_id=admin)
    assert code(await database.rpc(None, "decide_by_link", token=token, verdict="approve")) == "not_found"
    assert await there.status() == "interrupted"


async def test_a_forged_or_late_link_decides_nothing(database: Database) -> None:
    there = await waiting(database)
    token = await link_of(there)
    identity, expires, signature = token.split(".")
    forged = {
        "another's id": f"{uuid4()}.{expires}.{signature}",
        "a later end": f"{identity}.{int(expires) + 9}.{signature}",
        "another signature": f"{identity}.{expires}.{signature[:-1]}{'A' if signature[-1] != 'A' else 'B'}",
        "no signature": f"{identity}.{expires}.",
        "upper case": token.upper(),
        "more behind": f"{token}x",
        "a line more": f"{token}\n",
        "nothing": "",
        "ten thousand": "a" * 10_000,
        "a quote": f"' or true --.{expires}.{signature}",
    }
    for name, one in forged.items():
        assert code(await database.rpc(None, "decide_by_link", token=one, verdict="approve")) == "not_found", name
    await database.admin("update pam_private.decision_links set expires_at = now()")
    assert code(await database.rpc(None, "decide_by_link", token=token, verdict="approve")) == "conflict"
    assert await there.status() == "interrupted"
    for column in ("token_id::text || expires_at",):
        (kept,) = await database.admin(f"select {column} as text from pam_private.decision_links")
        assert signature not in kept["text"]


async def test_a_run_waits_for_two_hundred_at_most(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    for asks in ([], [{"id": str(uuid4())}] * 201):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            await database.worker("interrupt_run", run_id=run, fence=fence, asks=asks, events=[custom()])
