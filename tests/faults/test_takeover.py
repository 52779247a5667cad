"""Workers die, freeze and leave at every point of a run; the run goes on, and nothing happens twice."""

import asyncio
from typing import Any
from uuid import UUID

import psycopg
import pytest
from redis import Redis
from rq import Queue

from infra.chaos.workers import WorkerProcess
from infra.cli.live import Cut, LoggedEvent
from tests.faults.conftest import Lab
from tests.support.house import assert_valid
from workers.kernel import runqueue

HANGS_ONCE = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, say: "I think, and then I answer.", hang_seconds: 5, trouble_times: 1}
"""
WRITES = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    say: "I write."
    call: [{file_write: {path: "NAME.txt", content: "written"}}]
  - expect: {role: tool, contains: ["NAME.txt is written, version 1"]}
    say: "Written."
"""
COUNTS = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    call: [{redis_set: {key: "NAME", increment: 1}}]
  - expect: {role: tool, contains: ["NAME is 1 now"]}
    say: "Counted."
"""
READS = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    call: [{database_query: {sql: "select count(*) as projects from public.projects"}}]
  - expect: {role: tool, contains: ["1 rows"]}
    say: "Read."
"""
SLOW_STEP = """
name: NAME
when: NAME
turns:
  - expect: {role: user}
    say: "one two three four five six seven eight nine ten eleven twelve"
    seconds_per_word: 0.1
    call: [{file_list: {}}]
  - expect: {role: tool}
    say: "Listed."
"""
ANSWERS = """
name: NAME
when: NAME
turns: [{expect: {role: user}, say: "Here."}]
"""


@pytest.fixture(autouse=True)
async def _staffed(lab: Lab) -> None:
    await lab.staff()


async def test_a_worker_killed_in_the_models_words_is_replaced(lab: Lab) -> None:
    run_id, message = await lab.start(HANGS_ONCE)
    await lab.model_is_asked(message)
    await (await lab.holder(run_id)).kill()
    run = await lab.ended(run_id)
    assert (run["steps"], run["turn"], await lab.claims(run_id)) == (1, 2, 2)


@pytest.mark.parametrize(
    "place",
    [
        "step",  # the model has answered, nothing of it is stored
        "call started",  # the step is stored, the intent is not
        "file version",  # the intent is stored, the effect has not happened
        "call succeeded",  # the effect has happened, its outcome is not stored
        "run succeeded",  # the last answer is stored, the end is not
    ],
)
async def test_a_file_is_written_once_wherever_the_worker_dies(lab: Lab, place: str) -> None:
    async with lab.barrier(place, WRITES) as (run_id, message):
        await lab.kill_at_the_barrier(run_id)
    run = await lab.ended(run_id)
    assert run["steps"] == 2, "a recorded step is never asked for again"
    assert not await lab.house.unused(message)
    path = f"{message.split()[-1].rstrip('.')}.txt"
    versions = await lab.house.admin(
        "select v.call_id, v.content from pam.file_versions v join pam.files f on f.id = v.file_id where f.path = %s",
        path,
    )
    assert [bytes(row["content"]) for row in versions] == [b"written"]
    calls = await lab.house.admin("select id, status::text from pam.tool_calls where run_id = %s", run_id)
    assert [(call["id"], call["status"]) for call in calls] == [(versions[0]["call_id"], "succeeded")]


@pytest.mark.parametrize("place", ["call started", "call succeeded"])
async def test_a_counter_is_counted_once_wherever_the_worker_dies(lab: Lab, place: str) -> None:
    async with lab.barrier(place, COUNTS) as (run_id, message):
        await lab.kill_at_the_barrier(run_id)
    await lab.ended(run_id)
    assert not await lab.house.unused(message)
    redis = Redis.from_url(lab.facts.redis_url)
    assert redis.get(f"pam:{lab.ada.org_id}:values:{message.split()[-1].rstrip('.')}") == b"1"
    redis.close()


async def test_a_read_that_its_worker_did_not_survive_is_read_again(lab: Lab) -> None:
    async with lab.barrier("call succeeded", READS) as (run_id, message):
        await lab.kill_at_the_barrier(run_id)
    await lab.ended(run_id)
    assert not await lab.house.unused(message)


