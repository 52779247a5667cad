"""What all runs of a worker share: how many calls of one tool it carries out at once, and how often it shows text."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from workers.agent.preview import PreviewMeter
from workers.tools.tool import Tool


class Slots:
    """A place for each call that may run now; who finds none waits for one."""

    def __init__(self) -> None:
        self._places: dict[str, asyncio.Semaphore] = {}
        self.previews = PreviewMeter()

    @asynccontextmanager
    async def taken(self, tool: Tool) -> AsyncIterator[None]:
        """A place of this tool, for as long as the context lasts."""
        async with self._places.setdefault(tool.name, asyncio.Semaphore(tool.max_parallel)):
            yield
