"""openai_api_call with the real client over the wire of the rehearsal: every action, every failure, every cent."""

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra.local.facts import StackFacts
from tests.support.bench import Bench
from workers.kernel.prices import token_price
from workers.model.openai_api import OpenAIApi
from workers.model.openai_wire import OpenAIModel
from workers.tools import TOOLS, openai_api_call
from workers.tools.openai_api_call import Args, ceiling_usd

KEY = "sk-canary-of-this-test-0123456789"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
async def script(stack: StackFacts) -> Any:
    """Put a script on the stack's own model server; answers the user message that it plays to."""
    root = stack.rehearsal_url.removesuffix("/v1")
    names: list[str] = []

    async def put(*turns: str) -> str:
        name = f"tool-{uuid4().hex[:12]}"
        told = ", ".join(f"{{expect: {{role: user}}, seconds_per_word: 0, {turn}}}" for turn in turns)
        async with httpx.AsyncClient(base_url=root, trust_env=False) as client:
            text = f'name: {name}\nwhen: "^{name}$|Your answer does not fit.*{name}"\nturns: [{told}]'
            answer = await client.put(f"/rehearsal/scripts/{name}", content=text)
        assert answer.status_code == 200, answer.text
        names.append(name)
        return name

    yield put
    async with httpx.AsyncClient(base_url=root, trust_env=False) as client:
        for name in names:
            unused = (await client.get("/rehearsal/report", params={"script": name})).json()["unused"]
            assert unused == {}, name


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"action": "chat", "messages": [{"role": "user", "content": text}], "model": "rehearsal", **more}


async def spent(bench: Bench) -> Decimal:
    return Decimal(
        (await bench.database.admin("select cost_usd from pam.runs where id = %s", bench.hold.run_id))[0]["cost_usd"]
    )


async def last_call(bench: Bench) -> dict[str, Any]:
    rows = await bench.database.admin(
        "select * from pam.tool_calls where run_id = %s order by step desc limit 1", bench.hold.run_id
    )
    return rows[0]


async def test_a_chat_is_answered_and_charged_to_the_run(bench: Bench, script: Any) -> None:
    asked = await script('say: "Forty-two."')
    before = await spent(bench)
    assert await bench.use("openai_api_call", **chat(asked)) == ("succeeded", "Forty-two.")
    call = await last_call(bench)
    assert call["effect"] == "external"
    assert call["origin"] == "model rehearsal"
    assert call["cost_usd"] > 0
    assert await spent(bench) == before + call["cost_usd"]
    assert call["cost_usd"] <= ceiling_usd(Args.model_validate(chat(asked)), model="rehearsal")


async def test_an_answer_of_a_schema_comes_back_as_it_is(bench: Bench, script: Any) -> None:
    asked = await script('say: \'{"name": "Ada", "age": 36}\'')
    status, text = await bench.use("openai_api_call", **{**chat(asked), "action": "structured"}, json_schema=PERSON)
    assert (status, json.loads(text)) == ("succeeded", {"name": "Ada", "age": 36})


def repairing(bench: Bench, *answers: str) -> tuple[Bench, list[Any]]:
    """A bench whose real client speaks to a server of ours that gives these answers in turn."""
    sent: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json=_completion(answers[min(len(sent), len(answers)) - 1]))

    return _over(bench, handle), sent


