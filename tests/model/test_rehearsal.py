"""The scripted model, proved with the real client library of what it stands for."""

import base64
import math
import struct
import subprocess
import sys
from pathlib import Path

import openai
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = {"type": "function", "function": {"name": "file_list", "parameters": {"type": "object"}}}


@pytest.fixture(scope="session")
async def client(rehearsal_address):
    async with openai.AsyncOpenAI(api_key="any", base_url=rehearsal_address, max_retries=0) as client:
        yield client


def user(text):
    return {"role": "user", "content": text}


async def say(client, *messages, **more):
    answer = await client.chat.completions.create(model="rehearsal", messages=messages, **more)
    return answer.choices[0].message


def result(call, text):
    return {"role": "tool", "tool_call_id": call.id, "content": text}


CONVERSATION = """
name: slow-list
when: "slow-list"
turns:
  - expect: {role: user, contains: ["slow-list"], tools: [file_list]}
    say: "I will look first."
    call: [{file_list: {pattern: "**/*"}}, {database_query: {sql: "select 1"}}]
  - expect: {role: tool, result_of: file_list, capture: {path: '(app/\\S+\\.py)', number: '\\d+'}}
    say: "Reading {path}."
    call: [{file_read: {path: "{path}", lines: [1, "{number}"], note: "/items/{item_id}"}}]
  - expect: {role: tool, contains: ["content of {path}"]}
    say: "It is {path}."
"""


async def test_a_script_plays_over_three_turns_with_what_it_really_met(rehearsal, client):
    await rehearsal.put(CONVERSATION)
    asked = [{"role": "system", "content": "Be brief."}, user("why is slow-list slow?")]
    first = await say(client, *asked, tools=[TOOL])
    assert first.content == "I will look first."
    files, rows = first.tool_calls
    assert files.function.arguments == '{"pattern": "**/*"}'
    asked += [first, result(rows, "app/decoy.py 7"), result(files, "app/routes.py 42")]
    second = await say(client, *asked, tools=[TOOL])
    assert second.content == "Reading app/routes.py."
    expected = '{"path": "app/routes.py", "lines": [1, "42"], "note": "/items/{item_id}"}'
    assert second.tool_calls[0].function.arguments == expected
    asked += [second, result(second.tool_calls[0], "content of app/routes.py")]
    third = await say(client, *asked, tools=[TOOL])
    assert third.content == "It is app/routes.py."
    report = await rehearsal.record("slow-list")
    assert report["scripts"] == [
        {
            "name": "slow-list",
            "turns": 3,
            "begun": 1,
            "furthest": 3,
            "played": [1, 1, 1],
            "abandoned": 0,
        }
    ]
    assert report["unexpected"] == []


async def test_the_same_step_asked_again_gets_the_same_answer(rehearsal, client):
    name = await rehearsal.one_turn("same-again", 'say: "Here.", call: [{file_list: {}}]')
    first, again = await say(client, user(name)), await say(client, user(name))
    assert first == again
    other = await say(client, {"role": "system", "content": "another run"}, user(name))
    assert other.tool_calls[0].id != first.tool_calls[0].id


async def test_a_later_user_message_begins_another_script(rehearsal, client):
    await rehearsal.one_turn("first-topic", 'say: "one"')
    await rehearsal.one_turn("second-topic", 'say: "two"')
    first = await say(client, user("first-topic"))
    second = await say(client, user("first-topic"), first, user("second-topic"))
    assert (first.content, second.content) == ("one", "two")


async def test_streams_come_in_deltas_with_usage_as_the_client_expects(rehearsal, client):
    name = await rehearsal.one_turn("in-deltas", 'say: "One two.", call: [{file_list: {pattern: "*.py"}}]')
    stream = await client.chat.completions.create(
        model="rehearsal", messages=[user(name)], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert [delta.content for delta in deltas if delta.content] == ["One ", "two."]
    parts = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert len(parts) > 2
    assert "".join(part.function.arguments for part in parts) == '{"pattern": "*.py"}'
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    # three for the message and ceil(9 / 4) for its text; ceil(8 / 4) said, ceil(27 / 4) called
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (6, 9)


async def test_the_clients_own_stream_helper_understands_us(rehearsal, client):
    name = await rehearsal.one_turn("helper", 'say: "Hi there.", call: [{file_list: {pattern: "*"}}]')
    async with client.chat.completions.stream(model="rehearsal", messages=[user(name)]) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hi there."
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"pattern": "*"}'


