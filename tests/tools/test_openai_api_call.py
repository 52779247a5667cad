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
from tests.support.provider import PERSON, asking, chat, completion, last_call, over, spent
from workers.kernel.ledger import files
from workers.tools import TOOLS, openai_api_call
from workers.tools.openai_api_call import Args, ceiling_usd


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


async def test_an_answer_that_was_cut_says_so(bench: Bench) -> None:
    cut = over(bench, lambda request: httpx.Response(200, json=completion("So far", "length")))
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


async def test_a_recording_is_overwritten_only_by_who_names_its_version(bench: Bench) -> None:
    asked: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, content=b"sound", headers={"content-type": "audio/mpeg"})

    speaking = over(bench, handle)
    recording = {"action": "speech", "path": "a.mp3", "text": "Good morning."}
    assert (await speaking.use("openai_api_call", **recording))[0] == "succeeded"
    exists = "a.mp3 exists already, at version 1: give version=1 to overwrite it."
    assert await speaking.use("openai_api_call", **recording) == ("failed", exists)
    other = "a.mp3 is at version 1, not 2: look at it again and decide anew."
    assert await speaking.use("openai_api_call", **recording, version=2) == ("failed", other)
    absent = "b.mp3 is at version 0, not 1: look at it again and decide anew."
    assert await speaking.use("openai_api_call", **{**recording, "path": "b.mp3"}, version=1) == ("failed", absent)
    assert len(asked) == 1, "nothing is spoken for a file that it cannot be kept in"
    told = await speaking.use("openai_api_call", **recording, version=1)
    assert told == ("succeeded", "a.mp3 is written, version 2, 5 bytes of mp3.")
    await asking(bench)
    status, text = await speaking.use("openai_api_call", **recording)
    assert (status, "exists already, at version 2" in text) == ("failed", True), "nobody is asked for it either"
    _, ask = await speaking.asked("openai_api_call", **recording, version=2)
    assert "and write the recording to a.mp3, over its version 2:\nGood morning." in (ask.shown or "")
    rows = await bench.database.admin(
        "select payload -> 'value' as told from pam.events where run_id = %s and payload ->> 'name' = 'pam.file_changed'"
        " order by payload #> '{value,version}'",
        bench.hold.run_id,
    )
    assert [row["told"]["version"] for row in rows] == [1, 2]
    assert rows[0]["told"]["diff"] == "--- a/a.mp3\n+++ b/a.mp3\n[binary: 5 bytes of mp3]"


async def test_a_recording_that_somebody_changed_meanwhile_is_not_overwritten(bench: Bench) -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        await files.write(bench.hold, None, "a.mp3", b"theirs", expected_version=0)
        return httpx.Response(200, content=b"sound", headers={"content-type": "audio/mpeg"})

    status, _ = await over(bench, handle).use("openai_api_call", action="speech", path="a.mp3", text="Good morning.")
    assert status == "failed"
    assert (await files.read(bench.hold, "a.mp3")).content == b"theirs"
    assert (await last_call(bench))["cost_usd"] > 0


async def test_a_person_sees_all_that_would_leave(bench: Bench) -> None:
    await asking(bench)
    _, ask = await bench.asked("openai_api_call", **chat("the secret plan"))
    assert ask.shown is not None
    assert ask.shown.endswith("(chat, model rehearsal, max_output_tokens 1000):\nuser: the secret plan")
    hidden = {"type": "object", "description": "the secret in a schema", "properties": {"ä": {"const": "and here"}}}
    _, ask = await bench.asked("openai_api_call", **{**chat("Hello"), "action": "structured"}, json_schema=hidden)
    assert ask.shown is not None
    head, _, schema = ask.shown.partition("\njson_schema: ")
    assert head.endswith("(structured, model rehearsal, max_output_tokens 1000):\nuser: Hello")
    assert json.loads(schema) == hidden
    assert '"ä"' in schema


async def test_a_person_sees_which_language_and_voice_would_be_sent(bench: Bench) -> None:
    await bench.use("openai_api_call", action="speech", path="a.mp3", text="Guten Tag.")
    await asking(bench)
    _, ask = await bench.asked("openai_api_call", action="transcription", path="a.mp3", language="de")
    assert "(transcription, language de): the recording a.mp3, version 1" in (ask.shown or "")
    _, ask = await bench.asked("openai_api_call", action="speech", path="b.mp3", text="Guten Abend.", voice="nova")
    assert "(speech, voice nova), and write the recording to b.mp3:\nGuten Abend." in (ask.shown or "")
    _, ask = await bench.asked("openai_api_call", action="embeddings", texts=["cat"], dimensions=8)
    assert (ask.shown or "").endswith("(embeddings, dimensions 8): 1 texts\ncat")


async def test_nobody_is_asked_about_more_than_can_be_shown(bench: Bench) -> None:
    await asking(bench)
    texts = ["x" * 60_000, "y" * 60_000]
    status, text = await bench.use("openai_api_call", action="embeddings", texts=texts)
    assert (status, "characters long: do it in smaller calls." in text) == ("failed", True), text
    _, ask = await bench.asked("openai_api_call", action="embeddings", texts=["x" * 60_000, "y" * 39_900])
    assert (ask.shown or "").endswith("y" * 39_900), "and what is asked is shown whole"
    status, text = await bench.use("openai_api_call", **chat("x", model="gpt-unheard-of"))
    assert (status, "is not among those allowed here" in text) == ("refused", True)


async def test_a_call_that_the_run_cannot_pay_is_refused_before_it_is_sent(bench: Bench) -> None:
    _, text = await bench.use("openai_api_call", **chat("x", max_output_tokens=16_000, model="rehearsal-small"))
    assert "may cost up to" not in text
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
