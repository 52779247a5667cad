"""How a worker leaves in good order: finish the step, give the run back, go."""

import threading


class Leaving(BaseException):
    """The worker is shutting down; no handler of ordinary errors may eat this."""


class LeavingFlag:
    """Set by the signal handler, asked by the loop between steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask every loop of this worker to leave after its step."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether to leave."""
        return self._event.is_set()
