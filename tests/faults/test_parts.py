"""Parts other than workers end, freeze and forget in the middle of a run; the run comes to its end, and nothing happens twice.

Two boundaries of the run for each part, by a seed; `PAM_EVERY_BOUNDARY=1` takes all of them, in twenty minutes.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from infra.chaos.outside import UNKEYED
from infra.chaos.parts import Parts, RedisAilment
from infra.chaos.team import OUTSIDE_STEPS, STEPS, Team
from infra.chaos.workers import WorkerProcess
from tests.faults.conftest import Lab

SEED = 20261123
SCRIPT_BOUNDARIES = range(3, 40)
AT_ONCE = 3  # a run that stands still holds one of its worker's connections
EVERY = bool(os.environ.get("PAM_EVERY_BOUNDARY"))
SLEEPS = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    call: [{code_execution: {language: shell, code: "sleep 4"}}]
  - expect: {role: tool}
    say: "Slept."
"""
ANSWERS = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "Here."}]
"""
CUT = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, say: "one two three four five six", cut: text, trouble_times: 1}
"""


@pytest.fixture(autouse=True)
async def _staffed(lab: Lab) -> None:
    await lab.staff()


@pytest.fixture(scope="module")
async def team(lab: Lab) -> Team:
    return await lab.team()


@pytest.fixture(scope="module")
async def teams(lab: Lab, team: Team) -> list[Team]:
    """One for each run that stands still: it may hold what all runs of its organisation wait for."""
    return [team, *[await lab.team() for _ in range(AT_ONCE - 1)]]


@asynccontextmanager
async def stopped(lab: Lab, team: Team, name: str, boundary: int) -> AsyncIterator[str]:
    """A run that stands at a boundary; afterwards the way is free. The gate may die with the server."""
    gate = await psycopg.AsyncConnection.connect(lab.facts.admin_dsn, autocommit=True)
    await gate.execute("insert into fault.stops values (%s, %s)", [name, boundary])
    await gate.execute("select pg_advisory_lock(hashtextextended('fault stop ' || %s, 0))", [name])
    try:
        run_id = await team.start(name)
        async with asyncio.timeout(30):
            while not await lab.house.admin("select pid from fault.standing where name = %s", name):
                await asyncio.sleep(0.05)
        yield run_id
    finally:
        await gate.close()


async def came_to_its_end(lab: Lab, run_id: str, name: str) -> None:
    run = await lab.house.until(run_id)
    assert (run["status"], run["steps"]) == ("succeeded", STEPS), run["reason"]
    await lab.house.events(run_id)
    calls = await lab.house.admin("select step, tool, status::text from pam.tool_calls where run_id = %s", run_id)
    unknown = {call["step"] for call in calls if call["status"] == "unknown"}
    for step in OUTSIDE_STEPS:
        count = lab.ledger.effects[(name, step)]
        assert count == 1 or (count == 0 and step in unknown), (step, count, calls)


FAULTS: dict[str, tuple[str, Any]] = {
    "postgres": ("kill", 0),
    "redis": ("kill", 0),
    "redis is flushed": ("flush", 0),
    "redis is silent": ("freeze", 2.5),
    "gateway": ("kill", 0),
    "functions": ("kill", 0),
    "model is silent": ("freeze", 3.0),
}


@pytest.mark.timeout(0 if EVERY else 120)
@pytest.mark.parametrize("what", list(FAULTS))
async def test_a_run_goes_on_when_a_part_ends_or_falls_silent_under_it(lab: Lab, teams: list[Team], what: str) -> None:
    act, seconds = FAULTS[what]
    part = "rehearsal" if what.startswith("model") else what.split()[0]
    boundaries = SCRIPT_BOUNDARIES if EVERY else random.Random(f"{SEED} {what}").sample(SCRIPT_BOUNDARIES, 2)
    parts = Parts(facts=lab.facts)
    for first in range(0, len(boundaries), AT_ONCE):
        names = {f"{what.replace(' ', '-')}-{number}": number for number in boundaries[first : first + AT_ONCE]}
        async with AsyncExitStack() as standing:
            runs = {
                name: await standing.enter_async_context(stopped(lab, one, name, names[name]))
                for one, name in zip(teams, names, strict=False)
            }
            match act:
                case "kill":
                    await parts.is_back(part, after=parts.kill(part))
                case "flush":
                    await parts.flush_redis()
                case "freeze":
                    frozen = asyncio.create_task(parts.freeze(part, seconds=seconds))
                    await asyncio.sleep(0.1)
        if act == "freeze":
            await frozen
        for name, run_id in runs.items():
            await came_to_its_end(lab, run_id, name)