async def refusal(client, *messages, kind=openai.BadRequestError, **more):
    with pytest.raises(kind) as caught:
        await say(client, *messages, **more)
    return caught.value


async def test_an_unexpected_meeting_is_refused_and_reported(rehearsal, client):
    await rehearsal.put("""
name: strict-one
when: "strict-one"
turns:
  - {expect: {role: user, contains: [please], tools: [file_list]}, call: [{file_list: {}}]}
  - {expect: {role: tool, capture: {path: "app/(.*)"}}, say: "{path}"}
""")
    error = await refusal(client, user("strict-one now"), tools=[TOOL])
    assert error.code == "rehearsal_unexpected"
    assert "strict-one, turn 1 of 2: expected a user message with 'please'" in error.message
    assert "strict-one now" in error.message
    assert "on offer: none" in (await refusal(client, user("strict-one please"))).message
    first = await say(client, user("strict-one please"), tools=[TOOL])
    called = [user("strict-one please"), first]
    assert "nothing after the last assistant" in (await refusal(client, *called)).message
    error = await refusal(client, *called, result(first.tool_calls[0], "lib/x"))
    assert "path = /app/(.*)/" in error.message
    answered = [*called, result(first.tool_calls[0], "app/x")]
    second = await say(client, *answered)
    assert second.content == "x"
    error = await refusal(client, *answered, second)
    assert "turn 3 of 2: expected no turn after its 2" in error.message
    entries = (await rehearsal.record("strict-one"))["unexpected"]
    assert [entry["turn"] for entry in entries] == [1, 1, 2, 2, 3]


async def test_turns_never_played_are_listed(rehearsal, client):
    text = CONVERSATION.replace("slow-list", "half-played")
    await rehearsal.put(text)
    rehearsal.put_names.clear()
    await say(client, user("half-played"), tools=[TOOL])
    assert (await rehearsal.record("half-played"))["unused"] == {"half-played": [2, 3]}


async def test_a_capture_whose_message_is_gone_is_told(rehearsal, client):
    await rehearsal.put("""
name: forgetful
when: "forgetful"
turns:
  - {expect: {role: user, capture: {word: "word=(\\\\w+)"}}, call: [{file_list: {}}]}
  - {expect: {role: tool}, say: "{word}"}
""")
    first = await say(client, user("forgetful word=kept"))
    answer = result(first.tool_calls[0], "x")
    assert (await say(client, user("forgetful word=kept"), first, answer)).content == "kept"
    error = await refusal(client, user("forgetful"), first, answer)
    assert "{word} from an earlier turn" in error.message


async def test_no_script_and_two_that_fit_equally_are_refused(rehearsal, client):
    error = await refusal(client, user("zebra crossing"))
    assert error.code == "rehearsal_no_script"
    assert "zebra crossing" in error.message
    for name in ("equal-a", "equal-b"):
        await rehearsal.put(f"name: {name}\nwhen: even\nturns: [{{expect: {{role: user}}, say: x}}]")
    rehearsal.put_names.clear()
    error = await refusal(client, user("EVEN or odd"))
    assert "equal-a and equal-b fit equally" in error.message
    await rehearsal.put("name: longer\nwhen: even or\nturns: [{expect: {role: user}, say: longest}]")
    assert (await say(client, user("even or odd"))).content == "longest"


async def test_a_model_that_never_stops_calling(rehearsal, client):
    await rehearsal.put("""
name: restless
when: restless
repeat_last: true
turns:
  - {expect: {role: user}, call: [{file_list: {}}]}
  - {expect: {role: tool}, call: [{file_list: {}}]}
""")
    messages, ids = [user("restless")], set()
    for _ in range(6):
        message = await say(client, *messages)
        ids.add(message.tool_calls[0].id)
        messages += [message, result(message.tool_calls[0], "more")]
    assert len(ids) == 6
    assert (await rehearsal.record("restless"))["scripts"][0]["played"] == [1, 5]


