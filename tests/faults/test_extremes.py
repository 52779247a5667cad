"""More of everything than anybody means: hundreds of runs without a model, messages, results and logs of absurd size."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest

from infra.chaos.parts import Parts
from infra.chaos.workers import WorkerProcess
from infra.cli.inspection import timeline_of
from infra.cli.person import CommandFailed, Refused
from infra.cli.timeline import Stepped
from tests.faults.conftest import Lab
from tests.support.house import Engineer
from workers.kernel import runqueue
from workers.model.retry import Retries
from workers.outbound.breaker import FAILURES, PAUSE_SECONDS

TEAMS, RUNS_A_TEAM = 10, 50  # one person has 50 unfinished runs at most
RUNS = TEAMS * RUNS_A_TEAM
WORKERS, PLACES = 2, 50
ATTEMPTS = Retries().max_attempts
MESSAGE = "Please play back-for-many."
MEGABYTE = 1_000_000
MOST_WORKER_BYTES = 400 * MEGABYTE
MOST_INSPECT_BYTES = 120 * MEGABYTE
EVENTS = 200_000  # a million are as many pages more, and half a minute to read through
PAGE = 500
MOST_BLOCKS = 100  # of 8 KiB, for a page of the log; the whole of it has thousands
BACK = """
name: back-for-many
when: back-for-many
turns: [{expect: {role: user}, say: "Back."}]
"""
HANGS = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "Here.", hang_seconds: 60}]
"""
ANSWERS = HANGS.replace("60", "0")
FLOODED = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    call: [{code_execution: {language: python, code: "for _ in range(100): print('x' * 1_000_000)"}}]
  - expect: {role: tool, result_of: code_execution, contains: ["it printed more than a program may (8 MiB)"]}
    call: [{database_query: {sql: "select string_agg(body, '') as whole from public.comments where project_id = 7"}}]
  - expect: {role: tool, result_of: database_query, contains: ["A row holds more than 20,000 characters"]}
    call: [{database_query: {sql: "select left(body, 15000) as body from public.comments where project_id = 7 order by id desc"}}]
  - expect: {role: tool, result_of: database_query, contains: [" rows (there are more"]}
    say: "Dry again."
"""


@pytest.fixture(scope="module")
async def workers(lab: Lab) -> AsyncIterator[list[WorkerProcess]]:
    """Two workers with fifty places each, and leases that a busy machine keeps."""
    settings = {"PAM_MAX_RUNS": str(PLACES), "PAM_LEASE_SECONDS": "60"}
    started = [await WorkerProcess.start(lab.facts, **settings) for _ in range(WORKERS)]
    await asyncio.gather(*(worker.ready() for worker in started))
    yield started
    for worker in started:
        worker.terminate()
    assert [await worker.ended() for worker in started] == [0] * WORKERS


class Door:
    """Stands where the model was: it counts who comes, and sends everybody away."""

    def __init__(self) -> None:
        self.knocks = 0

    async def open(self, port: int) -> asyncio.Server:
        """Stand there, once whoever was there before has left."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await asyncio.start_server(self._knocked, "127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)

    async def _knocked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.knocks += 1
        writer.close()


@asynccontextmanager
async def model_away(lab: Lab) -> AsyncIterator[Door]:
    """The model's process is gone for as long as the context lasts; in its place is a door."""
    door = Door()
    port = urlsplit(lab.facts.rehearsal_url).port
    assert port is not None
    async with Parts(facts=lab.facts).away("rehearsal"), await door.open(port):
        yield door


async def ask(lab: Lab, team: Engineer) -> list[str]:
    """All the runs that one person may have, by the verb itself: PostgREST is not what is tried here."""
    async with await psycopg.AsyncConnection.connect(lab.facts.admin_dsn) as connection:
        claims = json.dumps({"sub": team.person.user_id, "role": "authenticated"})
        await connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        rows = await connection.execute(
            "select pam.start_run(%s, 'engineer', %s) ->> 'run_id' from generate_series(1, %s)",
            [team.org_id, MESSAGE, RUNS_A_TEAM],
        )
        return [row[0] for row in await rows.fetchall()]


