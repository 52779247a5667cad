"""The API as Lambda runs it: real API Gateway and function URL events through the handler."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import functions.main
from tests.functions.conftest import Pam, Person
from tests.functions.lambda_function import LambdaFunction, request
from workers.kernel.errors import SettingMissing

ROOT = Path(__file__).parents[2]
Invoke = Callable[..., Any]


@pytest.fixture(params=["http_api", "function_url"])
def invoke(pam: Pam, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Invoke]:
    monkeypatch.setenv("SUPABASE_URL", pam.platform.url)
    monkeypatch.setenv("SUPABASE_PUBLISHABLE_KEY", pam.platform.publishable_key)
    monkeypatch.setenv("SUPABASE_JWT_SECRET", pam.platform.jwt_secret)
    function = LambdaFunction(functions.main)
    shape: str = request.param

    async def ask(method: str, path: str, **options: Any) -> Any:
        return await asyncio.to_thread(function, make(shape, method, path, **options))

    yield ask
    function.close()


make = request


async def test_a_run_is_started_and_followed_through_lambda(pam: Pam, invoke: Invoke, ann: Person, bob: Person) -> None:
    body = json.dumps({"agent": "engineer", "message": "Grüße ✓"}).encode()
    headers = ann.headers | {"Idempotency-Key": uuid.uuid4().hex, "X-Request-Id": "from-the-caller"}
    started = await invoke("POST", f"/v1/orgs/{ann.org_id}/runs", headers=headers, body=body)
    assert (started["statusCode"], started["isBase64Encoded"]) == (202, False)
    assert started["headers"]["x-request-id"] == "from-the-caller"
    run_id = json.loads(started["body"])["run_id"]
    again = await invoke("POST", f"/v1/orgs/{ann.org_id}/runs", headers=headers, body=body)
    assert json.loads(again["body"])["run_id"] == run_id

    thread_id = json.loads(started["body"])["thread_id"]
    messages = f"/v1/orgs/{ann.org_id}/threads/{thread_id}/messages"
    said = await invoke("GET", messages, query="limit=1", headers=ann.headers)
    assert json.loads(said["body"])["items"][0]["content"] == "Grüße ✓"

    fence = await pam.claim(run_id)
    await pam.append(run_id, fence, "two")
    stream = {"Accept": "text/event-stream", "Last-Event-ID": "1"}
    events = await invoke("GET", f"/v1/runs/{run_id}/events", headers=ann.headers | stream)
    assert (events["statusCode"], events["isBase64Encoded"]) == (200, False)
    assert events["body"].startswith("retry: 2000\n\nid: 2\ndata: {")
    assert events["body"].count("id: ") == 1
    foreign = await invoke("GET", f"/v1/runs/{run_id}/events", headers=bob.headers | stream)
    assert foreign["statusCode"] == 404


async def test_problems_are_readable_text_on_lambda(invoke: Invoke, ann: Person) -> None:
    for options, status in (
        ({"headers": {}}, 401),
        ({"headers": ann.headers, "body": b"{"}, 422),
        ({"headers": ann.headers, "body": b" " * 300_000}, 413),
    ):
        answer = await invoke("POST", f"/v1/orgs/{ann.org_id}/threads", **options)
        assert (answer["statusCode"], answer["isBase64Encoded"]) == (status, False)
        assert answer["headers"]["content-type"] == "application/problem+json"
        assert json.loads(answer["body"])["request_id"] == answer["headers"]["x-request-id"]


def test_a_function_without_its_settings_does_not_start_and_names_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SUPABASE_URL", raising=False)
    with pytest.raises(SettingMissing, match="SUPABASE_URL"):
        LambdaFunction(functions.main)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("functions.main", "psycopg redis rq openai supabase realtime boto3 uvicorn"),
        ("functions.hooks", "psycopg redis rq fastapi pydantic httpx jwt openai supabase boto3"),
        ("functions.sweep", "fastapi starlette pydantic httpx redis rq psycopg_pool openai supabase boto3"),
    ],
)
def test_a_cold_start_loads_nothing_that_it_does_not_need(module: str, heavy: str) -> None:
    program = f"import sys, {module}; print(*{{m.split('.')[0] for m in sys.modules}} & set({heavy.split()!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_cold_start_of_the_api_takes_less_than_a_second() -> None:
    program = "import time; a = time.process_time(); import functions.main; print(time.process_time() - a)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) < 1
