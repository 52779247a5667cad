"""The workers of a storm, each at its place: killed, frozen or told to leave, and another takes the place at once."""

import asyncio
import contextlib
import signal

from infra.chaos.workers import WorkerProcess
from infra.local.facts import StackFacts


class Crew:
    """As many workers as there are places, for as long as the crew is on duty."""

    def __init__(self, *, facts: StackFacts, places: int) -> None:
        self._facts = facts
        self._places = places
        self._at: list[WorkerProcess] = []
        self._gone: list[WorkerProcess] = []
        self._watch: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start everybody, and look after them. Raises ProcessFailed when one does not come up."""
        self._at = [await WorkerProcess.start(self._facts) for _ in range(self._places)]
        await asyncio.gather(*(worker.ready() for worker in self._at))
        self._watch = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        while True:
            for place, worker in enumerate(self._at):
                if not worker.is_alive:
                    self._gone.append(worker)
                    self._at[place] = await WorkerProcess.start(self._facts)
            await asyncio.sleep(0.1)

    async def kill(self, place: int) -> None:
        """kill -9."""
        await self._at[place].kill()

    async def freeze(self, place: int, *, seconds: float) -> None:
        """Stop the worker's clock for so long; when it goes on, it does not know that time has passed."""
        worker = self._at[place]
        with contextlib.suppress(ProcessLookupError):
            worker.pause()
            await asyncio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            worker.resume()

    def restart(self, place: int) -> None:
        """SIGTERM: it lets its steps end and gives its runs back."""
        with contextlib.suppress(ProcessLookupError):
            self._at[place].terminate()

    async def leave(self) -> list[dict[str, str]]:
        """Tell everybody to leave; answers what went wrong, and the processes that those killed have left."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        left: list[dict[str, str]] = []
        for worker in self._at:
            with contextlib.suppress(ProcessLookupError):
                worker.terminate()
        for worker in self._at:
            try:
                status = await worker.ended(seconds=45)
                is_unborn = status == -signal.SIGTERM and "worker ready" not in worker.log  # Python was still loading
                if status not in (0, -signal.SIGKILL) and not is_unborn:
                    left.append({"what": "a worker told to leave ended badly", "about": str(status)})
            except TimeoutError:
                left.append({"what": "a worker did not leave within 45 s", "about": str(worker.pid)})
                await worker.kill()
        for worker in [*self._gone, *self._at]:
            left += [{"what": "a process outlived its worker", "about": about} for about in worker.survivors()]
        return left