async def paused(lab: Lab, runs: list[str], *, times: int, count: int) -> None:
    """Wait until so many runs have outwaited their model so often."""
    async with asyncio.timeout(90):
        while True:
            rows = await lab.house.admin(
                "select status::text, pauses from pam.runs where id = any (%s) and ended_at is null", runs
            )
            assert len(rows) == len(runs), "none ends while its model is away"
            if sum(row["status"] == "queued" and row["pauses"] >= times for row in rows) >= count:
                return
            await asyncio.sleep(0.2)


async def time_passes(lab: Lab, runs: list[str]) -> None:
    """As if every pause were over: the runs', and the breaker's."""
    redis = runqueue.connect(lab.facts.redis_url)
    for key in redis.keys("pam:models:breaker:*"):
        redis.hset(key, "shut_until", 1)
    redis.close()
    await lab.house.admin(
        "with due as (update pam.runs set due_at = clock_timestamp()"
        " where id = any (%s) and status = 'queued' and due_at > clock_timestamp() returning id)"
        " update pam_private.run_heads h set rung_at = clock_timestamp() - interval '11 s' from due where h.run_id = due.id",
        runs,
    )


@pytest.mark.timeout(240)
async def test_five_hundred_runs_outwait_a_model_that_is_away(lab: Lab, workers: list[WorkerProcess]) -> None:
    teams = await asyncio.gather(*(lab.house.engineer() for _ in range(TEAMS)))
    async with model_away(lab) as door:
        runs = [run for asked in await asyncio.gather(*(ask(lab, team) for team in teams)) for run in asked]
        await paused(lab, runs, times=1, count=RUNS)
        knocks, began = door.knocks, time.monotonic()
        assert FAILURES <= knocks <= ATTEMPTS * RUNS // 2, "those under way try again, and nobody after them"
        await time_passes(lab, runs)
        await paused(lab, runs, times=2, count=2 * PLACES)
        trials = 1 + (time.monotonic() - began) // PAUSE_SECONDS
        assert 1 <= door.knocks - knocks <= ATTEMPTS * trials, "one at a time finds out whether it is back"
    async with httpx.AsyncClient(trust_env=False) as http:
        base = lab.facts.rehearsal_url.removesuffix("/v1")
        (await http.put(f"{base}/rehearsal/scripts/back-for-many", content=BACK)).raise_for_status()
    async with asyncio.timeout(90):
        while await lab.house.admin("select id from pam.runs where id = any (%s) and ended_at is null limit 1", runs):
            await time_passes(lab, runs)
            await asyncio.sleep(1)
    ended = await lab.house.admin("select status::text, count(*) from pam.runs where id = any (%s) group by 1", runs)
    assert ended == [{"status": "succeeded", "count": RUNS}]


@asynccontextmanager
async def as_person(lab: Lab, engineer: Engineer) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection that is this person to Postgres, as PostgREST makes one; nothing of it stays."""
    async with await psycopg.AsyncConnection.connect(lab.facts.admin_dsn) as connection:
        claims = json.dumps({"sub": engineer.person.user_id, "role": "authenticated"})
        await connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        await connection.execute("set local role authenticated")
        yield connection
        await connection.rollback()


async def test_ten_megabytes_of_words_are_refused_with_what_to_do_at_every_door(
    lab: Lab, workers: list[WorkerProcess]
) -> None:
    run_id, _ = await lab.start(HANGS)
    count = "select count(*) as n from pam.messages where org_id = %s"
    before = await lab.house.admin(count, lab.ada.org_id)
    session = await lab.ada.person.client.auth.get_session()
    assert session is not None
    headers = {"authorization": f"Bearer {session.access_token}"}
    async with httpx.AsyncClient(base_url=lab.facts.api_url, headers=headers, trust_env=False, timeout=30) as api:
        asked = {"agent": "engineer", "message": "x" * 10 * MEGABYTE}
        for path, body in (
            (f"/v1/orgs/{lab.ada.org_id}/runs", asked),
            (f"/v1/runs/{run_id}/messages", {"message": asked["message"]}),
        ):
            answer = await api.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large"), path
            assert "put larger text into a workspace file" in answer.json()["detail"]
    with pytest.raises(CommandFailed, match="a request has at most"):
        await lab.ada.start("x" * 10 * MEGABYTE)
    said = "x" * (10 * MEGABYTE - 1000)  # as much as the gateway lets through
    for refused in (lab.ada.start(said), lab.ada.person.call("steer_run", run_id=run_id, message=said)):
        with pytest.raises(Refused, match="100,000 characters: put larger text into a workspace file") as refusal:
            await refused
        assert refusal.value.code == "too_large"
    assert await lab.house.admin(count, lab.ada.org_id) == before
    await lab.ada.person.call("cancel_run", run_id=run_id)
    await lab.ended(run_id, status="cancelled")


async def test_a_hundred_megabytes_of_a_tools_answer_are_cut_off_and_weigh_on_no_worker(
    lab: Lab, workers: list[WorkerProcess]
) -> None:
    await lab.house.admin("insert into public.members (project_id, user_id) values (7, %s)", lab.ada.person.user_id)
    await lab.house.admin(
        "insert into public.comments (project_id, task_id, author_id, body) select 7, t.id, %s, repeat('x', 100000)"
        " from (select id from public.tasks where project_id = 7 limit 1) t, generate_series(1, 1000)",
        lab.ada.person.user_id,
    )
    run_id, message = await lab.start(FLOODED)
    run = await lab.house.until(run_id)
    if sys.platform == "linux":
        assert max(most_bytes(worker.pid) for worker in workers) < MOST_WORKER_BYTES
    assert (run["status"], run["steps"]) == ("succeeded", 4), run["reason"]
    assert not await lab.house.unused(message)
    assert max(len(json.dumps(event)) for event in await lab.house.events(run_id)) < 2 * MEGABYTE


def most_bytes(pid: int) -> int:
    """The most memory that a process has held since it began, as Linux counts it."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


