"""Writes that attack by their moment: a rehearsal that would stay, a call that is not theirs, rows that changed meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from infra.local.facts import StackFacts
from tests.attacks.sql_world import WriteWorld, raw, refusal
from tests.support.bench import Bench
from tests.support.database import Template
from workers.kernel.errors import AccessRevoked, FenceLost
from workers.kernel.ledger import tool_calls
from workers.kernel.ledger.tool_calls import CallStatus
from workers.tools import bound_writes

SET = "update public.items set title = $1 where id = 11"


@pytest.fixture
async def world(bare_template: Template, stack: StackFacts) -> AsyncIterator[WriteWorld]:
    async with bare_template.clone() as database, WriteWorld.open(database, stack, statement_seconds=4) as opened:
        yield opened


async def title(world: WriteWorld, item: int = 11) -> str:
    return str((await world.bench.database.admin("select title from public.items where id = %s", item))[0]["title"])


# What a connection of the agent's login tries after it bound itself; <run>, <fence>, <call> are its own.
STAYING = {
    "a rehearsal that commits": ["select pam_private.bind_rehearsal(<run>, <fence>)", "<write>", "commit"],
    "a reading that commits": ["select pam_private.bind(<run>, <fence>)", "<write>", "commit"],
    "a write that commits unsettled": ["select pam_private.bind_write(<run>, <fence>, <call>)", "<write>", "commit"],
    "constraints at once, then commit": [
        "select pam_private.bind_rehearsal(<run>, <fence>)", "<write>", "set constraints all immediate", "commit"],
    "the constraint at once by name": [
        "select pam_private.bind_rehearsal(<run>, <fence>)",
        "<write>", 'set constraints pam_private."What is bound is undone" immediate', "commit"],
    "constraints deferred again": [
        "select pam_private.bind_rehearsal(<run>, <fence>)", "set constraints all deferred", "<write>", "commit"],
    "triggers off as a replica": ["set session_replication_role = replica", "<write>", "commit"],
    "the binding in a savepoint let go": [
        "savepoint a", "select pam_private.bind_rehearsal(<run>, <fence>)", "release savepoint a", "<write>", "commit"],
    "the binding undone by a savepoint": [
        "savepoint a", "select pam_private.bind_rehearsal(<run>, <fence>)", "rollback to savepoint a", "<write>", "commit"],
    "commit and chain": ["select pam_private.bind_rehearsal(<run>, <fence>)", "<write>", "commit and chain"],
    "put aside for later": ["select pam_private.bind_rehearsal(<run>, <fence>)", "<write>", "prepare transaction 'later'"],
    "a finished call settled": [
        "select pam_private.bind_rehearsal(<run>, <fence>)",
        "<write>",
        "reset role",
        "select pam_private.settle_write(<done>, 1)",
        "commit",
    ],
    "settled without a call": [
        "select pam_private.bind_rehearsal(<run>, <fence>)", "<write>", "reset role", "select pam_private.settle_write(<call>, 1)", "commit"],
    "another call settled": [
        "select pam_private.bind_write(<run>, <fence>, <call>)",
        "<write>", "reset role", "select pam_private.settle_write(gen_random_uuid(), 1)", "commit"],
    "settled first, written after": [
        "select pam_private.bind_write(<run>, <fence>, <call>)", "select pam_private.settle_write(<call>, 0)", "<write>", "commit"],
    "settled as the agent's role": [
        "select pam_private.bind_write(<run>, <fence>, <call>)", "<write>", "select pam_private.settle_write(<call>, 1)", "commit"],
    "a binding in another transaction": ["select pam_private.bind_rehearsal(<run>, <fence>)", "rollback", "<write>", "commit"],
    "no binding at all": ["<write>", "commit"],
}  # fmt: skip


async def test_nothing_stays_of_what_was_not_settled(world: WriteWorld) -> None:
    held, call, done = world.bench.hold, await world.started(), await world.started()
    mine = raw("update", "update public.items set title = 'mine' where id = 11")
    await world.bench.services.sql.writes.write(held, done, mine, [], agreed=None)
    for name, steps in STAYING.items():
        async with await psycopg.AsyncConnection.connect(world.bench.database.agent_dsn, autocommit=True) as connection:
            stopped = ""
            try:
                await connection.execute(b"begin")
                for step in steps:
                    text = step.replace("<run>", f"'{held.run_id}'").replace("<fence>", str(held.fence))
                    text = text.replace("<call>", f"'{call}'").replace("<done>", f"'{done}'")
                    write = "set role pam_agent; update public.items set title = 'stayed' where id = 11"
                    await connection.execute(text.replace("<write>", write).encode())
            except psycopg.Error as error:
                stopped = str(error)
        assert await title(world) == "mine", name
        assert stopped or name in ("settled first, written after", "no binding at all", "a binding in another transaction",
                                   "the binding undone by a savepoint"), name  # fmt: skip
        assert await world.bench.database.admin("select 1 from pam_private.agent_bindings") == [], name


async def test_a_write_needs_a_started_writing_call_of_this_run(world: WriteWorld) -> None:
    bench, sql = world.bench, world.bench.services.sql.writes
    planned = (await bench.planned("database_query", {"sql": "update t set a = 1 where b", "write": True})).id
    reading = await bench.planned("database_query", {"sql": "select 1"})
    await tool_calls.begin(bench.hold, reading)
    other_tool = await bench.planned("redis_set", {"key": "a", "value": "b"})
    await tool_calls.begin(bench.hold, other_tool)
    theirs = await world.started(world.victim)
    beside = await bench.beside()
    of_another_run = await world.started(beside)
    finished = await bench.planned(
        "database_query", {"sql": "update items set title = 'mine' where id = 11", "write": True}
    )
    assert (await bench.carry_out(finished)).status is CallStatus.SUCCEEDED
    for name, call in {
        "planned": planned, "a read": reading.id, "another tool's": other_tool.id, "another person's": theirs,
        "another run's": of_another_run, "finished": finished.id, "nobody's": uuid4(),
    }.items():  # fmt: skip
        with pytest.raises(FenceLost, match="no started, writing call"):
            await sql.write(bench.hold, call, raw("update", SET), ["x"], agreed=None)
        assert await title(world) == "mine", name
    with pytest.raises(FenceLost):
        await sql.write(
            replace(bench.hold, fence=bench.hold.fence + 1),
            await world.started(),
            raw("update", SET),
            ["x"],
            agreed=None,
        )


async def test_a_call_writes_once_however_often_it_is_repeated(world: WriteWorld) -> None:
    bench, call = world.bench, await world.started()
    statement = raw("update", "update public.items set amount = amount + 1 where id = 11")
    again = [bench.services.sql.writes.write(bench.hold, call, statement, [], agreed=None) for _ in range(5)]
    answers = await asyncio.gather(*again, return_exceptions=True)
    done = [answer for answer in answers if not isinstance(answer, Exception)]
    assert len([answer for answer in done if not answer.is_repeat]) == 1, answers
    repeat = await bench.services.sql.writes.write(bench.hold, call, statement, [], agreed=None)
    assert (repeat.is_repeat, repeat.tables) == (True, {"public.items": 1})
    assert await bench.database.admin("select amount from public.items where id = 11") == [{"amount": 1}]


async def test_a_worker_lost_after_the_commit_writes_nothing_twice(world: WriteWorld) -> None:
    bench = world.bench
    call = await bench.effect_without_outcome(
        "database_query", sql="update items set amount = amount + 1 where id = 11", write=True
    )
    done = await bench.carry_out(call)
    assert (done.status, "had written before" in (done.result or "")) == (CallStatus.SUCCEEDED, True)
    assert await bench.database.admin("select amount from public.items where id = 11") == [{"amount": 1}]


# What happens between showing and running: name → (statement, what another does meanwhile, what the model reads).
MEANWHILE: dict[str, tuple[str, str, str]] = {
    "a row more": (
        "update items set title = 'done' where amount = 0 and id > 16",
        "insert into public.items (id, team_id, owner_id, title) values (50, 2, '<me>', 'mine')", "The rows changed"),
    "a row less": ("delete from items where id > 16", "delete from public.items where id = 18", "The rows changed"),
    "another row in its place": (
        "delete from items where id > 17",
        "update public.items set id = 60 where id = 18", "The rows changed"),
    "another content": ("update items set title = 'done' where id = 11", "update public.items set amount = 7 where id = 11", "The rows changed"),
    "other rows to copy": (
        "insert into teams (id, owner_id, name) select 90, owner_id, title from items where id = 11",
        "update public.items set title = 'else' where id = 11", "The rows changed"),
    "another value to look up": (
        "update items set amount = (select count(*)::int from teams t where t.name = 'counted'), title = 'done' where id = 11",
        "insert into public.teams (id, owner_id, name) values (70, '<me>', 'counted')", "The rows changed"),
    "another row to join": (
        "update items i set title = t.name from teams t where t.id = i.team_id and i.id = 11",
        "update public.teams set name = 'done' where id = 2", "The rows changed"),
    "another value to insert": (
        "insert into teams (id, owner_id, name) values (90, '<me>', (select title from items where id = 12))",
        "update public.items set title = 'done ' where id = 12", "The rows changed"),
    "another value behind a conflict": (
        "insert into teams (id, owner_id, name) values (2, '<me>', 'x') on conflict (id) do update set name = (select title from items where id = 12)",
        "update public.items set title = 'done ' where id = 12", "The rows changed"),
    "a row that an upsert meets": (
        "insert into teams (id, owner_id, name) values (3, '<me>', 'x') on conflict (id) do update set name = 'y'",
        "insert into public.teams (id, owner_id, name) values (3, '<me>', 'mine')", "The rows changed"),
    "a policy more": (
        "update items set title = 'done' where id = 11",
        "create policy more on public.items for update to authenticated using (true)", "changed since it was opened"),
    "the table closed": ("update items set title = 'done' where id = 11", "select pam.close_to_agent('public.items')", "permission denied"),
    "row-level security off": (
        "update items set title = 'done' where id = 11",
        "alter table public.items disable row level security", "row-level security was switched off"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANWHILE)
async def test_what_changed_since_it_was_shown_is_not_written(world: WriteWorld, name: str) -> None:
    statement, meanwhile, told = MEANWHILE[name]
    bench = await asked_first(world)
    call, ask = await bench.asked("database_query", sql=world.said(statement), write=True)
    decided = await bench.decided(call, ask, verdict="approve")
    await bench.database.admin(world.said(meanwhile))
    before = await world.footprint()
    done = await bench.carry_out(decided)
    assert (done.status, told in (done.result or "")) == (CallStatus.FAILED, True), done
    assert await world.footprint() == before
    assert await bench.database.admin("select 1 from public.items where title = 'done'") == []


async def asked_first(world: WriteWorld) -> Bench:
    """The attacker's run, with PAM's own default: a person is asked."""
    bench = world.bench
    await bench.database.rpc(
        bench.user_id, "reset_policy", org_id=bench.org_id, role="owner", tool="database_query", effect="write"
    )
    return bench


async def test_an_edited_statement_is_shown_again_before_it_runs(world: WriteWorld) -> None:
    bench = await asked_first(world)
    call, ask = await bench.asked("database_query", sql="update items set title = 'x' where id = 11", write=True)
    edited = {"sql": "update items set title = 'x' where id = 12", "write": True}
    decided = await bench.decided(call, ask, verdict="approve", arguments=edited)
    done = await bench.carry_out(decided)
    assert (done.status, "edited after its rows were shown" in (done.result or "")) == (CallStatus.FAILED, True)
    assert await title(world, 12) == "mine"


async def test_a_person_who_lost_access_since_it_was_shown_writes_nothing(world: WriteWorld) -> None:
    call = await world.started()
    await world.bench.database.admin("delete from pam.members where user_id = %s", world.bench.user_id)
    writes = world.bench.services.sql.writes
    with pytest.raises(AccessRevoked):
        await writes.write(world.bench.hold, call, raw("update", SET), ["x"], agreed=None)
    with pytest.raises(AccessRevoked):
        await writes.rehearse(world.bench.hold, raw("update", SET), ["x"])
    assert await title(world) == "mine"


async def test_whoever_takes_the_run_over_waits_for_the_write_and_the_heartbeat_does_not(world: WriteWorld) -> None:
    held, call = world.bench.hold, await world.started()
    database = world.bench.database
    async with await psycopg.AsyncConnection.connect(database.agent_dsn) as writing:
        await writing.execute("select pam_private.bind_write(%s, %s, %s)", [held.run_id, held.fence, call])
        pulse = {"runs": (held.run_id,), "fences": (held.fence,), "lease_seconds": 9000}
        assert await database.worker("pulse_runs", **pulse) == []
        (head,) = await database.admin(
            "select lease_until > now() + interval '1 h' as is_kept from pam_private.run_heads where run_id = %s",
            held.run_id,
        )
        assert head["is_kept"]
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await database.admin(
                f"select 1 from pam_private.run_heads where run_id = '{held.run_id}' for update nowait"
            )
        await writing.rollback()


async def test_a_row_that_somebody_holds_is_not_waited_for_long(world: WriteWorld) -> None:
    async with await psycopg.AsyncConnection.connect(world.bench.database.admin_dsn) as other:
        await other.execute("select 1 from public.items where id = 11 for update")
        assert "lock" in await refusal(world.unguarded("update", "update public.items set title = 'x' where id = 11"))


async def test_a_session_s_setting_does_not_reach_the_next_person(world: WriteWorld) -> None:
    forged = "update public.items set title = 'mine' where set_config('request.jwt.claims', '<claims>', false) <> '' and id = 11"
    assert await refusal(world.unguarded("update", forged)) == ""
    for person in (world.bench, world.victim):
        rows = await person.services.sql.select(
            person.hold, "select current_setting('request.jwt.claims', true) as c, current_user::text as u", []
        )
        assert rows.rows in (('{"c":null,"u":"pam_agent"}',), ('{"c":"","u":"pam_agent"}',))


async def test_row_level_security_that_goes_between_binding_and_statement_stops_the_write(
    world: WriteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binding's look is older than the statement's lock: the last look is not."""
    asked = bound_writes.refuse_above

    async def after_it_is_gone(*arguments: Any) -> dict[str, Any]:
        await world.bench.database.owner("alter table public.items disable row level security")
        return await asked(*arguments)

    monkeypatch.setattr(bound_writes, "refuse_above", after_it_is_gone)
    why = await refusal(world.unguarded("update", "update public.items set title = 'x' where id = 1"))
    assert "lost its row-level security" in why
    assert await title(world, 1) == "CANARY"
