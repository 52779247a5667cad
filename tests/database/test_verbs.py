"""What a worker may do to a run: fences, claims under race, the sweep, and a log without gaps."""

import asyncio
import base64
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.database.fenced_verbs import verbs
from tests.database.test_doors import asked
from tests.database.test_organizations import audit, code
from tests.database.world import BROKEN, FINISHED, become, call, custom, refused_state, step
from tests.support.database import Database
from workers.kernel.ledger.runs import RunStatus
from workers.kernel.ledger.tool_calls import CallEffect, CallStatus

OLD, REVOKED = "PM002", "PM003"


async def running(database: Database) -> tuple[UUID, UUID, UUID, int, UUID]:
    """(owner, organisation, run, fence, planned call) of a run after its first step."""
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    planned = call()
    await database.worker("record_step", run_id=run, fence=fence, step=step(), calls=[planned], events=[])
    return owner, org, run, fence, UUID(planned["id"])


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
        # These three must work for a run whose asker is gone: they only say so, or end it.
        ending = ("preview_message", "pulse_run", "release_run", "finish_run")
        for name, verb in verbs(database, run, fence, planned).items():
            if name not in ending:
                assert await refused_state(verb()) == REVOKED, name
        assert (await database.worker("pulse_run", run_id=run, fence=fence, lease_seconds=30))["access_revoked"] is True
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


async def test_an_expired_lease_is_swept_and_the_old_worker_finds_itself_fenced_out(database: Database) -> None:
    _, _, run, fence, planned = await running(database)
    await database.worker("begin_call", run_id=run, fence=fence, id=planned)
    await database.admin("update pam_private.run_heads set lease_until = clock_timestamp() - interval '1 s'")
    assert await database.worker("sweep_runs") == [{"run_id": str(run), "turn": 2}]
    for name, verb in verbs(database, run, fence, planned).items():
        assert await refused_state(verb()) == OLD, name
    assert await database.worker("sweep_runs") == []
    newer = await database.claimed(run)
    types = [e["type"] for e in await database.admin("select type from pam.events order by seq")]
    assert (newer, types) == (fence + 2, ["RUN_STARTED", "CUSTOM"])


async def test_a_pulse_keeps_the_lease_only_when_a_third_is_used_up(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run, lease_seconds=30)
    lease = "select lease_until from pam_private.run_heads"
    (first,) = await database.admin(lease)
    await database.worker("pulse_run", run_id=run, fence=fence, lease_seconds=30)
    assert await database.admin(lease) == [first]
    await database.worker("pulse_run", run_id=run, fence=fence, lease_seconds=90)
    (later,) = await database.admin(lease)
    assert 55 < (later["lease_until"] - first["lease_until"]).total_seconds() < 65


async def test_the_sweep_ends_what_can_only_end_and_rings_for_what_was_not_heard(database: Database) -> None:
    owner, org = await database.new_organization()
    runs = {
        name: await database.new_run(owner, org) for name in ("fresh", "unheard", "late", "stopped", "silent", "live")
    }
    await database.admin(
        "update pam_private.run_heads set rung_at = now() - interval '11 s' where run_id = %s", runs["unheard"]
    )
    await database.admin("update pam.runs set deadline_at = now() - interval '1 s' where id = %s", runs["late"])
    await database.claimed(runs["stopped"], lease_seconds=0)
    await database.admin("update pam.runs set cancel_requested_at = now() where id = %s", runs["stopped"])
    await asked(database, runs["silent"])
    await database.admin("update pam.runs set interrupted_at = now() - interval '8 days' where id = %s", runs["silent"])
    await database.claimed(runs["live"])
    due = await database.worker("sweep_runs")
    assert due == [{"run_id": str(runs["unheard"]), "turn": 1}]
    ends = {
        row["id"]: (row["status"], row["reason"])
        for row in await database.admin("select id, status, reason from pam.runs")
    }
    assert {name: ends[run] for name, run in runs.items()} == {
        "fresh": ("queued", None), "unheard": ("queued", None), "late": ("failed", "deadline"),
        "stopped": ("cancelled", "cancelled"), "silent": ("failed", "unanswered"), "live": ("running", None),
    }  # fmt: skip
    assert await database.worker("sweep_runs") == []


async def test_the_sweepers_login_sweeps_and_two_sweeps_at_once_are_one(database: Database) -> None:
    owner, org = await database.new_organization()
    for _ in range(20):
        await database.claimed(await database.new_run(owner, org), lease_seconds=0)

    async def sweep() -> list[Any]:
        async with await psycopg.AsyncConnection.connect(database.sweeper_dsn, autocommit=True) as connection:
            row: Any = await (await connection.execute("select pam_worker.sweep_runs()")).fetchone()
            return list(row[0])

    found = [due["run_id"] for answer in await asyncio.gather(*(sweep() for _ in range(6))) for due in answer]
    assert len(found) == len(set(found)) == 20


async def test_a_run_that_ends_while_the_sweep_goes_on_is_not_queued_again(database: Database) -> None:
    """The sweep's list is as old as its first row; what it does to a run must follow the run as it is."""
    owner, org = await database.new_organization()
    runs = [await database.new_run(owner, org) for _ in range(14)]
    fences = {run: await database.claimed(run, lease_seconds=0) for run in runs}
    async with await psycopg.AsyncConnection.connect(database.owner_dsn) as blocking:
        await blocking.execute("select 1 from pam.runs where id = %s for update", [runs[0]])
        sweeping = asyncio.create_task(database.worker("sweep_runs"))
        async with asyncio.timeout(10):
            while not await database.admin(
                "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.01)
        await database.worker(
            "finish_run", run_id=runs[-1], fence=fences[runs[-1]], status="succeeded", reason=None, events=[FINISHED]
        )
        await blocking.rollback()
    assert len(await sweeping) == 13
    (row,) = await database.admin("select status, turn from pam.runs where id = %s", runs[-1])
    assert row == {"status": "succeeded", "turn": 1}


async def test_the_end_by_the_sweep_leaves_no_call_open(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    fence = await database.claimed(run)
    begun, planned = call(), call()
    await database.worker("record_step", run_id=run, fence=fence, step=step(), calls=[begun, planned], events=[])
    await database.worker("begin_call", run_id=run, fence=fence, id=begun["id"])
    await database.admin("update pam_private.run_heads set lease_until = now() - interval '1 s'")
    await database.admin("update pam.runs set deadline_at = now() - interval '1 s'")
    await database.worker("sweep_runs")
    rows = await database.admin("select status from pam.tool_calls order by place")
    assert [row["status"] for row in rows] == ["unknown", "refused"]


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
