"""The adapter against a real HTTP server that errs in every way a model's server can."""

import asyncio
import json
import socket
import traceback
from contextlib import aclosing

import pytest

from workers.model.failures import (
    ContextTooLong,
    MalformedAnswer,
    ModelFailure,
    ModelOverloaded,
    ModelRateLimited,
    ModelRefusedRequest,
    ModelTimeout,
    ModelUnreachable,
)
from workers.model.openai_chunks import MAX_ANSWER_CHARACTERS, Chunk, OpenAnswer
from workers.model.protocol import Allowance, Answer, Finish, Message, Role, TextDelta, ToolSpec

FILE_READ = ToolSpec("file_read", "Read a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
KEY = "sk-canary-0123456789"


async def ask(model, user, *, tools=(), history=()) -> tuple[list[str], Answer]:
    """All deltas and the answer; checks that the answer comes once, last, and is its deltas joined."""
    messages = [Message(Role.SYSTEM, "You are a test."), Message(Role.USER, user), *history]
    items = [item async for item in model.stream(messages, tools, allowed=Allowance(200))]
    *deltas, answer = items
    assert isinstance(answer, Answer)
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    assert "".join(delta.text for delta in deltas) == answer.text
    return [delta.text for delta in deltas], answer


async def failure_of(model, user) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        await ask(model, user)
    failure = caught.value
    told = "".join(traceback.format_exception(failure))
    assert KEY not in told
    assert KEY not in repr(failure.__dict__)
    chain = [failure.__cause__, failure.__context__]
    assert chain == [None, None], "a failure must not carry the library's error: its request holds the key"
    assert str(failure).endswith(".") or ": " in str(failure)
    return failure


async def test_text_comes_in_pieces_and_then_whole_with_usage(rehearsal, model):
    user = await rehearsal.one_turn("plain-text", 'say: "One two three."')
    deltas, answer = await ask(model, user)
    assert deltas == ["One ", "two ", "three."]
    assert answer.finish is Finish.STOP
    assert answer.model == "rehearsal"
    assert answer.usage.output_tokens == 4
    assert answer.usage.input_tokens > 0
    assert not answer.usage.is_estimated
    assert answer.lost_usage is None


async def test_a_tool_is_called_and_its_result_is_answered(rehearsal, model):
    user = await rehearsal.put("""
name: read-then-tell
when: "^read-then-tell$"
turns:
  - expect: {role: user, tools: [file_read]}
    say: "Reading."
    call: [{file_read: {path: "a \\"quoted\\" café.py"}}, {file_read: {path: "b.py"}}]
  - expect: {role: tool, result_of: file_read, contains: ["size 12"], capture: {size: "size (\\\\d+)"}}
    say: "It has {size} bytes; {other} stays."
""")
    _, first = await ask(model, user, tools=[FILE_READ])
    assert first.finish is Finish.TOOL_CALLS
    assert [call.name for call in first.tool_calls] == ["file_read", "file_read"]
    assert first.tool_calls[0].arguments_json == '{"path": "a \\"quoted\\" café.py"}'
    history = [
        Message(Role.ASSISTANT, first.text, tool_calls=first.tool_calls),
        Message(Role.TOOL, "size 12", tool_call_id=first.tool_calls[0].id),
        Message(Role.TOOL, "no such file", tool_call_id=first.tool_calls[1].id),
    ]
    _, second = await ask(model, user, tools=[FILE_READ], history=history)
    assert second.text == "It has 12 bytes; {other} stays."
    assert second.tool_calls == ()


async def test_broken_arguments_and_unknown_tools_reach_the_loop_as_they_are(rehearsal, model):
    user = await rehearsal.one_turn(
        "broken-arguments", "call: [{tool: file_read, arguments_text: '{broken'}, {no_such_tool: {}}]"
    )
    _, answer = await ask(model, user, tools=[FILE_READ])
    assert [(call.name, call.arguments_json) for call in answer.tool_calls] == [
        ("file_read", "{broken"),
        ("no_such_tool", "{}"),
    ]


async def test_a_name_split_over_deltas_is_joined(rehearsal, model):
    user = await rehearsal.one_turn("split-name", "call: [{file_read: {path: x}}], faults: [split_names]")
    _, answer = await ask(model, user)
    assert answer.tool_calls[0].name == "file_read"
    assert answer.tool_calls[0].arguments_json == '{"path": "x"}'


async def test_sixty_four_calls_are_taken_and_one_more_is_not(rehearsal, model):
    user = await rehearsal.one_turn("calls-64", "call: [{tool: t, times: 64}]")
    _, answer = await ask(model, user)
    assert len(answer.tool_calls) == 64
    user = await rehearsal.one_turn("calls-65", "call: [{tool: t, times: 65}]")
    assert "more than 64" in str(await failure_of(model, user))
    user = await rehearsal.one_turn("calls-2000", "call: [{tool: t, times: 2000}]")
    assert isinstance(await failure_of(model, user), MalformedAnswer)


async def test_an_answer_cut_by_length_carries_no_half_call(rehearsal, model):
    user = await rehearsal.one_turn("too-long", 'say: "So", call: [{file_read: {path: x}}], finish: length')
    _, answer = await ask(model, user)
    assert (answer.text, answer.tool_calls, answer.finish) == ("So", (), Finish.LENGTH)


@pytest.mark.parametrize("turn", ['refuse: "I must not."', 'say: "I must not.", finish: content_filter'])
async def test_a_refusal_says_so_and_calls_nothing(rehearsal, model, turn):
    user = await rehearsal.one_turn("refusal", turn)
    _, answer = await ask(model, user)
    assert (answer.text, answer.tool_calls, answer.finish) == ("I must not.", (), Finish.REFUSED)


async def test_an_empty_answer_is_an_answer(rehearsal, model):
    user = await rehearsal.one_turn("empty", 'say: ""')
    deltas, answer = await ask(model, user)
    assert (deltas, answer.text, answer.finish) == ([], "", Finish.STOP)


async def test_missing_usage_is_estimated_and_marked(rehearsal, model):
    user = await rehearsal.one_turn("no-usage", 'say: "123456789", faults: [no_usage, no_done]')
    _, answer = await ask(model, user)
    assert answer.usage.is_estimated
    assert answer.usage.output_tokens == 3


@pytest.mark.parametrize(
    ("name", "turn", "sentence", "has_cost"),
    [
        ("cut-text", 'say: "one two three four", cut: text', "connection was lost", True),
        ("cut-call", "call: [{file_read: {path: x}}], cut: tool_call", "connection was lost", True),
        ("cut-finish", 'say: "one", cut: before_finish', "in the middle, without a finish", True),
        ("no-choices", 'say: "one", faults: [no_choices]', "before it began", False),
        ("no-ids", "call: [{t: {}}], faults: [no_ids]", "without id", True),
        ("same-ids", "call: [{t: {}}, {u: {}}], faults: [same_ids]", "the same id", True),
        ("bad-json", 'say: "one", faults: [bad_json]', "no chunk of an answer", True),
        ("no-calls", 'say: "one", finish: tool_calls', "asked for none", True),
    ],
)
async def test_a_broken_stream_is_a_malformed_answer(rehearsal, model, name, turn, sentence, has_cost):
    failure = await failure_of(model, await rehearsal.one_turn(name, turn))
    assert isinstance(failure, MalformedAnswer)
    assert failure.is_transient
    assert sentence in str(failure)
    assert (failure.lost_usage is not None) is has_cost


async def test_an_error_told_in_mid_stream_is_the_servers(rehearsal, model):
    user = await rehearsal.one_turn("mid-error", 'say: "one", faults: [error_event]')
    assert isinstance(await failure_of(model, user), ModelOverloaded)


@pytest.mark.parametrize(
    ("name", "fail", "kind", "transient"),
    [
        ("s400", "status: 400, message: 'bad shape'", ModelRefusedRequest, False),
        ("s401", f"status: 401, message: 'Incorrect API key {KEY}'", ModelRefusedRequest, False),
        ("s403", f"status: 403, message: 'key {KEY} may not'", ModelRefusedRequest, False),
        ("s404", "status: 404", ModelRefusedRequest, False),
        ("s422", f"status: 422, message: 'odd {KEY}'", ModelRefusedRequest, False),
        ("s408", "status: 408", ModelTimeout, True),
        ("s413", "status: 413", ContextTooLong, False),
        ("too-long-400", "status: 400, code: context_length_exceeded", ContextTooLong, False),
        ("no-money", "status: 429, code: insufficient_quota", ModelRefusedRequest, False),
        ("s429", "status: 429", ModelRateLimited, True),
        ("s500", "status: 500", ModelOverloaded, True),
        ("s502", "status: 502", ModelOverloaded, True),
        ("s503", "status: 503, retry_after: 3", ModelOverloaded, True),
        ("s529", "status: 529", ModelOverloaded, True),
    ],
)
async def test_every_status_has_its_failure(rehearsal, model, name, fail, kind, transient):
    failure = await failure_of(model, await rehearsal.one_turn(name, f"fail: {{{fail}}}"))
    assert type(failure) is kind
    assert failure.is_transient is transient
    assert failure.lost_usage is None
    assert failure.retry_after_seconds == (3.0 if name == "s503" else None)


@pytest.mark.parametrize(("name", "form"), [("after-seconds", ""), ("after-date", ", as_date: true")])
async def test_retry_after_is_read_as_seconds_and_as_a_date(rehearsal, model, name, form):
    user = await rehearsal.one_turn(name, f"fail: {{status: 429, retry_after: 30{form}}}")
    failure = await failure_of(model, user)
    assert 25 < failure.retry_after_seconds <= 30


async def test_a_script_that_is_not_met_is_told_to_whoever_asked(rehearsal, model):
    assert "No script fits" in str(await failure_of(model, "nobody waits for this message"))


async def test_silence_before_the_first_byte_and_after_it_times_out(rehearsal, model_at):
    model = model_at(rehearsal.base_url, read_seconds=0.3)
    user = await rehearsal.one_turn("silent-first", "call: [{t: {}}], hang_seconds: 60")
    failure = await failure_of(model, user)
    assert isinstance(failure, ModelTimeout)
    assert failure.lost_usage is None
    user = await rehearsal.one_turn("silent-later", 'say: "one", hang_seconds: 60')
    failure = await failure_of(model, user)
    assert isinstance(failure, ModelTimeout)
    assert failure.lost_usage.output_tokens == 1


async def test_nobody_listening_is_unreachable(model_at):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failure = await failure_of(model_at(f"http://127.0.0.1:{port}/v1"), "hello")
    assert isinstance(failure, ModelUnreachable)
    assert failure.is_transient


async def test_closing_the_answer_hangs_up(rehearsal, model):
    user = await rehearsal.one_turn("closed-early", 'say: "one two", hang_seconds: 60')
    stream = model.stream([Message(Role.USER, user)], [], allowed=Allowance(9))
    async with aclosing(stream) as items:
        assert await anext(items) == TextDelta("one ")
    await rehearsal.until_abandoned(user)


async def test_cancelling_the_reader_hangs_up(rehearsal, model):
    user = await rehearsal.one_turn("cancelled", 'say: "one", hang_seconds: 60')
    heard = asyncio.Event()

    async def read() -> None:
        async for _ in model.stream([Message(Role.USER, user)], [], allowed=Allowance(9)):
            heard.set()

    reader = asyncio.create_task(read())
    await asyncio.wait_for(heard.wait(), 5)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await rehearsal.until_abandoned(user)


def chunk(**choice: object) -> bytes:
    body = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "odd"}
    return b"data: " + json.dumps({**body, "choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "t", "arguments": "{}"}}
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>a proxy's greeting</html>",
        b"",
        b'data: {"choices": null}\n\n',
        b'data: ["a list"]\n\n' + DONE,
        b'data: {"id": "\xff\xfe"}\n\n',
        chunk(delta={"tool_calls": [{**CALL, "index": None}]}),
        chunk(delta={"tool_calls": [{**CALL, "index": -1}]}),
        chunk(delta={"content": 7}),
        chunk(delta={"content": "a"}, finish_reason="eos"),
        chunk(delta={"content": "a"}, index=1, finish_reason="stop"),
        chunk(delta={"tool_calls": [CALL]}) + chunk(delta={"tool_calls": [{**CALL, "id": "c2"}]}),
        chunk(delta={"tool_calls": [{**CALL, "function": None}]}) + chunk(finish_reason="tool_calls"),
    ],
)
async def test_what_is_no_stream_of_chunks_is_malformed(model_at, body):
    async with answering(body) as address:
        failure = await failure_of(model_at(address), "hello")
    assert isinstance(failure, MalformedAnswer)