async def test_a_limited_failure_ends_and_each_conversation_has_its_own(rehearsal, client):
    name = await rehearsal.one_turn("limited", 'say: "ok", fail: {status: 429, retry_after: 1, times: 2}')
    for _ in range(2):
        error = await refusal(client, user(name), kind=openai.RateLimitError)
        assert error.response.headers["retry-after"] == "1"
    assert (await say(client, user(name))).content == "ok"
    other = {"role": "system", "content": "another conversation"}
    await refusal(client, other, user(name), kind=openai.RateLimitError)


async def test_without_a_key_and_off_the_path_the_errors_have_openais_shape(rehearsal, client):
    for path in ("/v1/models", "/v1/chat/completions", "/v1/embeddings"):
        answer = await rehearsal.client.request("GET" if path == "/v1/models" else "POST", path)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    answer = await rehearsal.client.get("/v1/nowhere")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="rehearsal", input="x")
    error = await refusal(client, {"role": "user", "content": 5})
    assert "messages.0.content" in error.message


async def test_models_are_listed(client):
    assert [model.id async for model in client.models.list()] == ["rehearsal", "rehearsal-small"]


async def test_embeddings_are_stable_unit_vectors_and_near_for_like_texts(client):
    texts = ["the members list is slow", "why is the list of members slow", "bake bread with rye"]
    answer = await client.embeddings.create(model="rehearsal", input=texts)
    one, like, other = (item.embedding for item in answer.data)
    assert len(one) == 384
    assert math.isclose(math.hypot(*one), 1.0, abs_tol=1e-5)
    assert dot(one, like) > 0.5 > 0.2 > dot(one, other)
    alone = await client.embeddings.create(model="rehearsal", input=texts[0], encoding_format="float")
    assert alone.data[0].embedding == pytest.approx(one, abs=1e-6)
    small = await client.embeddings.create(model="rehearsal", input="x", dimensions=16)
    assert len(small.data[0].embedding) == 16
    with pytest.raises(openai.BadRequestError, match="empty"):
        await client.embeddings.create(model="rehearsal", input=["x", ""])


async def test_base64_embeddings_are_little_endian_floats(rehearsal):
    body = {"model": "m", "input": "hello", "encoding_format": "base64"}
    headers = {"authorization": "Bearer any"}
    answer = await rehearsal.client.post("/v1/embeddings", json=body, headers=headers)
    packed = base64.b64decode(answer.json()["data"][0]["embedding"])
    assert math.isclose(math.hypot(*struct.unpack("<384f", packed)), 1.0, abs_tol=1e-5)


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nwhen: a\nturn: []", "line 3: turn: unknown key"),
        ("name: x\nwhen: a\nturns:\n- expect: {role: user, contain: [a]}", "line 4: turns.0.expect.contain"),
        ("name: x\nwhen: a\nturns:\n  - expect: {role: user}", "a turn needs say"),
        ("name: x\nwhen: '('\nturns: [{expect: {role: user}, say: b}]", "no regular expression"),
        ("name: x\nwhen: a\nturns: [{expect: {role: user}, say: 5}]", "turns.0.say"),
        ("name: x\nwhen: a\nturns: [{expect: {role: user}, cut: tool_call, say: b}]", "needs a call"),
        ("name: x\nwhen: a\nturns: [{expect: {role: user}, call: [{t: {d: 2026-01-01}}]}]", "turns.0.call.0"),
        ("name: y\nwhen: a\nturns: [{expect: {role: user}, say: b}]", "calls itself y"),
        ("name: [", "this is no YAML"),
    ],
)  # fmt: skip
async def test_a_faulty_script_is_refused_with_its_line_and_field(rehearsal, text, said):
    answer = await rehearsal.client.put("/rehearsal/scripts/x", content=text)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert (await rehearsal.client.get("/rehearsal/report", params={"script": "x"})).status_code == 404


def test_the_server_does_not_start_with_a_faulty_folder(tmp_path):
    (tmp_path / "bad.yaml").write_text("name: x\nwhen: a\nturns: []\n")
    command = [sys.executable, "-m", "infra.local.rehearsal", "--port", "0", "--scripts", str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "bad.yaml, line 3: turns:" in ended.stderr
    assert "Traceback" not in ended.stderr