@pytest.mark.parametrize("how", ["read-only", "full", "slow"])
async def test_a_run_goes_on_while_redis_is_ailing(lab: Lab, team: Team, how: RedisAilment) -> None:
    name = f"redis-{how}"
    async with stopped(lab, team, name, 14) as run_id:
        ailing = Parts(facts=lab.facts).ailing_redis(how)
        await ailing.__aenter__()
    beside = await team.start(f"{name}-beside")  # its bell does not ring
    await asyncio.sleep(2)
    await ailing.__aexit__(None, None, None)
    await came_to_its_end(lab, run_id, name)
    await came_to_its_end(lab, beside, f"{name}-beside")


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_run_goes_on_when_every_second_batch_of_its_events_meets_another_transaction(
    lab: Lab, team: Team, code: str
) -> None:
    name = f"refused-{code}"
    await lab.house.admin("insert into fault.refusals values (%s, %s)", name, code)
    (before,) = await lab.house.admin("select last_value as n from fault.refusal")
    await came_to_its_end(lab, await team.start(name), name)
    (after,) = await lab.house.admin("select last_value as n from fault.refusal")
    assert after["n"] - before["n"] > 2 * STEPS


async def test_a_run_goes_on_when_postgres_ends_its_workers_connections_again_and_again(lab: Lab, team: Team) -> None:
    run_id = await team.start("torn")

    async def torn() -> None:
        while True:
            await asyncio.sleep(0.7)
            await lab.house.admin("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pam_worker'")

    tearing = asyncio.create_task(torn())
    try:
        await asyncio.sleep(6)
    finally:
        tearing.cancel()
    await came_to_its_end(lab, run_id, "torn")


async def test_a_run_goes_on_when_redis_is_away_for_seconds(lab: Lab, team: Team) -> None:
    async with stopped(lab, team, "redis-away", 20) as run_id:
        away = Parts(facts=lab.facts).away("redis")
        await away.__aenter__()
    await asyncio.sleep(3)
    await away.__aexit__(None, None, None)
    await came_to_its_end(lab, run_id, "redis-away")


async def test_a_model_that_refuses_connections_is_asked_again_or_ends_the_run_with_a_reason(
    lab: Lab, team: Team
) -> None:
    async with stopped(lab, team, "model-away", 12) as run_id:
        away = Parts(facts=lab.facts).away("rehearsal")
        await away.__aenter__()
    await asyncio.sleep(0.3)
    await away.__aexit__(None, None, None)
    run = await lab.house.until(run_id)
    assert (run["status"], run["reason"]) in [("succeeded", None), ("failed", "model_failed")]


async def test_an_answer_that_is_cut_off_is_asked_for_again(lab: Lab) -> None:
    run_id, message = await lab.start(CUT)
    run = await lab.ended(run_id)
    assert run["steps"] == 1
    assert not await lab.house.unused(message)


