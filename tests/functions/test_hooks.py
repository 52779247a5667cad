"""The hook: signed as the database and the standard's own package sign, and a ring on a real queue."""

import asyncio
import base64
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import uvicorn
from redis import Redis
from rq import Queue
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette

import functions.hooks
from functions.hooks import create_hooks_from
from functions.problems import SignatureRefused
from functions.settings import HookSettings
from functions.signature import SignatureCheck
from infra.installation import set_webhook
from tests.functions.conftest import Pam, Person
from tests.functions.lambda_function import LambdaFunction, request
from workers.kernel.runqueue import JOB, QUEUE

SECRET = "a webhook secret of some length"
URL = "/hooks/run-queued"
signer = Webhook(base64.b64encode(SECRET.encode()).decode())  # the package's secrets are base64


def signed(body: bytes, *, message_id: str = "msg-1", at: datetime | None = None) -> dict[str, str]:
    """The headers that the standard's own package gives."""
    at = at or datetime.now(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signer.sign(message_id, at, body.decode()),
    }


def ring(run_id: object = None, turn: object = 1, **more: object) -> bytes:
    return json.dumps({"run_id": str(run_id or uuid.uuid4()), "turn": turn} | more).encode()


@pytest.fixture
def redis(pam: Pam) -> Iterator[Redis]:
    with Redis.from_url(pam.platform.redis_url) as client:
        yield client


@pytest.fixture
def app(pam: Pam) -> Starlette:
    return create_hooks_from(HookSettings(redis_url=pam.platform.redis_url, webhook_secret=SECRET))


@pytest.fixture
async def hook(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hook") as client:
        yield client


async def test_a_signed_ring_is_queued_once_however_often_it_comes(hook: httpx.AsyncClient, redis: Redis) -> None:
    run_id = uuid.uuid4()
    body = ring(run_id)
    answers = [await hook.post(URL, content=body, headers=signed(body)) for _ in range(3)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [
        (202, {"queued": True}), (202, {"queued": False}), (202, {"queued": False})
    ]  # fmt: skip
    job = Queue(QUEUE, connection=redis, serializer="json").fetch_job(f"{run_id}-1")
    assert job is not None
    assert (job.func_name, job.args) == (JOB, [str(run_id), 1])


async def test_what_is_not_signed_by_us_now_is_refused_and_not_queued(hook: httpx.AsyncClient, redis: Redis) -> None:
    body = ring()
    good = signed(body)
    now = datetime.now(UTC)
    stranger = Webhook(base64.b64encode(b"another secret").decode()).sign("msg-1", now, body.decode())
    before = Queue(QUEUE, connection=redis).count
    for changed in (
        {"webhook-signature": stranger},
        {"webhook-signature": good["webhook-signature"].replace("v1,", "v1a,")},
        {"webhook-signature": good["webhook-signature"].removeprefix("v1,")},
        {"webhook-signature": good["webhook-signature"][:-2]},
        {"webhook-signature": ""},
        {"webhook-id": "msg-2"},
        {"webhook-timestamp": str(int(now.timestamp()) + 1)},
        {"webhook-timestamp": f"{now.timestamp():.1f}"},
        {"webhook-timestamp": "٣" * 10},
        signed(body, at=now - timedelta(seconds=302)),
        signed(body, at=now + timedelta(seconds=302)),
    ):
        headers = {name.encode(): value.encode() for name, value in (good | changed).items()}
        answer = await hook.post(URL, content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "bad_signature"), changed
        assert SECRET not in answer.text
    for name in good:
        left = {key: value for key, value in good.items() if key != name}
        assert (await hook.post(URL, content=body, headers=left)).status_code == 401
    assert (await hook.post(URL, content=body + b" ", headers=good)).status_code == 401
    assert Queue(QUEUE, connection=redis).count == before


async def test_a_signed_body_that_is_no_ring_is_refused(hook: httpx.AsyncClient) -> None:
    for body in (
        b"", b"[]", b"{", b"null", ring("x"), ring(turn=0), ring(turn=True), ring(turn="1"), ring(turn=1.5),
        ring(more=1), b'{"run_id": "00000000-0000-0000-0000-000000000000"}', b"[" * 3000,
    ):  # fmt: skip
        answer = await hook.post(URL, content=body, headers=signed(body))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), body
    large = ring(more="x" * 5000)
    assert (await hook.post(URL, content=large, headers=signed(large))).status_code == 413
    assert (await hook.get(URL)).status_code == 405


def test_ours_and_the_standards_own_package_agree() -> None:
    check = SignatureCheck(secret=SECRET)
    for body in (b"", b"{}", "✓ \r\n".encode(), b"x" * 4096):
        good = signed(body)
        check.verify(good, body)
        several = good | {"webhook-signature": f"v1,AAAA v2,xyz {good['webhook-signature']} v1a,="}
        check.verify(several, body)
        late = signed(body, at=datetime.now(UTC) - timedelta(seconds=299))
        check.verify(late, body)
        for bad in (
            good | {"webhook-id": "other"},
            signed(body, at=datetime.now(UTC) - timedelta(seconds=302)),
        ):
            with pytest.raises(SignatureRefused):
                check.verify(bad, body)
            with pytest.raises(WebhookVerificationError):
                signer.verify(body.decode(), bad)


async def test_without_redis_the_sender_is_told_to_come_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    app = create_hooks_from(HookSettings(redis_url=f"redis://127.0.0.1:{port}/0", webhook_secret=SECRET))
    body = ring()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hook") as hook:
        answer = await hook.post(URL, content=body, headers=signed(body))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("shape", ["http_api", "function_url"])
async def test_the_hook_answers_on_lambda(pam: Pam, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    monkeypatch.setenv("REDIS_URL", pam.platform.redis_url)
    monkeypatch.setenv("PAM_WEBHOOK_SECRET", SECRET)
    function = LambdaFunction(functions.hooks)
    body = ring()
    for headers, status in ((signed(body), 202), ({}, 401)):
        event = request(shape, "POST", URL, headers=headers, body=body)
        answer: dict[str, Any] = await asyncio.to_thread(function, event)
        assert (answer["statusCode"], answer["isBase64Encoded"]) == (status, False)
    function.close()


async def test_a_run_started_by_a_person_rings_the_hook_through_the_database(
    pam: Pam, api: httpx.AsyncClient, ann: Person, app: Starlette, redis: Redis
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))  # listens at once: a ring that is early waits
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await set_webhook(pam.platform.owner_dsn, url=f"http://127.0.0.1:{port}{URL}", secret=SECRET)
    try:
        asked_at = time.monotonic()
        question = {"agent": "engineer", "message": "Ring!"}
        answer = await api.post(f"/v1/orgs/{ann.org_id}/runs", json=question, headers=ann.headers)
        queue = Queue(QUEUE, connection=redis, serializer="json")
        while queue.fetch_job(f"{answer.json()['run_id']}-1") is None:
            assert time.monotonic() - asked_at < 10, "nobody rang"
            await asyncio.sleep(0.02)
    finally:
        await pam.sql("delete from pam_private.settings")
        server.should_exit = True
        await serving
