"""A model that answers every question in the same way after the same pause, and costs a machine next to nothing.

The rehearsal needs some milliseconds of the processor for an answer; a thousand at once would measure the rehearsal.
Asked to take so many steps it calls a tool so often, one call an answer, without a word beside it as OpenAI's do.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

PAUSE_SECONDS = 0.2
TOOL = "file_list"
_ASKED, _RESULT = re.compile(rb"Take (\d+) steps"), re.compile(rb'"role": ?"tool"')
_STREAM, _SSE = re.compile(rb'"stream": ?true'), "text/event-stream"
_USAGE = {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}


def steps_question(steps: int) -> str:
    """What to say to it, so that it calls the tool so often before it is done."""
    return f"Take {steps} steps."


def _call(number: int) -> dict[str, Any]:
    called = {"id": f"call_{number}", "type": "function", "function": {"name": TOOL, "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [called]}


def _told(kind: str, choices: list[Any], **more: Any) -> bytes:
    return json.dumps(
        {"id": "steady", "object": kind, "created": 0, "model": "steady", "choices": choices} | more
    ).encode()


def _streamed(message: dict[str, Any], finish: str) -> bytes:
    """The answer in three pieces, as whoever shows it while it is written wants it."""
    if "tool_calls" in message:
        message = message | {"tool_calls": [{"index": 0} | call for call in message["tool_calls"]]}
    pieces: tuple[tuple[list[Any], dict[str, Any]], ...] = (
        ([{"index": 0, "delta": message, "finish_reason": None}], {}),
        ([{"index": 0, "delta": {}, "finish_reason": finish}], {}),
        ([], {"usage": _USAGE}),
    )
    told = (_told("chat.completion.chunk", choices, **more) for choices, more in pieces)
    return b"".join(b"data: " + piece + b"\n\n" for piece in told) + b"data: [DONE]\n\n"


def _whole(message: dict[str, Any], finish: str) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return _told("chat.completion", [choice], usage=_USAGE)


def _http(kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _answer(question: bytes) -> bytes:
    """A call while results are missing; else, and to any other question, the last word."""
    is_streamed = _STREAM.search(question) is not None
    asked, given = _ASKED.search(question), len(_RESULT.findall(question))
    if asked and given < int(asked[1]):
        answer = _call(given + 1), "tool_calls"
    elif is_streamed:
        return _LAST_STREAMED
    else:
        answer = _LAST
    return _http(_SSE, _streamed(*answer)) if is_streamed else _http("application/json", _whole(*answer))


_LAST = ({"role": "assistant", "content": "That is all."}, "stop")
_LAST_STREAMED = _http(_SSE, _streamed(*_LAST))


@asynccontextmanager
async def steady_model(*, pause_seconds: float = PAUSE_SECONDS) -> AsyncIterator[str]:
    """Its base URL, as OPENAI_BASE_URL takes it."""

    served: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served[writer] = asyncio.current_task()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                question = await reader.readexactly(int(length.split(b":")[1]))
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)
                writer.write(_answer(question))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    async with server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:  # clients in this process keep their connections open
            for writer in served:
                writer.close()
            answering = {task for task in served.values() if task}
            if answering:
                _, asleep = await asyncio.wait(answering, timeout=2 * PAUSE_SECONDS)
                for task in asleep:  # whoever asked is gone
                    task.cancel()
