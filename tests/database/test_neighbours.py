"""Verbs of one run never reach what belongs to another, not even under the same name."""

import base64
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.database.test_doors import asked
from tests.database.world import refused_state, running, step
from tests.support.database import Database


async def test_a_search_reads_the_file_of_its_own_organisation_where_both_have_the_path(database: Database) -> None:
    texts = {}
    for word in ("mine", "theirs"):
        owner, org, run, fence, _ = await running(database)
        await database.rpc(owner, "write_file", org_id=org, path="same.txt", content=f"it is {word}\n")
        texts[word] = (run, fence)
    for word, (run, fence) in texts.items():
        held = {"run_id": run, "fence": fence}
        found = await database.worker("search_files", **held, pattern="it is", paths=("same.txt",), max_lines=9)
        assert [line["text"] for line in found] == [f"it is {word}"]


async def test_a_call_is_found_and_finished_by_its_own_run_alone(database: Database) -> None:
    owner, org, first, fence, call = await running(database)
    beside = await database.new_run(owner, org)
    next_to_it = {"run_id": beside, "fence": await database.claimed(beside)}
    for verb, more in (
        ("begin_call", {}),
        ("finish_call", {"status": "failed", "result": "x", "events": []}),
        ("interrupt_run", None),
    ):
        given = {"asks": [{"id": str(call)}], "events": []} if more is None else {"id": call, **more}
        with pytest.raises(psycopg.Error) as refused:
            await database.worker(verb, **next_to_it, **given)
        assert refused.value.sqlstate == "PM002", verb
    (row,) = await database.admin("select status from pam.tool_calls where id = %s", call)
    assert row["status"] == "planned"

    content = base64.b64encode(b"x").decode()
    held = {"run_id": first, "fence": fence}
    await database.worker("begin_call", **held, id=call)
    await database.worker("write_file", **held, call=call, path="a", content=content, expected_version=0)
    assert (await database.worker("find_write", **held, call=call))["version"] == 1
    _, _, foreign, foreign_fence, _ = await running(database)
    assert await database.worker("find_write", run_id=foreign, fence=foreign_fence, call=call) is None


