"""CloudWatch stood in for by moto as a process of its own, with the real client, and a log group in it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra.local.processes import free_port
from tests.logs.journal import NOON
from workers.logs.cloudwatch import CloudWatchLogs, CloudWatchPlace, client_of

KEY, SECRET = "AKIACANARY0000000000", "canary-secret-access-key"


@pytest.fixture(scope="session")
def cloudwatch_url() -> Iterator[str]:
    port = free_port()
    program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment()
    )
    url, ends_at = f"http://127.0.0.1:{port}", time.monotonic() + 30
    try:
        while True:
            try:
                httpx.get(f"{url}/moto-api/", trust_env=False, timeout=1)
                break
            except httpx.HTTPError:
                assert process.poll() is None, "moto did not start"
                assert time.monotonic() < ends_at, "moto did not answer"
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**kept, "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture
def place(cloudwatch_url: str) -> CloudWatchPlace:
    """A new log group with one stream."""
    made = CloudWatchPlace(
        log_group=f"/pam/{uuid4()}",
        region="eu-central-1",
        endpoint_url=cloudwatch_url,
        access_key_id=KEY,
        secret_access_key=SECRET,
    )
    client = client_of(made)
    client.create_log_group(logGroupName=made.log_group)
    client.create_log_stream(logGroupName=made.log_group, logStreamName="worker")
    return made


@pytest.fixture
def put(place: CloudWatchPlace) -> Callable[..., None]:
    """Put lines there, a minute after noon each."""

    def put(*lines: str) -> None:
        at = int(NOON.timestamp() * 1000)
        told = [{"timestamp": at + 60_000 * n, "message": text} for n, text in enumerate(lines)]
        client_of(place).put_log_events(logGroupName=place.log_group, logStreamName="worker", logEvents=told)

    return put


@pytest.fixture
def cloudwatch(place: CloudWatchPlace) -> CloudWatchLogs:
    return CloudWatchLogs(place=place)


@pytest.fixture
def asked(place: CloudWatchPlace) -> tuple[CloudWatchLogs, list[dict[str, Any]]]:
    """A store and the searches that its real client has sent."""
    sent: list[dict[str, Any]] = []

    def make(place: CloudWatchPlace) -> Any:
        client = client_of(place)
        client.meta.events.register(
            "before-parameter-build.cloudwatch-logs.StartQuery", lambda params, **_: sent.append(dict(params))
        )
        return client

    return CloudWatchLogs(place=place, make=make), sent
