"""Text of a model or a program that is still being written: outside the log, first to be dropped."""

import time
from typing import Literal
from uuid import UUID

from workers.agent import narration
from workers.kernel.errors import Unavailable
from workers.kernel.ledger import events
from workers.kernel.ledger.hold import Hold

INTERVAL_SECONDS = 0.25
_MAX_FRAME_CHARACTERS = 8_000


class Preview:
    """The preview of one message, or of a call's output. A frame carries what is new, and where that begins."""

    def __init__(self, *, hold: Hold, of: Literal["message_id", "call_id"], id: UUID) -> None:
        self._hold = hold
        self._of = of
        self._id = id
        self._shown = 0
        self._pending = ""
        self._sent_at = float("-inf")

    async def write(self, text: str) -> None:
        """Add text; send a frame when the interval is over. A frame that does not go out waits for the next."""
        self._pending += text
        if time.monotonic() - self._sent_at < INTERVAL_SECONDS:
            return
        self._sent_at = time.monotonic()
        frame = self._pending[:_MAX_FRAME_CHARACTERS]
        try:
            went_out = await events.preview(self._hold, narration.preview(self._of, self._id, self._shown, frame))
        except Unavailable:
            return
        if went_out:
            self._shown += len(frame)
            self._pending = self._pending[len(frame) :]

    async def restart(self) -> None:
        """The model begins again: viewers forget what was shown."""
        self._shown, self._pending, self._sent_at = 0, "", float("-inf")
        await self.write("")