async def test_a_question_just_asked_is_left_alone_by_the_sweep(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    await asked(database, run)
    await database.worker("sweep_runs")
    (row,) = await database.admin("select status from pam.runs where id = %s", run)
    assert row["status"] == "interrupted"


async def test_a_thread_holds_one_unfinished_run_whoever_inserts_the_second(database: Database) -> None:
    owner, org = await database.new_organization()
    run: UUID = await database.new_run(owner, org)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await database.admin(
            "insert into pam.runs (org_id, id, thread_id, agent_id, agent_version, user_id, max_steps, max_tokens,"
            " max_cost_usd, deadline_at, request_sha256) select org_id, %s, thread_id, agent_id, agent_version, user_id,"
            " max_steps, max_tokens, max_cost_usd, deadline_at, '' from pam.runs where id = %s",
            uuid4(),
            run,
        )


async def test_a_cancel_in_the_instant_of_a_question_ends_the_run(database: Database) -> None:
    owner, _, run, fence, call = await running(database)
    answer = await database.rpc(owner, "cancel_run", run_id=run)
    assert answer["status"] == "running"
    await database.worker("interrupt_run", run_id=run, fence=fence, asks=[{"id": str(call)}], events=[])
    (row,) = await database.admin("select status from pam.runs where id = %s", run)
    assert row["status"] == "cancelled"
    (last,) = await database.admin("select payload from pam.events where run_id = %s order by seq desc limit 1", run)
    assert last["payload"]["outcome"] == {"type": "cancelled"}


async def test_what_a_team_built_on_pam_is_named_before_an_uninstall(database: Database) -> None:
    from infra import installation

    await database.owner("create view public.my_runs as select id from pam.runs")
    with pytest.raises(installation.InstallationRefused, match="my_runs"):
        await installation.uninstall(database.owner_dsn)
    assert await database.owner("select to_regclass('public.my_runs')::text as view") == [{"view": "my_runs"}]
    await database.owner("drop view public.my_runs")
    await installation.uninstall(database.owner_dsn)
    assert await database.owner("select to_regnamespace('pam') as pam") == [{"pam": None}]


async def test_the_fence_rises_whenever_a_run_leaves_its_worker(database: Database) -> None:
    async def fence_of(run: UUID) -> int:
        (row,) = await database.admin("select fence from pam_private.run_heads where run_id = %s", run)
        return int(row["fence"])

    _, _, asking, fence, call = await running(database)
    await database.worker("interrupt_run", run_id=asking, fence=fence, asks=[{"id": str(call)}], events=[])
    assert await fence_of(asking) == fence + 1

    owner, _, ended, fence, _ = await running(database)
    await database.admin("update pam_private.run_heads set lease_until = now() - interval '1 s'")
    await database.rpc(owner, "cancel_run", run_id=ended)
    assert await fence_of(ended) == fence + 1


async def test_how_the_last_step_ended_outlives_its_worker(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    held = {"run_id": run, "fence": await database.claimed(run)}
    assert (await database.worker("read_conversation", **held))["finish"] is None
    await database.worker("record_step", **held, step={**step(), "finish": "length"}, calls=[], events=[])
    assert (await database.worker("read_conversation", **held))["finish"] == "length"


async def test_a_key_and_a_call_stand_for_one_thing_whoever_inserts_the_second(database: Database) -> None:
    owner, org, run, fence, call = await running(database)
    keyed = await database.new_run(owner, org, idempotency_key="once")
    with pytest.raises(psycopg.errors.UniqueViolation, match="runs_idempotency"):
        await database.admin(
            "insert into pam.runs (org_id, id, thread_id, agent_id, agent_version, user_id, status, max_steps,"
            " max_tokens, max_cost_usd, deadline_at, request_sha256, idempotency_key) select org_id, %s, thread_id,"
            " agent_id, agent_version, user_id, 'failed', max_steps, max_tokens, max_cost_usd, deadline_at, '',"
            " idempotency_key from pam.runs where id = %s",
            uuid4(),
            keyed,
        )
    content = base64.b64encode(b"x").decode()
    held = {"run_id": run, "fence": fence}
    await database.worker("begin_call", **held, id=call)
    await database.worker("write_file", **held, call=call, path="a", content=content, expected_version=0)
    with pytest.raises(psycopg.errors.UniqueViolation, match="file_versions_of_call"):
        await database.admin(
            "insert into pam.file_versions (org_id, file_id, version, content, sha256, size_bytes, call_id, created_by)"
            " select org_id, file_id, 2, content, sha256, size_bytes, call_id, created_by from pam.file_versions where call_id = %s",
            call,
        )


async def test_one_sweep_runs_at_a_time(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    await database.admin("update pam_private.run_heads set rung_at = now() - interval '1 minute'")
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as sweeping:
        await sweeping.execute("select pg_advisory_xact_lock(hashtextextended('pam sweep', 0))")
        assert await database.worker("sweep_runs") == []
    assert await database.worker("sweep_runs") == [{"run_id": str(run), "turn": 1}]


async def test_a_run_that_is_not_running_binds_nobody_even_under_its_fence(database: Database) -> None:
    _, _, run, fence, _ = await running(database)
    async with await psycopg.AsyncConnection.connect(database.agent_dsn) as agent:
        await agent.execute("select pam_private.bind(%s, %s)", [run, fence])
        await agent.rollback()
        await database.admin("update pam.runs set status = 'failed' where id = %s", run)
        with pytest.raises(psycopg.Error) as refused:
            await agent.execute("select pam_private.bind(%s, %s)", [run, fence])
    assert refused.value.sqlstate == "PM002"


async def test_a_binding_that_was_left_behind_binds_no_other_transaction(database: Database) -> None:
    stranger = await database.new_person()
    left_behind = "insert into pam_private.agent_bindings (user_id, claims) values (%s, '{}')"
    assert await refused_state(database.admin(left_behind, stranger)) == "PM006"  # it cannot be, by a commit
    await database.admin('alter table pam_private.agent_bindings disable trigger "What is bound is undone"')
    await database.admin(left_behind, stranger)
    (row,) = await database.admin("select pam_private.bound_uid() as uid, pam_private.bound_claims() as claims")
    assert row == {"uid": None, "claims": None}
