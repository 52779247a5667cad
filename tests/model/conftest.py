"""The scripted model as a real process, and a way to put a script on it and see that it was used up."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from workers.model.openai_wire import OpenAIModel

REPOSITORY = Path(__file__).resolve().parents[2]
KEY = "sk-canary-0123456789"


class Rehearsal:
    """The running server's doors."""

    def __init__(self, *, base_url: str, client: httpx.AsyncClient) -> None:
        self.base_url = base_url
        self.client = client
        self.put_names: list[str] = []

    async def put(self, text: str) -> str:
        """Put a script; its turns must all be played by the end of the test."""
        name = text.split("name:", 1)[1].split()[0]
        answer = await self.client.put(f"/rehearsal/scripts/{name}", content=text)
        assert answer.status_code == 200, answer.text
        self.put_names.append(name)
        return name

    async def one_turn(self, name: str, turn: str) -> str:
        """Put a script of one turn, given in YAML's flow style; returns the user message that plays it."""
        turns = f"[{{expect: {{role: user}}, seconds_per_word: 0, {turn}}}]"
        return await self.put(f'name: {name}\nwhen: "^{name}$"\nturns: {turns}')

    async def record(self, name: str) -> dict:
        """What the report says of one script."""
        return (await self.client.get("/rehearsal/report", params={"script": name})).json()

    async def until_abandoned(self, name: str) -> None:
        """Return when the server has noticed that a reader hung up; fails after 5 s."""
        async with asyncio.timeout(5):
            # The fact is another process's: there is no event of ours to await.
            while not (await self.record(name))["scripts"][0]["abandoned"]:
                await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def rehearsal_address() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.local.rehearsal", "--port", "0"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("rehearsal ready on http://127.0.0.1:"), line
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()


@pytest.fixture(scope="session")
async def rehearsal_client(rehearsal_address: str) -> AsyncIterator[httpx.AsyncClient]:
    root = rehearsal_address.removesuffix("/v1")
    async with httpx.AsyncClient(base_url=root, trust_env=False, verify=False) as client:  # noqa: S501
        yield client


@pytest.fixture
async def rehearsal(rehearsal_address: str, rehearsal_client: httpx.AsyncClient) -> AsyncIterator[Rehearsal]:
    rehearsal = Rehearsal(base_url=rehearsal_address, client=rehearsal_client)
    yield rehearsal
    for name in rehearsal.put_names:
        assert (await rehearsal.record(name))["unused"] == {}


@pytest.fixture(scope="session")
async def model_at() -> AsyncIterator[Callable[..., OpenAIModel]]:
    """Build adapters that are closed at the end of the session."""
    built: list[OpenAIModel] = []

    def build(base_url: str, **settings: object) -> OpenAIModel:
        settings = {"name": "rehearsal", "api_key": KEY, "read_seconds": 5.0, **settings}
        built.append(OpenAIModel(base_url=base_url, **settings))
        return built[-1]

    yield build
    for model in built:
        await model.aclose()


@pytest.fixture(scope="session")
def model(rehearsal_address: str, model_at: Callable[..., OpenAIModel]) -> OpenAIModel:
    return model_at(rehearsal_address)
