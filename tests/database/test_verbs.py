"""What a worker may do to a run: fences, claims under race, and a log without gaps."""

import asyncio
import base64
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.database.fenced_verbs import verbs
from tests.database.test_leases import pulsed
from tests.database.test_organizations import audit, code
from tests.database.world import BROKEN, FINISHED, OLD, become, custom, refused_state, running, step
from tests.support.database import Database
from workers.kernel.ledger.runs import RunStatus
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus

REVOKED = "PM003"


async def test_every_verb_that_takes_a_fence_is_in_this_list_and_refuses_an_old_one(database: Database) -> None:
    _, _, run, fence, planned = await running(database)
    rows = await database.admin(
        "select proname from pg_proc where pronamespace = 'pam_worker'::regnamespace and 'fence' = any (proargnames)"
    )
    assert {row["proname"] for row in rows} == set(verbs(database, run, fence, planned))
    (before,) = await database.admin("select r::text, h::text from pam.runs r, pam_private.run_heads h")
    for wrong in (fence - 1, fence + 1, None):
        for name, verb in verbs(database, run, wrong, planned).items():  # type: ignore[arg-type]
            assert await refused_state(verb()) == OLD, (name, wrong)
    for name, verb in verbs(database, uuid4(), fence, planned).items():
        assert await refused_state(verb()) == OLD, name
    for name, verb in verbs(database, uuid4(), None, planned).items():  # type: ignore[arg-type]
        assert await refused_state(verb()) == OLD, name
    assert await database.admin("select r::text, h::text from pam.runs r, pam_private.run_heads h") == [before]


async def test_an_asker_who_was_demoted_or_removed_is_refused_at_the_next_verb(database: Database) -> None:
    for change in (
        "update pam.members set role = 'viewer' where user_id = %s",
        "delete from pam.members where user_id = %s",
    ):
        owner, _, run, fence, planned = await running(database)
        await database.admin(change, owner)
        # These must work for a run whose asker is gone: they only say so, or end it.
        ending = ("preview_message", "release_run", "finish_run")
        for name, verb in verbs(database, run, fence, planned).items():
            if name not in ending:
                assert await refused_state(verb()) == REVOKED, name
        assert await pulsed(database, (run, fence)) == {str(run): "access_revoked"}
        await database.worker(
            "finish_run", run_id=run, fence=fence, status="failed", reason="access_revoked", events=[BROKEN]
        )


async def test_twenty_claims_at_once_are_one(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    answers = await asyncio.gather(
        *(database.worker("claim_run", run_id=run, turn=1, worker=f"w{n}", lease_seconds=30) for n in range(20))
    )
    assert sorted(code(answer) for answer in answers) == ["", *["not_queued"] * 19]
    (row,) = await database.admin("select r.attempt, h.fence, h.last_seq from pam.runs r, pam_private.run_heads h")
    assert row == {"attempt": 1, "fence": 1, "last_seq": 1}


async def test_a_claim_is_refused_for_a_wrong_turn_an_unknown_run_and_a_run_that_ended(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)

    async def claim(run: UUID, turn: int) -> str:
        return code(await database.worker("claim_run", run_id=run, turn=turn, worker="w", lease_seconds=30))

    assert [await claim(run, 0), await claim(run, 2), await claim(uuid4(), 1)] == ["old_turn", "old_turn", "not_found"]
    await database.rpc(owner, "cancel_run", run_id=run)
    assert await claim(run, 1) == "not_queued"


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ("update pam.members set role = 'viewer'", "access_revoked"),
        ("delete from pam.members", "access_revoked"),
        ("update pam.runs set deadline_at = now() - interval '1 s'", "deadline"),
        ("update pam.runs set attempt = 5", "attempts"),
        ("update pam.runs set cancel_requested_at = now()", "cancelled"),
    ],
)
async def test_a_claim_ends_a_run_that_can_only_end(database: Database, spoilt: str, reason: str) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    await database.admin(spoilt)
    assert code(await database.worker("claim_run", run_id=run, turn=1, worker="w", lease_seconds=30)) == "ended"
    (row,) = await database.admin("select status, reason, ended_at is not null as is_ended from pam.runs")
    assert row == {"status": "cancelled" if reason == "cancelled" else "failed", "reason": reason, "is_ended": True}
    types = [e["type"] for e in await database.admin("select type from pam.events order by seq")]
    assert types == ["RUN_STARTED", "RUN_FINISHED" if reason == "cancelled" else "RUN_ERROR"]