async def test_a_frozen_worker_finds_its_fence_old_and_writes_nothing(lab: Lab) -> None:
    run_id, message = await lab.start(HANGS_ONCE)
    await lab.model_is_asked(message)
    frozen = await lab.holder(run_id)
    frozen.pause()
    run = await lab.ended(run_id)
    before = await lab.house.events(run_id)
    assert run["steps"] == 1
    frozen.resume()
    await frozen.logs("run lost", "fence_lost")
    assert await lab.house.events(run_id) == before
    assert frozen.is_alive, "losing a run is no reason to die"


async def test_every_verb_refuses_an_old_fence(lab: Lab) -> None:
    run_id, message = await lab.start(HANGS_ONCE)
    await lab.model_is_asked(message)
    fence = (await lab.house.admin("select fence from pam_private.run_heads where run_id = %s", run_id))[0]["fence"]
    verbs = await lab.house.admin(
        "select p.proname as name, p.proargnames as arguments from pg_proc p"
        " where p.pronamespace = 'pam_worker'::regnamespace and 'fence' = any (p.proargnames)"
    )
    assert len(verbs) >= 14
    async with await psycopg.AsyncConnection.connect(lab.facts.worker_dsn, autocommit=True) as worker:
        for verb in verbs:
            given = ", ".join(f"{name} => null" for name in verb["arguments"] if name not in ("run_id", "fence"))
            call = f"select pam_worker.{verb['name']}(run_id => %s, fence => %s{', ' + given if given else ''})"
            for old in (fence - 1, fence + 1):
                with pytest.raises(psycopg.Error) as refused:
                    await worker.execute(call.encode(), [run_id, old])
                assert refused.value.sqlstate == "PM002", verb
    await lab.ada.person.call("cancel_run", run_id=run_id)
    await lab.ended(run_id, status="cancelled")


async def test_a_worker_told_to_leave_finishes_its_step_and_gives_the_run_back(lab: Lab) -> None:
    run_id, message = await lab.start(SLOW_STEP)
    await lab.model_is_asked(message)
    leaving = await lab.holder(run_id)
    leaving.terminate()
    assert await leaving.ended() == 0
    assert "Traceback" not in leaving.log
    run = await lab.ended(run_id)
    assert (run["steps"], run["turn"]) == (2, 2)
    resumed = [
        e["value"] for e in await lab.house.events(run_id) if e["type"] == "CUSTOM" and e["name"] == "pam.resumed"
    ]
    assert resumed == [{"attempt": 1, "turn": 2}], "a worker that leaves costs no attempt"
    assert not await lab.house.unused(message)


async def test_an_idle_worker_told_to_leave_goes_at_once(lab: Lab) -> None:
    idle = await WorkerProcess.start(lab.facts)
    await idle.ready()
    idle.terminate()
    assert await idle.ended(seconds=15) == 0
    assert "Traceback" not in idle.log


async def test_a_lost_webhook_is_swept_up(lab: Lab) -> None:
    await lab.switch("lose webhooks", is_on=True)
    run_id, _ = await lab.start(ANSWERS)
    await lab.switch("lose webhooks", is_on=False)
    await lab.age(run_id)
    run = await lab.ended(run_id)
    assert (run["turn"], await lab.claims(run_id)) == (1, 1)


async def test_a_run_started_while_redis_is_away_is_swept_up_when_it_is_back(lab: Lab) -> None:
    async with lab.without_redis():
        run_id, _ = await lab.start(ANSWERS)
        async with asyncio.timeout(20):
            while not await lab.house.admin("select id from net._http_response where status_code = 503"):
                await asyncio.sleep(0.05)
    await lab.staff()
    await lab.age(run_id)
    run = await lab.ended(run_id)
    assert await lab.claims(run_id) == 1
    assert run["attempt"] == 0


