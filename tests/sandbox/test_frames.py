"""What Deno says, read from a real pipe: in pieces, too long, and as fast as it can be written."""

import asyncio
import base64
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import pytest

from workers.sandbox.pyodide.frames import Frames
from workers.sandbox.sandbox import MIB, Limits, Stop


async def told(frames: Frames, pieces: Iterable[bytes]) -> Stop | None:
    """What reading these pieces answers."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def write() -> None:
        with suppress(BrokenPipeError), open(writer, "wb", buffering=0) as pipe:
            for piece in pieces:
                pipe.write(piece)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        return await frames.read(reader)
    finally:
        os.close(reader)
        await asyncio.to_thread(writing.join)


@asynccontextmanager
async def longest_pause() -> AsyncIterator[list[float]]:
    """How many seconds the loop stood still at the most, as the list's only number when it is over."""
    pauses: list[float] = []

    async def tick() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            pauses.append(time.monotonic() - began)

    ticking = asyncio.create_task(tick())
    longest: list[float] = []
    try:
        await asyncio.sleep(0.01)
        yield longest
        await asyncio.sleep(0.01)
    finally:
        ticking.cancel()
        longest.append(max(pauses, default=60.0))


async def test_a_line_comes_in_pieces_and_output_that_is_no_value_of_ours_is_output() -> None:
    shown: list[str] = []

    async def show(text: str) -> None:
        shown.append(text)

    frames = Frames(Limits(), show)
    end = json.dumps({"code": 7, "files": {"a.txt": base64.b64encode("ä".encode()).decode()}, "left": [["b", "why"]]})
    whole = b'{"output": "\xc3\xa4b"}\nno value\n[1]\n{"other": 1}\n' + end.encode() + b'\n{"output": "late"}\n'
    assert await told(frames, (whole[n : n + 1] for n in range(len(whole)))) is None
    assert "".join(shown) == frames.transcript.text == "äbno value\n[1]\n"
    assert frames.ending is not None
    assert (frames.ending.code, frames.ending.files) == (7, {"a.txt": "ä".encode()})
    assert [(left.path, left.why) for left in frames.ending.left] == [("b", "why")]


async def test_what_has_no_line_end_when_the_stream_ends_is_output() -> None:
    frames = Frames(Limits(), None)
    assert await told(frames, [b"broke", b" off"]) is None
    assert (frames.transcript.text, frames.ending) == ("broke off", None)


async def test_a_line_without_end_is_stopped_and_the_loop_goes_on_meanwhile() -> None:
    frames = Frames(Limits(), None)
    async with longest_pause() as longest:
        assert await told(frames, (b"x" * MIB for _ in range(110))) is Stop.OUTPUT
    assert frames.transcript.text == "x" * Limits().kept_output_bytes
    assert longest[0] < 1, "the loop stood still"


async def test_a_line_is_bounded_before_the_stream_is() -> None:
    limits = Limits(returned_bytes=MIB, output_bytes=MIB)
    assert await told(Frames(limits, None), [b"x" * MIB] * 9) is Stop.OUTPUT  # fewer than the stream may have


async def test_values_that_say_nothing_are_bounded_too() -> None:
    limits = Limits(returned_bytes=MIB, output_bytes=MIB)
    assert await told(Frames(limits, None), [b'{"said": "%s"}\n' % (b"x" * MIB)] * 11) is Stop.OUTPUT


async def test_as_many_files_as_may_come_back_come_and_the_loop_goes_on_meanwhile() -> None:
    content = os.urandom(MIB)
    text = base64.b64encode(content).decode()
    line = json.dumps({"code": 0, "files": {f"{n}.bin": text for n in range(33)}, "left": []}).encode() + b"\n"
    frames = Frames(Limits(), None)
    async with longest_pause() as longest:
        assert await told(frames, [line]) is None
    assert frames.ending is not None
    assert frames.ending.files == {f"{n}.bin": content for n in range(32)}
    assert [left.path for left in frames.ending.left] == ["32.bin"]
    assert longest[0] < 1, "the loop stood still"


async def test_a_pipe_that_is_never_empty_does_not_keep_the_loop() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"{}\n" * 1000):
            pass
    os.close(writer)
    counting = asyncio.create_task(count())
    await Frames(Limits(), None).read(reader)
    counting.cancel()
    os.close(reader)
    if turns == 0:
        pytest.fail("nobody else had a turn")