async def test_a_log_of_very_many_events_is_read_page_by_page_from_anywhere(
    lab: Lab, workers: list[WorkerProcess]
) -> None:
    run_id, _ = await lab.start(ANSWERS)
    await lab.ended(run_id)
    last = await lengthened(lab, run_id)
    async with as_person(lab, lab.ada) as connection:
        for after in (0, last // 2, last - PAGE):
            page = f"select seq, type, payload, created_at from pam.events where run_id = '{run_id}' and seq > {after} order by seq limit {PAGE}"
            rows = await (await connection.execute(page.encode())).fetchall()
            assert [row[0] for row in rows] == list(range(after + 1, after + PAGE + 1))
            explained = await connection.execute(b"explain (analyze, buffers, format json) " + page.encode())
            ((plan,),) = [row[0] for row in await explained.fetchall()]
            assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < MOST_BLOCKS, plan
    with Swelling() as swelling:
        timeline = await timeline_of(lab.ada.person, run_id)
    (step,) = [entry for entry in timeline.entries if isinstance(entry, Stepped)]
    assert len(step.text) > 5 * EVENTS
    assert swelling.most_bytes < MOST_INSPECT_BYTES


async def lengthened(lab: Lab, run_id: str) -> int:
    """Let the answer in a run's log have been written in very many parts; answers the last seq."""
    async with await psycopg.AsyncConnection.connect(lab.facts.admin_dsn) as connection:
        await connection.execute("set local session_replication_role = replica")
        told = await connection.execute(
            "select seq from pam.events where run_id = %s and type = 'TEXT_MESSAGE_CONTENT'", [run_id]
        )
        (place,) = await told.fetchone() or (0,)
        await connection.execute(
            "update pam.events set seq = seq + %s where run_id = %s and seq > %s", [EVENTS, run_id, place]
        )
        await connection.execute(
            'insert into pam.events select e.org_id, e.run_id, e.seq + n, e.type, e.payload || \'{"delta": "word "}\', e.created_at'
            " from pam.events e, generate_series(1, %s) n where e.run_id = %s and e.seq = %s",
            [EVENTS, run_id, place],
        )
        told = await connection.execute(
            "update pam_private.run_heads set last_seq = last_seq + %s where run_id = %s returning last_seq",
            [EVENTS, run_id],
        )
        (last,) = await told.fetchone() or (0,)
        await connection.execute("analyze pam.events")  # as the server does by itself within a minute
        return int(last)


class Swelling:
    """How much memory this process takes on top of what it has, while the context lasts."""

    def __enter__(self) -> "Swelling":
        self.most_bytes = 0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, args=[psutil.Process()], daemon=True)
        self._watch.start()
        return self

    def _look(self, process: psutil.Process) -> None:
        before = process.memory_info().rss
        while not self._over.wait(0.02):
            self.most_bytes = max(self.most_bytes, process.memory_info().rss - before)

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._watch.join()
