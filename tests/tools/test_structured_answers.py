"""openai_api_call, structured: answers held against a schema, repaired once, and paid for whatever they are."""

import json
import threading
from typing import Any

import httpx
import pytest

from tests.support.bench import Bench
from tests.support.provider import ONE, PERSON, chat, completion, last_call, over, repairing, spent
from workers.tools import answer_schema


async def test_an_answer_beside_the_schema_is_repaired_once(bench: Bench) -> None:
    repaired, sent = repairing(bench, '{"name": "Ada"}', '{"name": "Ada", "age": 36}')
    before = await spent(bench)
    status, text = await repaired.use("openai_api_call", **{**chat("Who?"), "action": "structured"}, json_schema=PERSON)
    assert (status, json.loads(text)) == ("succeeded", {"name": "Ada", "age": 36})
    assert sent[0]["response_format"]["json_schema"]["schema"] == PERSON
    assert sent[1]["messages"][-2] == {"role": "assistant", "content": '{"name": "Ada"}'}
    assert "'age' is a required property" in sent[1]["messages"][-1]["content"]
    assert await spent(bench) == before + 2 * ONE


async def test_an_answer_is_validated_beside_the_event_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def noting(of: Any) -> Any:
        return lambda *given: threads.append(threading.current_thread()) or of(*given)

    monkeypatch.setattr(answer_schema, "checked", noting(answer_schema.checked))
    monkeypatch.setattr(answer_schema, "faults", noting(answer_schema.faults))
    answered, _ = repairing(bench, '{"name": "Ada", "age": 36}')
    await answered.use("openai_api_call", **{**chat("Who?"), "action": "structured"}, json_schema=PERSON)
    assert len(threads) == 2
    assert threading.current_thread() not in threads, "the pulse of other runs goes on meanwhile"


async def test_an_answer_that_cannot_be_reckoned_with_is_a_failure_with_its_own_cost(bench: Bench) -> None:
    odd, _ = repairing(bench, f'{{"a": {"9" * 4_000}}}')
    tenths = {"type": "object", "properties": {"a": {"multipleOf": 0.1}}}
    before = await spent(bench)
    status, text = await odd.use("openai_api_call", **{**chat("Who?"), "action": "structured"}, json_schema=tenths)
    assert (status, "cannot be held against the schema" in text) == ("failed", True), text
    assert await spent(bench) == before + 2 * ONE


@pytest.mark.parametrize(
    "answer", ["no JSON", "{}", "[]", '{"name": "Ada", "age": NaN}', "[" * 5_000, '{"name":1,"age":-1}']
)
async def test_an_answer_that_stays_wrong_is_a_failure_that_was_paid(bench: Bench, answer: str) -> None:
    wrong, sent = repairing(bench, answer)
    before = await spent(bench)
    status, text = await wrong.use("openai_api_call", **{**chat("Who?"), "action": "structured"}, json_schema=PERSON)
    assert status == "failed"
    assert "gave no answer of this schema, twice. At last: " in text
    assert len(sent) == 2
    assert await spent(bench) == before + 2 * ONE
    assert (await last_call(bench))["origin"] == "model rehearsal", "a fault repeats words of the other model"


async def test_a_refusal_of_an_answer_of_a_schema_is_data_too(bench: Bench) -> None:
    refusing = over(bench, lambda request: httpx.Response(200, json=completion("No.", refusal="Not I.")))
    asked = {**chat("Who?"), "action": "structured"}
    assert await refusing.use("openai_api_call", **asked, json_schema=PERSON) == ("failed", "rehearsal refused: No.")
    assert (await last_call(bench))["origin"] == "model rehearsal"


async def test_a_schema_that_could_do_harm_is_refused_unsent(bench: Bench) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise AssertionError("it was sent")

    harmful = {"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}}
    silent = over(bench, handle)
    status, text = await silent.use("openai_api_call", **{**chat("x"), "action": "structured"}, json_schema=harmful)
    assert (status, "pattern is not taken here" in text) == ("failed", True), text