async def test_the_same_turn_queued_twice_is_claimed_once(lab: Lab) -> None:
    await lab.switch("lose webhooks", is_on=True)
    run_id, _ = await lab.start(ANSWERS)
    await lab.switch("lose webhooks", is_on=False)
    redis = runqueue.connect(lab.facts.redis_url)
    queue = Queue(runqueue.QUEUE, connection=redis, serializer="json")
    for number in range(6):  # names of their own, so that the queue cannot drop them
        queue.enqueue_call(runqueue.JOB, args=[run_id, 1], job_id=f"{run_id}-twin-{number}", result_ttl=0, timeout=-1)
    await lab.ended(run_id)
    assert await lab.claims(run_id) == 1
    async with asyncio.timeout(10):
        while redis.keys(f"rq:job:{run_id}-twin-*"):  # a job that went well leaves nothing behind
            await asyncio.sleep(0.05)
    assert await lab.claims(run_id) == 1
    redis.close()


async def test_ringing_twice_for_a_turn_in_the_queue_is_one_job(lab: Lab) -> None:
    redis = runqueue.connect(lab.facts.redis_url)
    rings = runqueue.RunQueue(redis=redis)
    absent = UUID(int=7)
    for worker in lab.workers:
        worker.pause()
    assert [await rings.ring(absent, 1), await rings.ring(absent, 1)] == [True, False]
    for worker in lab.workers:
        worker.resume()
    redis.close()


async def test_a_turn_that_a_worker_took_and_did_not_live_to_begin_is_rung_for_again(lab: Lab) -> None:
    """A storm found it: killed before its first word to Redis, a worker left a job that blocked its turn."""
    redis = runqueue.connect(lab.facts.redis_url)
    rings = runqueue.RunQueue(redis=redis)
    queue = Queue(runqueue.QUEUE, connection=redis, serializer="json")
    absent = UUID(int=8)
    job = f"{absent}-1"
    for worker in lab.workers:
        worker.pause()
    try:
        assert await rings.ring(absent, 1)
        queue.remove(job)
        assert 0 < redis.ttl(f"rq:job:{job}") <= runqueue.QUEUED_SECONDS, "whatever happens, no job stays for good"
        assert not await rings.ring(absent, 1), "a living worker may be about to claim it"
        redis.hset(f"rq:job:{job}", "enqueued_at", "2026-11-01T00:00:00.000000Z")
        assert await rings.ring(absent, 1)
        assert not await rings.ring(absent, 1)
    finally:
        for worker in lab.workers:
            worker.resume()
        redis.close()


async def test_a_viewer_who_loses_the_websocket_misses_and_doubles_nothing(lab: Lab) -> None:
    run_id, _ = await lab.start(SLOW_STEP)
    follower = lab.ada.person.follow(run_id)
    events: list[dict[str, Any]] = []
    cuts = 0
    async with asyncio.timeout(30):
        async for item in follower.follow():
            if isinstance(item, LoggedEvent):
                events.append(item.payload)
                if len(events) == 1:
                    follower.cut(seconds=0.5)
            cuts += isinstance(item, Cut)
    assert cuts >= 1
    assert (follower.tally.gaps, follower.tally.duplicates) == (0, 0)
    assert_valid(events)
    await lab.ended(run_id)
    assert events == await lab.house.events(run_id)


async def test_five_workers_in_a_row_killed_by_one_step_give_the_run_up(lab: Lab) -> None:
    run_id, message = await lab.start(ANSWERS.replace('"Here."', '"Here.", hang_seconds: 30'))
    await lab.model_is_asked(message)
    await lab.house.admin("update pam.runs set attempt = 5 where id = %s", run_id)  # four were lost before this one
    await (await lab.holder(run_id)).kill()
    run = await lab.ended(run_id, status="failed")
    assert run["reason"] == "attempts"


async def test_a_worker_without_its_database_says_so_and_ends(lab: Lab) -> None:
    assert await lab.homeless.ended() == 2
    assert "pam worker: the database did not answer within 10 s: check PAM_DATABASE_URL" in lab.homeless.log
    assert "Traceback" not in lab.homeless.log


async def test_a_worker_without_a_setting_names_it_and_ends(lab: Lab) -> None:
    nameless = await WorkerProcess.start(lab.facts, PAM_DATABASE_URL="")
    assert await nameless.ended() == 2
    assert nameless.log == "pam worker: PAM_DATABASE_URL is not set: the login pam_worker, printed by `pam install`\n"