def _completion(text: str, finish: str = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    return {
        "id": "c", "object": "chat.completion", "created": 0, "model": "rehearsal",
        "choices": [{"index": 0, "message": said, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }  # fmt: skip


def _over(bench: Bench, handle: Any, **settings: Any) -> Bench:
    """A bench whose provider is this handler, behind the real client and the real breaker."""
    wire = OpenAIModel(name="rehearsal", api_key=KEY, base_url="http://provider.example/v1")
    wire._client._client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    api = OpenAIApi(
        wire=wire, base_url=f"http://{uuid4().hex}.example/v1", models=("rehearsal",), base_pause_seconds=0, **settings
    )
    return replace(bench, services=replace(bench.services, model_api=api))


ONE = token_price("rehearsal", input_tokens=1000, output_tokens=100)[0]


async def test_an_answer_beside_the_schema_is_repaired_once(bench: Bench) -> None:
    repaired, sent = repairing(bench, '{"name": "Ada"}', '{"name": "Ada", "age": 36}')
    before = await spent(bench)
    status, text = await repaired.use("openai_api_call", **{**chat("Who?"), "action": "structured"}, json_schema=PERSON)
    assert (status, json.loads(text)) == ("succeeded", {"name": "Ada", "age": 36})
    assert sent[0]["response_format"]["json_schema"]["schema"] == PERSON
    assert sent[1]["messages"][-2] == {"role": "assistant", "content": '{"name": "Ada"}'}
    assert "'age' is a required property" in sent[1]["messages"][-1]["content"]
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


@pytest.mark.parametrize(
    ("completion", "told"),
    [
        (_completion("I must not.", "stop", refusal="I must not."), "rehearsal refused: I must not."),
        (_completion("", "content_filter"), "rehearsal refused: without a word"),
        (_completion(""), "The model gave an empty answer."),
        ({**_completion("x"), "choices": []}, "The model gave an empty answer."),
    ],
)
async def test_an_answer_that_is_none_is_told_and_charged(bench: Bench, completion: Any, told: str) -> None:
    failing = _over(bench, lambda request: httpx.Response(200, json=completion))
    before = await spent(bench)
    assert await failing.use("openai_api_call", **chat("x")) == ("failed", told)
    assert await spent(bench) == before + ONE


async def test_an_answer_that_was_cut_says_so(bench: Bench) -> None:
    cut = _over(bench, lambda request: httpx.Response(200, json=_completion("So far", "length")))
    status, text = await cut.use("openai_api_call", **chat("x", max_output_tokens=100))
    assert (status, text) == ("succeeded", "So far\n[cut at 100 tokens: ask for more, or for less]")
    cut = replace(await cut.beside(), services=cut.services)  # what has heard another model asks before more leaves
    status, text = await cut.use(
        "openai_api_call", **{**chat("x", max_output_tokens=100), "action": "structured"}, json_schema=PERSON
    )
    assert (status, text) == ("failed", "The answer did not fit into 100 tokens.")


async def test_texts_become_vectors_in_their_order(bench: Bench) -> None:
    status, text = await bench.use(
        "openai_api_call", action="embeddings", texts=["cat" * 99, "dog", "cat" * 99], dimensions=16
    )
    head, *lines = text.splitlines()
    assert (status, head) == ("succeeded", "3 vectors of 16 numbers, one a line in the order of the texts")
    vectors = [json.loads(line) for line in lines]
    assert vectors[0] == vectors[2] != vectors[1]
    assert (await last_call(bench))["cost_usd"] > 0


async def test_texts_are_judged(bench: Bench) -> None:
    status, text = await bench.use("openai_api_call", action="moderation", texts=["a nice day", "violence and hate"])
    head, first, second = text.splitlines()
    assert (status, head) == ("succeeded", "1 of 2 texts are flagged")
    assert not json.loads(first)["flagged"]
    assert json.loads(second)["scores"]["violence"] > 0.9
    assert (await last_call(bench))["cost_usd"] == 0


async def test_a_recording_is_spoken_into_the_workspace_and_heard_again(bench: Bench) -> None:
    said = await bench.use("openai_api_call", action="speech", path="audio/hello.mp3", text="Good morning, team.")
    assert said == ("succeeded", "audio/hello.mp3 is written, version 1, 29 bytes of mp3.")
    assert (await last_call(bench))["cost_usd"] == Decimal("0.000570")
    heard = await bench.use("openai_api_call", action="transcription", path="audio/hello.mp3", language="en")
    assert heard == ("succeeded", "Good morning, team.")
    call = await last_call(bench)
    assert (call["origin"], call["cost_usd"]) == ("recording audio/hello.mp3", Decimal("0.000100"))
    bench = await bench.beside()
    again = await bench.use("openai_api_call", action="speech", path="audio/hello.mp3", text="Good evening.")
    assert again[1].startswith("audio/hello.mp3 is written, version 2")


async def test_a_person_sees_all_that_would_leave(bench: Bench) -> None:
    await bench.database.admin(
        "update pam.runs set tainted_at = now(), taint = 'a page' where id = %s", bench.hold.run_id
    )
    _, ask = await bench.asked("openai_api_call", **chat("the secret plan"))
    assert ask.shown is not None
    assert ask.shown.endswith("(chat):\nuser: the secret plan")


@pytest.mark.parametrize(
    ("status", "headers", "told", "tries"),
    [
        (401, {}, "does not accept our key: check OPENAI_API_KEY", 1),
        (403, {}, "Our key may not use the model rehearsal", 1),
        (404, {}, "There is no model rehearsal here", 1),
        (400, {}, "refuses this request (400)", 1),
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

    failing = _over(bench, handle)
    before = await spent(bench)
    outcome, text = await failing.use("openai_api_call", **chat("x"))
    assert (outcome, told in text) == ("failed", True), text
    assert len(asked) == tries, "one level of retries, and none of the client's own"
    assert KEY not in str(await bench.database.admin("select result, payload from pam.tool_calls, pam.events"))
    assert await spent(bench) == before


@pytest.mark.parametrize("answer", [b"no JSON", b"[]", b'{"choices": 7}', b'{"choices": [{"message": null}]}', b""])
async def test_an_answer_of_another_shape_breaks_nothing(bench: Bench, answer: bytes) -> None:
    odd = _over(
        bench, lambda request: httpx.Response(200, content=answer, headers={"content-type": "application/json"})
    )
    status, text = await odd.use("openai_api_call", **chat("x"))
    assert (status, "broke inside" in text) == ("failed", False), text


async def test_a_silent_provider_is_told_and_charged_as_sent(bench: Bench) -> None:
    asked: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        raise httpx.ReadTimeout("silent", request=request)

    before = await spent(bench)
    status, text = await _over(bench, handle).use("openai_api_call", **chat("x" * 30_000))
    assert (status, "silent" in text) == ("failed", True)
    assert len(asked) == 1, "what may have been billed is not sent again"
    assert await spent(bench) > before, "nobody saw the bill: what was sent is counted"


async def test_a_provider_that_keeps_failing_is_left_alone(bench: Bench) -> None:
    asked: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(503, json={"error": {"message": "away"}})

    failing = _over(bench, handle, max_attempts=1)
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


async def test_a_call_that_the_run_cannot_pay_is_refused_before_it_is_sent(bench: Bench) -> None:
    status, text = await bench.use("openai_api_call", **chat("x", max_output_tokens=16_000, model="rehearsal-small"))
    assert status != "refused" or "budget" not in text
    await bench.database.admin("update pam.runs set max_cost_usd = 0.001 where id = %s", bench.hold.run_id)
    status, text = await bench.use("openai_api_call", **chat("x", max_output_tokens=16_000, model="rehearsal-small"))
    assert (status, "This call may cost up to $" in text) == ("refused", True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"action": "chat"}, "chat needs messages."),
        ({"action": "structured", "messages": [{"role": "user", "content": "x"}]}, "structured needs json_schema."),
        ({"action": "embeddings"}, "embeddings needs texts."),
        ({"action": "speech", "text": "x"}, "speech needs path."),
        ({"action": "moderation", "texts": ["x"], "path": "a.mp3"}, "path does not belong to moderation."),
        (chat("x", dimensions=8), "dimensions does not belong to chat."),
        ({"action": "chat", "messages": [{"role": "assistant", "content": "x"}]}, "The last message is the user's: it is what gets answered."),
        ({"action": "transcription", "path": "a.txt"}, "The name of a recording ends in one of"),
        ({"action": "transcription", "path": "absent.mp3"}, "There is no file absent.mp3."),
        ({"action": "transcription", "path": "../a.mp3"}, "Only files of the workspace can be reached."),
        ({"action": "speech", "path": "a.exe", "text": "x"}, "The path of a recording ends in"),
        (chat("x", model="gpt-unheard-of"), "is not among those allowed here: rehearsal, rehearsal-small."),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_said(bench: Bench, arguments: dict[str, Any], told: str) -> None:
    status, text = await bench.use("openai_api_call", **arguments)
    assert status in ("failed", "refused")
    assert told in text


def test_the_ceiling_knows_the_usual_model() -> None:
    asked = Args.model_validate(chat("x", model=None))
    own = next(tool for tool in openai_api_call.priced(TOOLS, model="rehearsal") if tool.name == "openai_api_call")
    assert own.ceiling_usd is not None
    assert own.ceiling_usd(asked) == ceiling_usd(asked, model="rehearsal") < ceiling_usd(asked)
    minutes = Args.model_validate({"action": "transcription", "path": "a.mp3", "max_minutes": 10})
    assert ceiling_usd(minutes) == Decimal("0.06")


async def test_a_recording_longer_than_was_said_is_not_sent(bench: Bench) -> None:
    await bench.use("openai_api_call", action="speech", path="a.mp3", text="x" * 4_000)
    await bench.database.admin("select 1")
    long = "y" * 70_000
    await bench.use("file_write", path="long.mp3", content=long)
    status, text = await bench.use("openai_api_call", action="transcription", path="long.mp3", max_minutes=1)
    assert (status, text) == ("failed", "long.mp3 may be longer than 1 minutes: give a higher max_minutes.")


async def test_a_schema_that_could_do_harm_is_refused_unsent(bench: Bench) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise AssertionError("it was sent")

    harmful = {"type": "object", "properties": {"a": {"pattern": "(a+)+$"}}}
    silent = _over(bench, handle)
    status, text = await silent.use("openai_api_call", **{**chat("x"), "action": "structured"}, json_schema=harmful)
    assert (status, "pattern is not taken here" in text) == ("failed", True), text


async def test_what_the_wire_does_not_know_is_refused_by_the_rehearsal(stack: StackFacts) -> None:
    async with httpx.AsyncClient(base_url=stack.rehearsal_url, trust_env=False) as client:
        key = {"authorization": "Bearer x"}
        for path in ("moderations", "audio/transcriptions", "audio/speech"):
            assert (await client.post(f"/{path}", json={})).status_code == 401
            assert (await client.post(f"/{path}", json={}, headers=key)).status_code == 400
        odd = {"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema"}}
        assert (await client.post("/chat/completions", json=odd, headers=key)).status_code == 400
        told = {"model": "m", "input": "rehearse an error 503"}
        for path in ("moderations", "embeddings"):
            assert (await client.post(f"/{path}", json=told, headers=key)).status_code == 503