@pytest.mark.parametrize(
    ("body", "text", "names", "finish"),
    [
        # a name repeated in every delta, and stop behind a call
        (
            chunk(delta={"tool_calls": [CALL]})
            + chunk(delta={"tool_calls": [CALL]})
            + chunk(delta={}, finish_reason="stop"),
            "",
            ["t"],
            Finish.TOOL_CALLS,
        ),
        # what is broken behind the finish is no loss
        (
            chunk(delta={"content": "a"}, finish_reason="stop") + b"data: {broken\n\n",
            "a",
            [],
            Finish.STOP,
        ),
    ],
)
async def test_servers_with_odd_manners_are_understood(model_at, body, text, names, finish):
    async with answering(body) as address:
        _, answer = await ask(model_at(address), "hello")
    assert (answer.text, [call.name for call in answer.tool_calls], answer.finish) == (text, names, finish)
    assert answer.model == "odd"
    assert answer.usage.is_estimated


class answering:
    """A server that gives one body to whatever is asked."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aenter__(self) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
            writer.write(head + self._body)
            await writer.drain()
            writer.close()

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


def test_an_endless_answer_is_cut_off():
    answer = OpenAnswer()
    piece = Chunk.model_validate({"choices": [{"delta": {"content": "x" * (MAX_ANSWER_CHARACTERS // 2)}}]})
    answer.take(piece)
    answer.take(piece)
    with pytest.raises(MalformedAnswer, match="longer than"):
        answer.take(Chunk.model_validate({"choices": [{"delta": {"content": "x"}}]}))


def test_cached_input_is_never_more_than_the_input():
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}
    answer = OpenAnswer()
    answer.take(Chunk.model_validate({"choices": [], "usage": usage}))
    assert answer.usage.cached_input_tokens == 5
