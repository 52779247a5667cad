"""Starting, cancelling and answering runs, as a browser does it: every refusal, every race, and its audit row."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.database.test_organizations import audit, code
from tests.database.world import call, custom, step
from tests.support.database import DEFINITION, Database


async def start(database: Database, person: UUID | None, org: UUID, **other: Any) -> Any:
    return await database.rpc(person, "start_run", **{"org_id": org, "agent": "engineer", "message": "Look.", **other})


async def asked(database: Database, run: UUID) -> UUID:
    """Bring a queued run to its question; answers the call that waits."""
    fence = await database.claimed(run)
    question = call("ask_person", "pause", question="Which?")
    held = {"run_id": run, "fence": fence}
    await database.worker("record_step", **held, step=step(), calls=[question], events=[])
    await database.worker("interrupt_run", **held, asks=[{"id": question["id"]}], events=[custom("asks")])
    return UUID(question["id"])


async def test_a_run_starts_queued_with_its_thread_message_claims_and_head(database: Database) -> None:
    owner, org = await database.new_organization()
    answer = await start(database, owner, org, message="  Look\nat it. ", limits={"max_steps": 7, "max_cost_usd": 0.25})
    (run,) = await database.admin("select * from pam.runs")
    assert (str(run["id"]), run["status"], run["turn"], run["max_steps"], str(run["max_cost_usd"]), run["max_tokens"]) == (
        answer["run_id"], "queued", 1, 7, "0.250000", 400_000,
    )  # fmt: skip
    assert (await database.admin("select title from pam.threads"))[0]["title"] == "Look"
    assert (await database.admin("select content, role from pam.messages"))[0] == {
        "content": "  Look\nat it. ",
        "role": "user",
    }
    (claims,) = await database.admin("select claims from pam_private.run_claims")
    assert claims["claims"]["sub"] == str(owner)
    assert (await database.admin("select fence, last_seq from pam_private.run_heads"))[0] == {"fence": 0, "last_seq": 0}
    assert await audit(database, org, "run.start") == [True]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"message": ""}, "invalid"), ({"message": None}, "invalid"), ({"message": " \n\t "}, "invalid"),
    ({"message": "x" * 1_000_000}, "too_large"), ({"message": "ä" * 100_001}, "too_large"),
    ({"agent": "nobody"}, "unknown_agent"), ({"agent": None}, "unknown_agent"), ({"agent": "x" * 10_000}, "unknown_agent"),
    ({"agent": "Engineer"}, "unknown_agent"),
    ({"limits": {"max_steps": 0}}, "invalid"), ({"limits": {"max_steps": -1}}, "invalid"),
    ({"limits": {"max_steps": 201}}, "invalid"), ({"limits": {"max_steps": 1.5}}, "invalid"),
    ({"limits": {"max_steps": "7"}}, "invalid"), ({"limits": {"max_steps": None}}, "invalid"),
    ({"limits": {"max_steps": [7]}}, "invalid"), ({"limits": {"max_steps": True}}, "invalid"),
    ({"limits": {"max_tokens": 20_000_001}}, "invalid"), ({"limits": {"max_seconds": 86_401}}, "invalid"),
    ({"limits": {"max_cost_usd": 100.01}}, "invalid"), ({"limits": {"max_cost_usd": 0.0000001}}, "invalid"),
    ({"limits": {"max_cost_usd": 1e300}}, "invalid"), ({"limits": {"max_cost_usd": -0.5}}, "invalid"),
    ({"limits": {"max_stepz": 7}}, "invalid"), ({"limits": {"": 7}}, "invalid"), ({"limits": {"x" * 1000: 7}}, "invalid"),
    ({"limits": [7]}, "invalid"),
    ({"idempotency_key": ""}, "invalid"), ({"idempotency_key": "x" * 201}, "invalid"),
    ({"thread_id": uuid4()}, "not_found"),
]  # fmt: skip


async def test_a_bad_start_is_refused_with_a_sentence_and_leaves_nothing(database: Database) -> None:
    owner, org = await database.new_organization()
    for arguments, expected in REFUSED:
        assert code(await start(database, owner, org, **arguments)) == expected, str(arguments)[:80]
    for table in ("runs", "threads", "messages"):
        assert await database.admin(f"select 1 from pam.{table}") == [], table
    assert await audit(database, org, "run.start") == [False]  # the foreign thread; what is mistyped is nobody's news


async def test_the_largest_message_and_the_highest_limits_pass(database: Database) -> None:
    owner, org = await database.new_organization()
    highest = {"max_steps": 200, "max_tokens": 20_000_000, "max_cost_usd": 100, "max_seconds": 86_400}
    assert (
        code(await start(database, owner, org, message="ä" * 100_000, limits=highest, idempotency_key="x" * 200)) == ""
    )


async def test_the_cards_limits_hold_unless_the_caller_says_otherwise(database: Database) -> None:
    owner, org = await database.new_organization()
    definition = {**DEFINITION, "limits": {"max_steps": 3, "max_tokens": 5}}
    await database.rpc(owner, "import_agent", org_id=org, name="small", definition=definition, source="# small")
    run = (await start(database, owner, org, agent="small", limits={"max_tokens": 9}))["run_id"]
    (row,) = await database.admin("select max_steps, max_tokens from pam.runs where id = %s", run)
    assert row == {"max_steps": 3, "max_tokens": 9}


async def test_strangers_removed_members_and_viewers_start_nothing(database: Database) -> None:
    owner, org = await database.new_organization()
    for person, expected in (
        (None, "signed_out"),
        (await database.new_person(), "not_found"),
        (await database.new_member(org, "viewer"), "forbidden"),
        (await database.new_member(org, "developer"), ""),
        (await database.new_member(org, "admin"), ""),
        (owner, ""),
    ):
        assert code(await start(database, person, org)) == expected
    assert await audit(database, org, "run.start") == [False, True, True, True]


async def test_a_thread_of_another_organisation_is_refused_and_audited(database: Database) -> None:
    owner, org = await database.new_organization()
    foreign, there = await database.new_organization()
    thread = (await database.rpc(foreign, "create_thread", org_id=there, title="Ours"))["thread_id"]
    assert code(await start(database, owner, org, thread_id=thread)) == "not_found"
    assert await audit(database, org, "run.start") == [False]
    assert await database.admin("select 1 from pam.runs") == []


async def test_a_thread_takes_one_run_at_a_time_even_from_two_people(database: Database) -> None:
    owner, org = await database.new_organization()
    thread = (await database.rpc(owner, "create_thread", org_id=org))["thread_id"]
    people = [owner, *[await database.new_member(org, "developer") for _ in range(5)]]
    answers = await asyncio.gather(*(start(database, person, org, thread_id=thread) for person in people))
    assert sorted(code(answer) for answer in answers) == ["", *["busy"] * 5]
    run = next(answer["run_id"] for answer in answers if not code(answer))
    await database.rpc(owner, "cancel_run", run_id=run)
    assert code(await start(database, owner, org, thread_id=thread)) == ""


async def test_a_repeated_key_answers_the_same_run_and_another_request_conflicts(database: Database) -> None:
    owner, org = await database.new_organization()
    first = await start(database, owner, org, idempotency_key="k")
    again = await start(database, owner, org, idempotency_key="k")
    assert (first["is_replay"], again["is_replay"], again["run_id"]) == (False, True, first["run_id"])
    for other in ({"message": "Else."}, {"limits": {"max_steps": 2}}, {"thread_id": first["thread_id"]}):
        assert code(await start(database, owner, org, idempotency_key="k", **other)) == "conflict"
    colleague = await database.new_member(org, "developer")
    assert (await start(database, colleague, org, idempotency_key="k"))["run_id"] != first["run_id"]


async def test_fifty_starts_at_once_with_one_key_make_one_run(database: Database) -> None:
    owner, org = await database.new_organization()
    answers = await asyncio.gather(*(start(database, owner, org, idempotency_key="one") for _ in range(50)))
    assert len({answer["run_id"] for answer in answers}) == 1
    assert sum(not answer["is_replay"] for answer in answers) == 1
    assert (
        len(await database.admin("select 1 from pam.runs"))
        == len(await database.admin("select 1 from pam.messages"))
        == 1
    )


async def test_a_person_has_fifty_unfinished_runs_over_all_organisations_even_at_once(database: Database) -> None:
    owner, org = await database.new_organization()
    _, second = await database.new_organization(owner)
    for _ in range(45):
        await start(database, owner, org)
    answers = await asyncio.gather(*(start(database, owner, second) for _ in range(10)))
    assert sorted(code(answer) for answer in answers) == [""] * 5 + ["limit"] * 5
    assert (await audit(database, second, "run.start")).count(False) == 5
    assert code(await start(database, await database.new_member(org, "developer"), org)) == ""


async def test_a_thread_is_made_by_developers_and_its_title_is_bounded(database: Database) -> None:
    owner, org = await database.new_organization()
    assert code(await database.rpc(owner, "create_thread", org_id=org, title="x" * 200)) == ""
    assert code(await database.rpc(owner, "create_thread", org_id=org, title="x" * 201)) == "invalid"
    viewer = await database.new_member(org, "viewer")
    assert code(await database.rpc(viewer, "create_thread", org_id=org)) == "forbidden"
    assert code(await database.rpc(await database.new_person(), "create_thread", org_id=org)) == "not_found"
    assert await audit(database, org, "thread.create") == [True, False]


async def test_a_queued_run_is_cancelled_at_once_with_its_two_events(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    assert (await database.rpc(owner, "cancel_run", run_id=run))["status"] == "cancelled"
    events = await database.admin("select seq, payload from pam.events order by seq")
    assert [e["payload"]["type"] for e in events] == ["RUN_STARTED", "RUN_FINISHED"]
    assert events[1]["payload"]["outcome"] == {"type": "cancelled"}
    assert code(await database.rpc(owner, "cancel_run", run_id=run)) == "conflict"
    assert await audit(database, org, "run.cancel") == [True]
    assert await audit(database, org, "run.cancelled") == [True]


async def test_a_running_run_is_asked_to_stop_and_asked_once(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    assert (await database.rpc(owner, "cancel_run", run_id=run))["status"] == "running"
    assert code(await database.rpc(owner, "cancel_run", run_id=run)) == "conflict"
    (stopped,) = await database.worker("pulse_runs", runs=(run,), fences=(fence,), lease_seconds=30)
    assert stopped == {"run_id": str(run), "reason": "cancelled"}


async def test_a_run_whose_worker_is_lost_or_that_waits_for_a_person_is_cancelled_at_once(database: Database) -> None:
    owner, org = await database.new_organization()
    stranded, waiting = await database.new_run(owner, org), await database.new_run(owner, org)
    await database.claimed(stranded, lease_seconds=0)
    question = await asked(database, waiting)
    for run in (stranded, waiting):
        assert (await database.rpc(owner, "cancel_run", run_id=run))["status"] == "cancelled"
    (row,) = await database.admin("select status from pam.tool_calls where id = %s", question)
    assert row["status"] == "refused"


async def test_a_colleague_may_not_cancel_but_an_admin_may_and_a_stranger_finds_no_run(database: Database) -> None:
    _, org = await database.new_organization()
    run = await database.new_run(await database.new_member(org, "developer"), org)
    foreign, _ = await database.new_organization()
    for person in (foreign, await database.new_person(), None):
        refused = await database.rpc(person, "cancel_run", run_id=run)
        assert code(refused) == "not_found"
        assert refused == await database.rpc(person, "cancel_run", run_id=uuid4())
    for role, expected in (("viewer", "forbidden"), ("developer", "forbidden"), ("admin", "")):
        assert code(await database.rpc(await database.new_member(org, role), "cancel_run", run_id=run)) == expected
    assert await audit(database, org, "run.cancel") == [False, False, True]


async def test_an_answer_goes_on_with_the_run_and_its_clock_stood_still(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    question = await asked(database, run)
    await database.admin("update pam.runs set interrupted_at = interrupted_at - interval '2 hours'")
    (before,) = await database.admin("select deadline_at, turn from pam.runs")
    helper = await database.new_member(org, "admin")
    for role in ("viewer", "developer"):
        bystander = await database.new_member(org, role)
        assert code(await database.rpc(bystander, "answer_question", run_id=run, answer="Blue.")) == "forbidden"
    assert (
        code(await database.rpc(await database.new_person(), "answer_question", run_id=run, answer="x")) == "not_found"
    )
    for bad in ("", None, " \n", "x" * 20_001):
        assert code(await database.rpc(owner, "answer_question", run_id=run, answer=bad)) == "invalid"
    assert (await database.rpc(helper, "answer_question", run_id=run, answer=" Blue. "))["status"] == "queued"
    assert code(await database.rpc(helper, "answer_question", run_id=run, answer="Red.")) == "conflict"
    (after,) = await database.admin("select deadline_at, turn, status, interrupted_at from pam.runs")
    assert 7195 < (after["deadline_at"] - before["deadline_at"]).total_seconds() < 7300
    assert (after["turn"], after["status"], after["interrupted_at"]) == (before["turn"] + 1, "queued", None)
    (row,) = await database.admin("select status, result from pam.tool_calls where id = %s", question)
    assert row == {"status": "answered", "result": "Blue."}
    assert await audit(database, org, "approval.decide") == [False, False, True]


async def test_ten_answers_at_once_are_one_turn(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    await asked(database, run)
    answers = await asyncio.gather(
        *(database.rpc(owner, "answer_question", run_id=run, answer=str(n)) for n in range(10))
    )
    assert sorted(code(answer) for answer in answers) == ["", *["conflict"] * 9]
    assert (await database.admin("select turn from pam.runs"))[0]["turn"] == 2


@pytest.mark.parametrize("status", ["queued", "running", "cancelled"])
async def test_a_run_that_asks_nothing_takes_no_answer(database: Database, status: str) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    if status == "running":
        await database.claimed(run)
    if status == "cancelled":
        await database.rpc(owner, "cancel_run", run_id=run)
    assert code(await database.rpc(owner, "answer_question", run_id=run, answer="Blue.")) == "conflict"
    stranger = await database.new_person()
    assert code(await database.rpc(stranger, "answer_question", run_id=run, answer="Blue.")) == "not_found"