async def test_a_function_that_freezes_after_its_commit_and_is_asked_again_has_started_one_run(lab: Lab) -> None:
    """As Lambda freezes a function that has rung for its run, before its answer is out."""
    message = await lab.house.script(ANSWERS)
    session = await lab.ada.person.client.auth.get_session()
    assert session is not None
    headers = {"authorization": f"Bearer {session.access_token}", "idempotency-key": message}
    path, asked = f"/v1/orgs/{lab.ada.org_id}/runs", {"agent": "engineer", "message": message}
    blocked = "select pid from pg_stat_activity where %s = any (pg_blocking_pids(pid))"
    started = "select id::text from pam.runs where org_id = %s and idempotency_key = %s"
    function = Parts(facts=lab.facts).pid("functions")
    async with httpx.AsyncClient(base_url=lab.facts.api_url, headers=headers, trust_env=False, timeout=40) as api:
        async with await psycopg.AsyncConnection.connect(lab.facts.admin_dsn, autocommit=True) as gate:
            of_ada = f"hashtextextended('pam runs of {lab.ada.person.user_id}', 0)"  # what start_run waits for
            await gate.execute(f"select pg_advisory_lock({of_ada})")
            first = asyncio.create_task(api.post(path, json=asked))
            async with asyncio.timeout(20):
                while not await lab.house.admin(blocked, gate.info.backend_pid):
                    await asyncio.sleep(0.05)
            os.kill(function, signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):
                while not (runs := await lab.house.admin(started, lab.ada.org_id, message)):
                    await asyncio.sleep(0.05)
            first.cancel()  # the client has lost its patience
            await asyncio.wait([first])
            again = asyncio.create_task(api.post(path, json=asked))
        finally:
            os.kill(function, signal.SIGCONT)
        answers = [await again, await api.post(path, json=asked)]
    told = [(answer.status_code, answer.json()["run_id"], answer.json()["is_replay"]) for answer in answers]
    assert first.cancelled()
    assert told == [(202, runs[0]["id"], True)] * 2
    assert await lab.house.admin(started, lab.ada.org_id, message) == runs
    await lab.ended(runs[0]["id"])
    assert await lab.claims(runs[0]["id"]) == 1
    said = await lab.house.admin("select id from pam.messages where run_id = %s and role = 'user'", runs[0]["id"])
    assert len(said) == 1
    assert not await lab.house.unused(message)


@pytest.mark.parametrize("step", OUTSIDE_STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_call_whose_worker_dies_while_it_is_outside_is_unknown_and_not_repeated(
    lab: Lab, team: Team, step: int, when: str
) -> None:
    """A call to a keyed target is no exception: api_call does not know whom it calls."""
    name = f"outside-{when}-{step}"
    halt = lab.ledger.halt(name, step, when)
    run_id = await team.start(name)
    async with asyncio.timeout(20):
        await halt.reached.wait()
    await (await lab.holder(run_id)).kill()
    halt.go.set()
    await came_to_its_end(lab, run_id, name)
    calls = await lab.house.admin(
        "select status::text from pam.tool_calls where run_id = %s and tool = 'api_call' order by step", run_id
    )
    expected = ["unknown" if one == step else "succeeded" for one in OUTSIDE_STEPS]
    assert [call["status"] for call in calls] == expected
    assert lab.ledger.effects[(name, step)] == 1
    assert sum(one.path == UNKEYED for one in lab.ledger.received if one.run == name) == 1


async def test_a_program_dies_with_its_worker_and_is_run_again_by_the_next(lab: Lab) -> None:
    run_id, _ = await lab.start(SLEEPS)
    async with asyncio.timeout(20):
        while not (holder := await _sandboxed(lab, run_id)):
            await asyncio.sleep(0.05)
    await holder.kill()
    async with asyncio.timeout(5):
        while holder.survivors():
            await asyncio.sleep(0.05)
    run = await lab.ended(run_id)
    assert await lab.claims(run_id) == 2
    assert run["steps"] == 2


async def _sandboxed(lab: Lab, run_id: str) -> WorkerProcess | None:
    """The run's worker, once the program sleeps below it; a worker that tries its sandbox at its start has a sleeper, too."""
    (head,) = await lab.house.admin("select worker from pam_private.run_heads where run_id = %s", run_id)
    for worker in lab.workers:
        if not (head["worker"] or "").endswith(f":{worker.pid}"):
            continue
        below = await asyncio.to_thread(psutil.Process(worker.pid).children, recursive=True)
        if any(one.name() == "sleep" for one in below):
            return worker
    return None
