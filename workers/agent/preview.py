"""Text of a model or a program that is still being written: outside the log, first to be dropped."""

import asyncio
import time
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

from workers.agent import narration
from workers.agent.plain import plain
from workers.kernel.errors import Unavailable
from workers.kernel.ledger import events
from workers.kernel.ledger.hold import Hold

INTERVAL_SECONDS = 0.25
_FIRST_SECONDS = 0.05  # what is whole by then needs no preview
_LONGEST_PAUSE_SECONDS = 4
_MAX_FRAME_CHARACTERS = 8_000


class PreviewMeter:
    """What all previews of a worker may ask of the database, so that a thousand runs leave it to their steps.

    The database lets 50 frames a second out for everybody: to ask more often than that is in vain.
    """

    def __init__(self, *, per_second: int = 50, at_once: int = 2) -> None:
        self._per_second = per_second
        self._second = self._sent = 0
        self.places = asyncio.Semaphore(at_once)

    def is_spent(self) -> bool:
        """Count a frame; whether this second has no more."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._sent = second, 0
        self._sent += 1
        return self._sent > self._per_second


class Preview:
    """The preview of one message, or of a call's output. A frame carries what is new, and where that begins.

    Frames go out beside the writer, one in an interval at most, until all is shown or the context ends: what is not
    shown then follows in the log. Of a program's output the newest counts, so what is too much for a frame is dropped.
    """

    def __init__(self, *, hold: Hold, of: Literal["message_id", "call_id"], id: UUID, meter: PreviewMeter) -> None:
        self._hold = hold
        self._meter = meter
        self._of = of
        self._id = id
        self._shown = 0
        self._pending = ""
        self._beginnings = 0
        self._is_new = False
        self._pause_seconds = INTERVAL_SECONDS
        self._due_at = 0.0
        self._sending: asyncio.Task[None] | None = None
        self._is_on_its_way = self._is_over = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._is_over = True
        if self._sending is None:
            return
        if kind is not None or not self._is_on_its_way:
            self._sending.cancel()
        try:
            await asyncio.wait({self._sending})
        finally:
            self._sending.cancel()
        if not self._sending.cancelled():
            self._sending.exception()  # whoever writes next hears it

    async def write(self, text: str) -> None:
        """Add text, to be shown within the interval. Raises FenceLost when a frame was told so."""
        self._add(plain(self._wanted(text)))
        self._send()

    async def restart(self) -> None:
        """The model begins again: viewers forget what was shown."""
        self._beginnings += 1
        self._shown, self._pending, self._is_new = 0, "", True
        self._send()

    def _add(self, text: str, *, before: str = "") -> None:
        self._pending = self._wanted(before + self._pending + text)

    def _wanted(self, text: str) -> str:
        return text[-_MAX_FRAME_CHARACTERS:] if self._of == "call_id" else text

    def _send(self) -> None:
        """See to it that somebody sends what there is."""
        if self._sending is not None and self._sending.done() and not self._is_over:
            self._sending.result()
            self._sending = None
        if self._sending is None and not self._is_over:
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        self._due_at = self._due_at or time.monotonic() + _FIRST_SECONDS
        while (self._pending or self._is_new) and not self._is_over:
            await asyncio.sleep(max(self._due_at - time.monotonic(), 0))
            went_out = await self._send_one()
            # Who has too much to do is not asked four times a second.
            self._pause_seconds = INTERVAL_SECONDS if went_out else min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
            self._due_at = time.monotonic() + self._pause_seconds

    async def _send_one(self) -> bool:
        """A frame that does not go out waits for its next turn."""
        async with self._meter.places:
            if self._meter.is_spent():  # counted when it is asked, not when it began to wait for a place
                return False
            self._is_on_its_way = True
            try:
                return await self._send_frame()
            finally:
                self._is_on_its_way = False

    async def _send_frame(self) -> bool:
        beginning, is_new, length = self._beginnings, self._is_new, 0 if self._is_new else _MAX_FRAME_CHARACTERS
        frame, self._pending, self._is_new = self._pending[:length], self._pending[length:], False
        try:
            went_out = await events.preview(self._hold, narration.preview(self._of, self._id, self._shown, frame))
        except Unavailable:
            went_out = False
        if beginning == self._beginnings:
            if went_out:
                self._shown += len(frame)
            else:
                self._add("", before=frame)
                self._is_new = is_new
        return went_out
