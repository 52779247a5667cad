"""The scheduled backstop on a real database and queue, with its own login and nothing more."""

import asyncio
import socket
import uuid
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from redis import Redis
from rq import Queue

from functions import sweep
from functions.sweep import handler
from tests.functions.conftest import Pam
from workers.kernel import runqueue
from workers.kernel.errors import SettingMissing, Unavailable
from workers.kernel.runqueue import QUEUE, RunQueue


@pytest.fixture
def redis(pam: Pam) -> Iterator[Redis]:
    with Redis.from_url(pam.platform.redis_url) as client:
        yield client


@pytest.fixture
def environment(pam: Pam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAM_SWEEPER_DATABASE_URL", pam.dsn("pam_sweeper"))
    monkeypatch.setenv("REDIS_URL", pam.platform.redis_url)


@pytest.fixture
async def lost_run(pam: Pam, api: httpx.AsyncClient) -> str:
    """Queued eleven seconds ago, and its ring went nowhere."""
    where = await pam.sql("select value from pam_private.settings where name = 'webhook_url'")
    aim = "update pam_private.settings set value = %s where name = 'webhook_url'"
    await pam.sql(aim, "http://127.0.0.1:9/")
    carl = await pam.person()
    question = {"agent": "engineer", "message": "Is anybody there?"}
    answer = await api.post(f"/v1/orgs/{carl.org_id}/runs", json=question, headers=carl.headers)
    run_id = str(answer.json()["run_id"])
    await pam.sql(aim, where)
    await pam.sql("update pam_private.run_heads set rung_at = rung_at - interval '11 s' where run_id = %s", run_id)
    return run_id


@pytest.mark.usefixtures("environment")
async def test_a_lost_webhook_is_swept_up_and_queued_once(redis: Redis, lost_run: str) -> None:
    swept = await asyncio.to_thread(handler, {"source": "aws.events"}, None)
    assert swept["due"] >= swept["queued"] >= 1
    queue = Queue(QUEUE, connection=redis, serializer="json")
    job = queue.fetch_job(f"{lost_run}-1")
    assert job is not None
    assert job.args == [lost_run, 1]
    await asyncio.to_thread(handler, {}, None)
    assert queue.get_job_ids().count(f"{lost_run}-1") == 1


@pytest.mark.usefixtures("environment")
async def test_a_dead_workers_run_is_given_to_the_next_at_a_new_turn(pam: Pam, redis: Redis, lost_run: str) -> None:
    await pam.claim(lost_run)
    await pam.sql("update pam_private.run_heads set lease_until = now() where run_id = %s", lost_run)
    await asyncio.to_thread(handler, {}, None)
    assert await pam.sql("select status::text || turn from pam.runs where id = %s", lost_run) == "queued2"
    assert Queue(QUEUE, connection=redis, serializer="json").fetch_job(f"{lost_run}-2") is not None


async def test_a_queue_that_is_away_ends_the_sweep_and_loses_nothing(pam: Pam, lost_run: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    nowhere = RunQueue(redis=runqueue.connect(f"redis://127.0.0.1:{port}/0"))
    with pytest.raises(Unavailable):
        await sweep.sweep(database_url=pam.dsn("pam_sweeper"), queue=nowhere)
    await pam.sql("update pam_private.run_heads set rung_at = rung_at - interval '11 s' where run_id = %s", lost_run)
    queue = RunQueue(redis=runqueue.connect(pam.platform.redis_url))
    assert (await sweep.sweep(database_url=pam.dsn("pam_sweeper"), queue=queue))["queued"] >= 1


async def test_the_sweepers_login_may_sweep_and_nothing_else(pam: Pam) -> None:
    for statement in (
        "select * from pam.runs",
        "select * from pam_private.run_heads",
        f"select pam_worker.claim_run('{uuid.uuid4()}', 1, 'thief', 60)",
        "set role pam_worker",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await pam.sql(statement, login="pam_sweeper")


async def test_a_database_that_is_away_is_said_without_its_password(pam: Pam) -> None:
    dsn = pam.dsn("pam_sweeper")
    wrong = make_conninfo(**{**conninfo_to_dict(dsn), "password": "not-the-password"})
    queue = RunQueue(redis=runqueue.connect(pam.platform.redis_url))
    with pytest.raises(Unavailable) as error:
        await sweep.sweep(database_url=wrong, queue=queue)
    assert "password" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_missing_setting_ends_the_sweep_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAM_SWEEPER_DATABASE_URL", raising=False)
    with pytest.raises(SettingMissing, match="PAM_SWEEPER_DATABASE_URL"):
        handler({}, None)
