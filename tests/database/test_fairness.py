"""Whose run is next: fair between organisations, within each one's cap, by priority and age, under any race."""

import asyncio
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.database import Database


async def queued(database: Database, count: int, *, cap: int | None = None) -> tuple[UUID, list[UUID]]:
    """An organisation with so many queued runs, the oldest first."""
    owner, org = await database.new_organization()
    runs = [await database.new_run(owner, org) for _ in range(count)]
    if cap is not None:
        await database.owner("select pam.limit_organization(%s, %s)", org, cap)
    return org, runs


async def claimed(database: Database) -> Any:
    return await database.worker("claim_next", worker="w", lease_seconds=30)


async def orgs_of(database: Database, claims: int) -> list[UUID]:
    """Whose runs the next claims take."""
    return [UUID((await claimed(database))["run"]["org_id"]) for _ in range(claims)]


async def test_the_oldest_run_is_next_and_nothing_is_nobodys(database: Database) -> None:
    _, runs = await queued(database, 3)
    assert [UUID((await claimed(database))["run"]["id"]) for _ in runs] == runs
    assert await claimed(database) is None


async def test_many_runs_of_one_do_not_hold_up_the_one_run_of_another(database: Database) -> None:
    many, _ = await queued(database, 30)
    assert await orgs_of(database, 2) == [many, many]
    one, _ = await queued(database, 1)
    assert await orgs_of(database, 2) == [one, many]


async def test_who_has_the_fewest_under_way_is_next(database: Database) -> None:
    orgs = [(await queued(database, 6))[0] for _ in range(3)]
    taken = await orgs_of(database, 12)
    assert {org: taken.count(org) for org in orgs} == dict.fromkeys(orgs, 4)
    for place in range(0, 12, 3):
        assert set(taken[place : place + 3]) == set(orgs), "each once before any of them again"


async def test_of_its_own_runs_the_most_pressing_is_next_then_the_oldest(database: Database) -> None:
    _, runs = await queued(database, 4)
    await database.admin("update pam.runs set priority = 5 where id = any (%s)", [runs[2], runs[3]])
    await database.admin("update pam.runs set priority = -5 where id = %s", runs[0])
    order = [UUID((await claimed(database))["run"]["id"]) for _ in runs]
    assert order == [runs[2], runs[3], runs[1], runs[0]]


async def test_a_cap_holds_whoever_claims_at_the_same_moment(database: Database) -> None:
    org, runs = await queued(database, 12, cap=3)
    claims = await asyncio.gather(*(claimed(database) for _ in range(20)))
    assert sum(claim is not None for claim in claims) == 3
    by_name = await asyncio.gather(
        *(database.worker("claim_run", run_id=run, turn=1, worker="w", lease_seconds=30) for run in runs)
    )
    assert sorted({answer["refused"]["code"] for answer in by_name}) == ["full", "not_queued"]
    beside, _ = await queued(database, 1, cap=1)
    assert await orgs_of(database, 1) == [beside], "a full organisation stands in nobody's way"
    running = "select count(*) as n from pam.runs where status = 'running' and org_id = %s"
    assert (await database.admin(running, org))[0]["n"] == 3


async def test_a_claim_waits_for_the_one_before_it_to_know_whether_there_is_a_place(database: Database) -> None:
    _, runs = await queued(database, 2, cap=1)
    claim = "select pam_worker.claim_run(%s, 1, 'w', 30)"
    async with (
        await psycopg.AsyncConnection.connect(database.worker_dsn) as first,
        await psycopg.AsyncConnection.connect(database.worker_dsn) as second,
    ):
        await first.execute(claim, [runs[0]])
        later = asyncio.create_task(second.execute(claim, [runs[1]]))
        await database.until_blocked(later, by=first.info.backend_pid)
        await first.commit()
        (answer,) = await (await later).fetchone() or ({},)
    assert answer["refused"]["code"] == "full"


async def test_what_newer_code_has_worked_on_is_left_to_it(database: Database) -> None:
    _, (newer, older) = await queued(database, 2)
    await database.admin("update pam.runs set code_format = 3 where id = %s", newer)
    claim = {"worker": "w", "lease_seconds": 30}
    assert UUID((await database.worker("claim_next", **claim, code_format=2))["run"]["id"]) == older
    assert await database.worker("claim_next", **claim, code_format=2) is None
    assert UUID((await database.worker("claim_next", **claim, code_format=4))["run"]["id"]) == newer
    rows = await database.admin("select id, code_format from pam.runs")
    assert {row["id"]: row["code_format"] for row in rows} == {older: 2, newer: 4}