async def test_five_lost_workers_end_the_run_and_a_step_in_between_forgives(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    for lost in range(5):
        fence = await database.claimed(run, lease_seconds=0)
        if lost == 1:
            await database.worker("record_step", run_id=run, fence=fence, step=step(), calls=[], events=[])
        assert len(await database.worker("sweep_runs")) == 1
    for _ in range(2):
        await database.claimed(run, lease_seconds=0)
        await database.worker("sweep_runs")
    (turn,) = await database.admin("select turn, attempt from pam.runs")
    assert turn == {"turn": 8, "attempt": 5}
    answer = await database.worker("claim_run", run_id=run, turn=8, worker="w", lease_seconds=30)
    assert code(answer) == "ended"


async def test_a_released_run_is_queued_again_and_counts_no_attempt(database: Database) -> None:
    _, _, run, fence, planned = await running(database)
    await database.worker("release_run", run_id=run, fence=fence)
    (row,) = await database.admin("select status, turn, attempt from pam.runs")
    assert row == {"status": "queued", "turn": 2, "attempt": 0}
    assert await refused_state(verbs(database, run, fence, planned)["append_events"]()) == OLD
    assert await database.claimed(run) == fence + 2


async def test_eight_appenders_leave_no_gap(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)

    async def append(writer: int) -> None:
        async with await psycopg.AsyncConnection.connect(database.worker_dsn, autocommit=True) as connection:
            for turn in range(20):
                batch = psycopg.types.json.Jsonb([custom(value=f"{writer}/{turn}/{n}") for n in range(1 + turn % 4)])
                await connection.execute("select pam_worker.append_events(%s, %s, %s)", [run, fence, batch])

    await asyncio.gather(*(append(n) for n in range(8)))
    rows = await database.admin("select seq, payload -> 'value' as value from pam.events order by seq")
    assert [row["seq"] for row in rows] == list(range(1, 1 + 8 * 50 + 1))
    for writer in range(8):
        mine = [row["value"] for row in rows if str(row["value"]).startswith(f"{writer}/")]
        assert mine == sorted(mine, key=lambda value: [int(part) for part in value.split("/")])


async def test_the_log_stands_against_its_owner_too(database: Database) -> None:
    await running(database)
    for statement in ("update pam.events set payload = '{}'", "truncate pam.events"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            await database.owner(statement)


async def test_a_step_follows_its_predecessor_and_adds_up(database: Database) -> None:
    _, _, run, fence, _ = await running(database)
    held = {"run_id": run, "fence": fence, "calls": [], "events": []}
    for position in (0, 1, 3):
        assert await refused_state(database.worker("record_step", **held, step=step(position))) == OLD
    after = await database.worker("record_step", **held, step=step(2))
    assert (after["steps"], after["input_tokens"], after["output_tokens"], after["attempt"]) == (2, 200, 20, 0)
    (sums,) = await database.admin("select sum(input_tokens) as i, sum(cost_usd) as c, count(*) as n from pam.steps")
    assert (sums["i"], float(sums["c"]), sums["n"]) == (200, after["cost_usd"], 2)


async def test_a_call_goes_from_plan_to_intent_to_one_outcome(database: Database) -> None:
    _, org, run, fence, planned = await running(database)
    held = {"run_id": run, "fence": fence, "id": planned}
    assert (await database.worker("begin_call", **held))["call"]["status"] == "started"
    done = {"result": "x", "events": [custom()]}
    for status in ("planned", "started", "waiting", "answered"):
        assert await refused_state(database.worker("finish_call", **held, status=status, **done)) == "22023"
    assert (await database.worker("finish_call", **held, status="refused", **done))["status"] == "refused"
    assert await refused_state(database.worker("finish_call", **held, status="succeeded", **done)) == OLD
    assert await refused_state(database.worker("begin_call", **held)) == OLD
    assert (
        await refused_state(
            database.worker("interrupt_run", run_id=run, fence=fence, asks=[{"id": str(planned)}], events=[])
        )
        == OLD
    )
    assert await audit(database, org, "tool.file_write") == [True, False]


async def test_a_call_of_another_run_is_out_of_reach(database: Database) -> None:
    _, _, _, _, foreign = await running(database)
    _, _, run, fence, _ = await running(database)
    assert await refused_state(database.worker("begin_call", run_id=run, fence=fence, id=foreign)) == OLD


async def test_a_run_ends_with_its_one_terminal_event_or_not_at_all(database: Database) -> None:
    _, _, run, fence, _ = await running(database)
    held = {"run_id": run, "fence": fence, "reason": None}
    wrong: list[tuple[str, list[Any]]] = [
        ("succeeded", []), ("succeeded", [BROKEN]), ("failed", [FINISHED]), ("succeeded", [FINISHED, custom()]),
        ("queued", [FINISHED]), ("interrupted", [FINISHED]), ("running", [FINISHED]), ("cancelled", [BROKEN]),
    ]  # fmt: skip
    for status, events in wrong:
        state = await refused_state(database.worker("finish_run", **held, status=status, events=events))
        assert state == "22023", (status, events)
    assert (await database.admin("select status from pam.runs"))[0]["status"] == "running"


async def test_an_ended_run_settles_its_calls_and_takes_no_verb(database: Database) -> None:
    _, org, run, fence, planned = await running(database)
    await database.worker("finish_run", run_id=run, fence=fence, status="succeeded", reason=None, events=[FINISHED])
    assert (await database.admin("select status from pam.tool_calls"))[0]["status"] == "refused"
    for wrong in (fence, fence + 1):
        for name, verb in verbs(database, run, wrong, planned).items():
            if (name, wrong) != ("preview_message", fence + 1):  # nobody is ever given that fence
                assert await refused_state(verb()) == OLD, name
    assert await audit(database, org, "run.succeeded") == [True]


async def test_the_conversation_holds_this_runs_calls_and_of_earlier_runs_what_was_said(database: Database) -> None:
    owner, org, run, fence, planned = await running(database)
    seen = await database.worker("read_conversation", run_id=run, fence=fence)
    assert [m["role"] for m in seen["messages"]] == ["user", "assistant"]
    assert [c["id"] for c in seen["calls"]] == [str(planned)]
    await database.worker("record_step", run_id=run, fence=fence, step=step(2, text="Done."), calls=[], events=[])
    await database.worker("finish_run", run_id=run, fence=fence, status="succeeded", reason=None, events=[FINISHED])
    thread = (await database.admin("select thread_id from pam.runs"))[0]["thread_id"]
    second = await database.new_run(owner, org, "And now?", thread_id=thread)
    seen = await database.worker("read_conversation", run_id=second, fence=await database.claimed(second))
    assert [m["content"] for m in seen["messages"]] == ["Look around.", "Done.", "And now?"]
    assert seen["calls"] == []


async def test_a_call_writes_a_file_once_however_often_it_is_repeated(database: Database) -> None:
    _, _, run, fence, planned = await running(database)
    held = {"run_id": run, "fence": fence}
    content = base64.b64encode(b"one").decode()
    assert await database.worker("find_write", **held, call=planned) is None
    write = {"call": planned, "path": "a.txt", "content": content, "expected_version": 0}
    with pytest.raises(psycopg.Error, match="has no recorded intent"):
        await database.worker("write_file", **held, **write)
    await database.worker("begin_call", **held, id=planned)
    answers = await asyncio.gather(*(database.worker("write_file", **held, **write) for _ in range(5)))
    assert all(answer == answers[0] for answer in answers)
    assert await database.worker("find_write", **held, call=planned) == {"path": "a.txt", "version": 1}
    assert len(await database.admin("select 1 from pam.file_versions")) == 1
    other = {**write, "call": None}
    for version in (0, 2, None):
        assert code(await database.worker("write_file", **held, **{**other, "expected_version": version})) == "conflict"
    assert (await database.worker("write_file", **held, **{**other, "expected_version": 1}))["version"] == 2


@pytest.mark.parametrize(
    ("sql_type", "enum"), [("run_status", RunStatus), ("call_status", CallStatus), ("call_effect", CallEffect)]
)
async def test_the_database_and_python_know_the_same_words(world: Any, sql_type: str, enum: Any) -> None:
    rows = await world.database.admin(f"select unnest(enum_range(null::pam.{sql_type}))::text as word")
    assert [row["word"] for row in rows] == [member.value for member in enum]


async def test_a_browser_reaches_no_verb_of_the_workers(world: Any) -> None:
    rows = await world.database.admin("select proname from pg_proc where pronamespace = 'pam_worker'::regnamespace")
    async with await psycopg.AsyncConnection.connect(world.database.owner_dsn) as connection:
        await become(connection, "authenticated", {"sub": world.a.people["owner"], "role": "authenticated"})
        for row in rows:
            async with connection.transaction(force_rollback=True):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await connection.execute(f"select pam_worker.{row['proname']}()".encode())


async def test_a_postponed_run_comes_back_when_it_is_due_and_a_cancelled_one_does_not(database: Database) -> None:
    owner, org = await database.new_organization()
    run, stopped = await database.new_run(owner, org), await database.new_run(owner, org)
    for one in (run, stopped):
        fence = await database.claimed(one)
        if one == stopped:
            await database.rpc(owner, "cancel_run", run_id=one)
        await database.worker("postpone_run", run_id=one, fence=fence, seconds=30, events=[custom()])
    rows = await database.admin("select status::text, attempt, pauses from pam.runs order by created_at")
    assert [(row["status"], row["pauses"]) for row in rows] == [("queued", 1), ("cancelled", 0)]
    assert rows[0]["attempt"] == 0
    claim = {"worker": "w", "lease_seconds": 30}
    assert await database.worker("claim_next", **claim) is None
    assert await database.worker("sweep_runs") == []
    await database.admin("update pam.runs set due_at = now() - interval '1 s'")
    await database.admin("update pam_private.run_heads set rung_at = rung_at - interval '31 s'")
    assert await database.worker("sweep_runs") == [{"run_id": str(run), "turn": 2}]
    assert (await database.worker("claim_next", **claim))["run"]["id"] == str(run)
    await database.admin("update pam.runs set pauses = 20")
    fence = (await database.admin("select fence from pam_private.run_heads where run_id = %s", run))[0]["fence"]
    late = await database.worker("postpone_run", run_id=run, fence=fence, seconds=30, events=[])
    assert code(late) == "limit"
