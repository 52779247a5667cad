"""The rows of the bench at small sizes: what they measure happens, what they compare with happens, and nothing is lost."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from infra.bench import live, rows, starts, steps, takeover
from infra.bench.measure import Row
from infra.bench.queued import queue_runs
from infra.bench.runs import Bench
from infra.bench.steady_model import steady_model, steps_question
from infra.cli.live import RunFollower
from workers.kernel.worker_gateway import WorkerGateway


@pytest.fixture
async def database(bench: Bench) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as connection:
        yield connection


async def counted(database: psycopg.AsyncConnection[Any], statement: str) -> list[Any]:
    return await (await database.execute(statement.encode())).fetchall()


def assert_measured(row: Row, *, must: float | None, aim: float | None) -> None:
    assert row.median > 0
    assert row.yardstick_median > 0
    assert row.ratio == pytest.approx(row.median / row.yardstick_median, rel=0.2, abs=0.001)  # all three are rounded
    assert (row.must, row.aim) == (must, aim)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(0.1, "aim 0.2 reached"), (0.2, "aim 0.2 reached"), (0.4, "must 0.4 met"), (0.41, "must 0.4 MISSED")],
)
def test_a_row_says_what_became_of_what_was_asked_for(ratio: float, verdict: str) -> None:
    assert Row("a", "ms", ratio, "b", 1, ratio, 9, must=0.4, aim=0.2).verdict == verdict
    assert Row("a", "ms", ratio, "b", 1, ratio, 9).verdict == ""


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_the_steady_model_calls_its_tool_as_often_as_it_is_asked_to(is_streamed: bool) -> None:
    messages = [{"role": "user", "content": steps_question(2)}]
    answers = []
    async with steady_model(pause_seconds=0) as url, httpx.AsyncClient(trust_env=False) as http:
        for _ in range(3):
            asked = {"messages": messages, "stream": is_streamed}
            answers.append((await http.post(f"{url}/chat/completions", json=asked)).raise_for_status().text)
            messages.append({"role": "tool", "content": "done"})

    assert ["file_list" in answer for answer in answers] == [True, True, False]
    assert all(answer.startswith("data: ") is is_streamed for answer in answers)
    assert "That is all." in answers[2]


async def test_a_step_is_measured_with_everything_recorded(
    bench: Bench, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await counted(database, "select count(*) from pam.runs")
    verbs: Counter[str] = Counter()
    real = WorkerGateway.call

    async def called(gateway: WorkerGateway, verb: str, **arguments: Any) -> Any:
        verbs[verb] += 1
        return await real(gateway, verb, **arguments)

    monkeypatch.setattr(WorkerGateway, "call", called)

    row = await steps.durable_step(bench, few=1, many=3, runs=1)

    assert_measured(row, must=0.40, aim=0.20)
    [(runs, taken, calls, said)] = await counted(
        database,
        "select (select count(*) from pam.runs where status = 'succeeded'), (select count(*) from pam.steps),"
        " (select count(*) from pam.tool_calls where status = 'succeeded' and result = 'done'),"
        " (select count(*) from pam.events where type = 'TOOL_CALL_RESULT')",
    )
    runs -= before[0][0]
    assert (runs, taken, calls, said) == (4, 12, 8, 8), "a warm-up and one measurement, each of 1 and 3 steps"
    assert verbs["begin_step"] == 4, "a step that nobody has a say in begins without a question"
    assert (verbs["record_step"], verbs["begin_call"], verbs["finish_call"]) == (12, 8, 8)


async def test_a_claim_is_heard_and_a_job_begins(bench: Bench, database: Any) -> None:
    row = await starts.enqueue_to_bare_start(bench, runs=2)

    assert_measured(row, must=0.25, aim=0.10)
    [(claimed,)] = await counted(database, "select count(*) from pam_private.run_heads where worker <> 'bench'")
    assert claimed == 3, "a warm-up and two measurements, by a worker process"


async def test_a_job_that_imports_is_measured_to_its_first_line(bench: Bench) -> None:
    row = await starts.enqueue_to_start(bench, runs=1)

    assert_measured(row, must=0.25, aim=0.10)
    assert row.yardstick_median > 100, "a fork that imports the workers in less than 100 ms imports something else"


async def test_a_killed_workers_runs_are_taken_over(bench: Bench, database: Any) -> None:
    row = await takeover.takeover(bench, takeover.Pace(runs=2, kills=1, lease_seconds=2, sweep_seconds=1))

    assert_measured(row, must=1.0, aim=1.0)
    assert 1_000 < row.median < 30_000, "no run is taken before its lease is over"
    lost = await counted(database, "select count(*) from pam.events where payload ->> 'name' = 'pam.lost'")
    assert (row.runs, lost) == (2, [(2,)])


async def test_every_event_comes_through_to_the_client(bench: Bench, database: Any) -> None:
    row = await live.events_to_a_client(bench, count=25, batch=10, runs=1)

    assert_measured(row, must=None, aim=None)
    assert "none lost" in row.note
    logs = await counted(database, "select count(*), max(seq) from pam.events where type = 'CUSTOM' group by run_id")
    assert logs.count((26, 26)) == 2
    assert await counted(database, "select to_regclass('public.bench_events')") == [(None,)]


async def test_an_event_that_comes_twice_is_no_figure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    took = RunFollower._took

    def twice(follower: RunFollower, seq: int, payload: dict[str, Any], *, is_live: bool) -> Any:
        if seq == 2:
            took(follower, seq, payload, is_live=is_live)
        return took(follower, seq, payload, is_live=is_live)

    monkeypatch.setattr(RunFollower, "_took", twice)

    with pytest.raises(RuntimeError, match="of 3 events came 4"):
        await live.events_to_a_client(bench, count=2, batch=1, runs=1)


async def test_the_list_is_as_long_with_row_level_security_as_without(
    bench: Bench, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "CHUNK", 1_500)
    told.clear()

    row = await rows.list_runs(bench, rows=2_000)

    assert_measured(row, must=1.8, aim=1.4)
    assert "2,000 rows" in row.name
    assert told == ["1,500 of 2,000 runs are there", "2,000 of 2,000 runs are there"]


async def test_runs_that_are_put_into_the_queue_ring_no_bell(bench: Bench, database: Any) -> None:
    ids = await queue_runs(database, bench, 2)

    found = await counted(database, "select id, status::text from pam.runs where status = 'queued'")
    assert sorted(found) == sorted((id, "queued") for id in ids)
    await database.execute("update pam.runs set status = 'cancelled', ended_at = now() where status = 'queued'")
