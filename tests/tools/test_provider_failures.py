"""openai_api_call when its provider fails: one sentence, no secret, no repeat of what was billed, every cent."""

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from tests.support.provider import KEY, ONE, chat, completion, last_call, over, spent
from workers.tools.openai_api_call import Args, ceiling_usd


@pytest.mark.parametrize(
    ("completion", "told", "origin"),
    [
        (
            completion("I must not.", "stop", refusal="I must not."),
            "rehearsal refused: I must not.",
            "model rehearsal",
        ),
        (completion("", "content_filter"), "rehearsal refused: without a word", None),
        (completion(""), "The model gave an empty answer.", None),
        ({**completion("x"), "choices": []}, "The model gave an empty answer.", None),
    ],
)
async def test_an_answer_that_is_none_is_told_and_charged(
    bench: Bench, completion: Any, told: str, origin: str | None
) -> None:
    failing = over(bench, lambda request: httpx.Response(200, json=completion))
    before = await spent(bench)
    assert await failing.use("openai_api_call", **chat("x")) == ("failed", told)
    assert await spent(bench) == before + ONE
    assert (await last_call(bench))["origin"] == origin, "another model's words are data, of a refusal too"


@pytest.mark.parametrize(
    ("status", "headers", "told", "tries"),
    [
        (401, {}, "does not accept our key: check OPENAI_API_KEY", 1),
        (403, {}, "Our key may not use the model rehearsal", 1),
        (404, {}, "There is no model rehearsal here", 1),
        (400, {}, "refuses this request (400); it says: Error code: 400", 1),
        (429, {"retry-after": "0"}, "asks us to slow down", 3),
        (500, {}, "failed with status 500", 3),
        (529, {}, "failed with status 529", 3),
        (429, {"retry-after": "3600"}, "asks us to slow down", 1),
    ],
)
async def test_what_goes_wrong_is_one_sentence_without_the_key(
    bench: Bench, status: int, headers: dict[str, str], told: str, tries: int
) -> None:
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        error = {"message": f"Incorrect API key provided: {KEY}", "type": "x", "param": None, "code": None}
        return httpx.Response(status, headers=headers, json={"error": error})

    failing = over(bench, handle)
    before = await spent(bench)
    outcome, text = await failing.use("openai_api_call", **chat("x"))
    assert (outcome, told in text) == ("failed", True), text
    assert len(asked) == tries, "one level of retries, and none of the client's own"
    assert KEY not in str(await bench.database.admin("select result, payload from pam.tool_calls, pam.events"))
    assert await spent(bench) == before
    assert (await last_call(bench))["origin"] == ("model rehearsal" if "it says: " in text else None)


@pytest.mark.parametrize(
    "answer",
    [
        b"no JSON",
        b"[]",
        b"null",
        b'{"choices": 7}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"usage": {"prompt_tokens": -9, "completion_tokens": 1}}',
        b"",
    ],
)
async def test_an_answer_of_another_shape_breaks_nothing_and_costs_what_it_may(bench: Bench, answer: bytes) -> None:
    odd = over(bench, lambda request: httpx.Response(200, content=answer, headers={"content-type": "application/json"}))
    before = await spent(bench)
    asked = chat("four", max_output_tokens=500)
    status, text = await odd.use("openai_api_call", **asked)
    assert (status, "broke inside" in text) == ("failed", False), text
    assert await spent(bench) == before + ceiling_usd(Args.model_validate(asked)), "a 200 is billed, readable or not"


async def test_an_answer_of_another_shape_that_tells_its_usage_costs_that(bench: Bench) -> None:
    odd = over(bench, lambda request: httpx.Response(200, json={**completion("x"), "choices": 7}))
    before = await spent(bench)
    status, text = await odd.use("openai_api_call", **chat("x"))
    assert (status, text) == ("failed", "The provider answered in a shape that we do not know.")
    assert await spent(bench) == before + ONE


ODD = "rehearse a malformed answer"


@pytest.mark.parametrize(
    ("arguments", "cost_usd"),
    [
        ({"action": "embeddings", "texts": [f"{ODD} without usage"]}, None),
        ({"action": "embeddings", "texts": [ODD]}, "0.000001"),
        ({"action": "speech", "path": "a.mp3", "text": ODD}, None),
        ({"action": "transcription", "path": "told.mp3"}, "0.000100"),
        ({"action": "transcription", "path": "untold.mp3"}, "0.000005"),
    ],
)
async def test_a_malformed_answer_is_billed(bench: Bench, arguments: dict[str, Any], cost_usd: str | None) -> None:
    await bench.use("file_write", path="told.mp3", content=f"REHEARSAL:{ODD}")
    await bench.use("file_write", path="untold.mp3", content=f"REHEARSAL:{ODD} without usage")
    status, text = await bench.use("openai_api_call", **arguments)
    assert status == "failed", text
    charged = (await last_call(bench))["cost_usd"]
    ceiling = ceiling_usd(Args.model_validate(arguments))
    assert 0 < charged <= ceiling
    assert charged == (round(ceiling, 6) if cost_usd is None else Decimal(cost_usd))


async def test_an_answer_that_broke_off_is_billed_and_not_asked_for_again(bench: Bench, stack: StackFacts) -> None:
    name = f"cut-{uuid4().hex[:12]}"
    async with httpx.AsyncClient(base_url=stack.rehearsal_url.removesuffix("/v1"), trust_env=False) as client:
        script = f"name: {name}\nwhen: ^{name}$\nturns: [{{expect: {{role: user}}, say: one two, cut: text}}]"
        assert (await client.put(f"/rehearsal/scripts/{name}", content=script)).status_code == 200
        asked = chat(name, max_output_tokens=500)
        status, text = await bench.use("openai_api_call", **asked)
        report = (await client.get("/rehearsal/report", params={"script": name})).json()
    assert (status, text) == ("failed", "The model's answer broke off: the connection was lost.")
    assert report["scripts"][0]["played"] == [1], "what was billed is not asked for again"
    assert (await last_call(bench))["cost_usd"] == round(ceiling_usd(Args.model_validate(asked)), 6)


async def test_a_silent_provider_is_told_and_charged_as_sent(bench: Bench) -> None:
    asked: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise httpx.ReadTimeout("silent", request=request)

    before = await spent(bench)
    status, text = await over(bench, handle).use("openai_api_call", **chat("x" * 30_000))
    assert (status, "silent" in text) == ("failed", True)
    assert len(asked) == 1, "what may have been billed is not sent again"
    assert await spent(bench) > before, "nobody saw the bill: what was sent is counted"


async def test_a_provider_that_keeps_failing_is_left_alone(bench: Bench) -> None:
    asked: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(503, json={"error": {"message": "away"}})

    failing = over(bench, handle, max_attempts=1)
    for _ in range(5):
        assert "status 503" in (await failing.use("openai_api_call", **chat("x")))[1]
    status, text = await failing.use("openai_api_call", **chat("x"))
    assert (status, "has failed again and again: try it again in" in text) == ("failed", True)
    assert len(asked) == 5
    other = await bench.elsewhere()
    elsewhere = replace(other, services=replace(other.services, model_api=failing.services.model_api))
    assert "status 503" in (await elsewhere.use("openai_api_call", **chat("x")))[1], (
        "no organisation shuts another's way"
    )
