"""A provider of our own making behind the real client of openai_api_call, and what a call of it cost."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx

from tests.support.bench import Bench
from workers.kernel.prices import token_price
from workers.model.openai_api import OpenAIApi
from workers.model.openai_wire import OpenAIModel
from workers.model.retry import Retries

KEY = "sk-canary-of-this-test-0123456789"


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def chat(text: str, **more: Any) -> dict[str, Any]:
    """The arguments of a chat."""
    return {"action": "chat", "messages": [{"role": "user", "content": text}], "model": "rehearsal", **more}


async def spent(bench: Bench) -> Decimal:
    """What the run has cost."""
    return Decimal(
        (await bench.database.admin("select cost_usd from pam.runs where id = %s", bench.hold.run_id))[0]["cost_usd"]
    )


async def last_call(bench: Bench) -> dict[str, Any]:
    """The row of the newest call."""
    rows = await bench.database.admin(
        "select * from pam.tool_calls where run_id = %s order by step desc limit 1", bench.hold.run_id
    )
    return rows[0]


async def asking(bench: Bench) -> None:
    """From now on a person is asked before anything leaves."""
    await bench.database.admin(
        "update pam.runs set tainted_at = now(), taint = 'a page' where id = %s", bench.hold.run_id
    )


def repairing(bench: Bench, *answers: str) -> tuple[Bench, list[Any]]:
    """A bench whose real client speaks to a server of ours that gives these answers in turn."""
    sent: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json=completion(answers[min(len(sent), len(answers)) - 1]))

    return over(bench, handle), sent


def completion(text: str, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """An answer on the wire; it costs ONE."""
    said = {"role": "assistant", "content": text, **message}
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": "rehearsal",
        "choices": [{"index": 0, "message": said, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }  # fmt: skip


def over(bench: Bench, handle: Any, **settings: Any) -> Bench:
    """A bench whose provider is this handler, behind the real client and the real breaker."""
    wire = OpenAIModel(name="rehearsal", api_key=KEY, base_url="http://provider.example/v1")
    wire._client._client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    api = OpenAIApi(
        wire=wire,
        base_url=f"http://{uuid4().hex}.example/v1",
        models=("rehearsal",),
        retries=Retries(**{"max_attempts": 3, "total_seconds": 100, "base_pause_seconds": 0, **settings}),
    )
    return replace(bench, services=replace(bench.services, model_api=api))


ONE = token_price("rehearsal", input_tokens=1000, output_tokens=100)[0]