async def test_a_place_that_is_free_again_is_taken_again(database: Database) -> None:
    await queued(database, 2, cap=1)
    first = await claimed(database)
    assert await claimed(database) is None
    held = {"run_id": UUID(first["run"]["id"]), "fence": first["fence"]}
    await database.worker("release_run", **held)
    assert (await claimed(database))["run"]["id"] is not None


async def test_a_run_that_can_only_end_ends_and_the_next_is_taken(database: Database) -> None:
    _, runs = await queued(database, 4)
    await database.admin("update pam.runs set cancel_requested_at = now() where id = %s", runs[0])
    await database.admin("update pam.runs set deadline_at = now() where id = %s", runs[1])
    await database.admin("update pam.runs set attempt = 5 where id = %s", runs[2])
    assert UUID((await claimed(database))["run"]["id"]) == runs[3]
    rows = await database.admin("select status::text from pam.runs where id = any (%s) order by created_at", runs[:3])
    assert [row["status"] for row in rows] == ["cancelled", "failed", "failed"]


async def test_a_run_that_somebody_has_in_hand_is_passed_over(database: Database) -> None:
    _, runs = await queued(database, 2)
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as busy:
        await busy.execute("select from pam_private.run_heads where run_id = %s for update", [runs[0]])
        claim = await asyncio.wait_for(claimed(database), 5)
    assert UUID(claim["run"]["id"]) == runs[1]


async def test_nobody_is_passed_over_for_long_among_many(database: Database) -> None:
    owner, org = await database.new_organization()
    run = await database.new_run(owner, org)
    copies = (
        "insert into pam.organizations (id, name, created_by) select md5(n::text)::uuid, 'o', gen_random_uuid() from generate_series(1, 300) n;"
        " set session_replication_role = replica;"
        " insert into pam.runs (org_id, thread_id, agent_id, agent_version, user_id, max_steps, max_tokens, max_cost_usd,"
        " deadline_at, request_sha256) select md5(n::text)::uuid, gen_random_uuid(), gen_random_uuid(), 1,"
        " gen_random_uuid(), 1, 1, 1, now() + interval '1 h', '' from generate_series(1, 300) n"
    )
    await database.admin(copies)
    looked = "select %s = any (pam_private.waiting_organizations(gen_random_uuid(), 64)) as is_seen, cardinality(pam_private.waiting_organizations(gen_random_uuid(), 64)) as n"
    seen = [(await database.admin(looked, org))[0] for _ in range(60)]
    assert {row["n"] for row in seen} == {64}
    assert any(row["is_seen"] for row in seen), run
    every = "select cardinality(pam_private.waiting_organizations(%s, 1000)) as n"
    for begin in (UUID(int=0), org, UUID(int=2**128 - 1)):
        assert (await database.admin(every, begin))[0]["n"] == 301, "the whole circle, each once"


async def test_only_the_projects_owner_sets_a_cap_and_within_reason(database: Database) -> None:
    owner, org = await database.new_organization()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with database.person(owner) as connection:
            await connection.execute("select pam.limit_organization(%s, 5)", [org])
    for wrong in (0, 10_001):
        with pytest.raises(psycopg.errors.CheckViolation):
            await database.owner("select pam.limit_organization(%s, %s)", org, wrong)
    with pytest.raises(psycopg.errors.RaiseException, match="there is no organisation"):
        await database.owner("select pam.limit_organization(gen_random_uuid(), 5)")


async def test_what_has_ended_costs_a_claim_nothing(database: Database) -> None:
    org, _ = await queued(database, 1)
    async with await psycopg.AsyncConnection.connect(database.admin_dsn) as connection:
        await connection.execute("set local enable_seqscan = off")
        for index, query in (
            (
                "runs_queued",
                "select org_id from pam.runs where status = 'queued' and after_run is null and paused_at is null and org_id > %s order by 1 limit 1",
            ),
            ("runs_running", "select count(*) from pam.runs where org_id = %s and status = 'running'"),
        ):
            rows = await (await connection.execute(f"explain {query}".encode(), [org])).fetchall()
            assert any(index in row[0] for row in rows), rows
