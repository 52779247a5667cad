"""The worker's composition root: builds what a turn needs, once a process, and the job that the queue names."""

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import structlog

from workers.agent.shutdown import LeavingFlag
from workers.agent.slots import Slots
from workers.agent.turn import Turns
from workers.kernel import runqueue
from workers.kernel.errors import PamError, Unavailable
from workers.kernel.ledger import runs
from workers.kernel.runqueue import RunQueue
from workers.kernel.settings import WorkerSettings
from workers.kernel.worker_gateway import WorkerGateway
from workers.model.openai_wire import OpenAIModel
from workers.model.prices import cost_of
from workers.model.protocol import Usage
from workers.model.retry import RetryingModel
from workers.tools import REGISTERED, TOOLS
from workers.tools.bound_sql import BoundSql
from workers.tools.redis_space import RedisSpace
from workers.tools.tool import ToolServices

OPENAI_URL = "https://api.openai.com/v1"

log = structlog.get_logger()


class Workshop:
    """Everything one worker process holds, on an event loop in a thread of its own.

    RQ's own loop is blocking and lives in the main thread; the work is async and lives here.
    """

    def __init__(self, *, settings: WorkerSettings) -> None:
        self._settings = settings
        self.leaving = LeavingFlag()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="workshop", daemon=True)
        self._gateway = WorkerGateway(dsn=settings.database_url)
        self._sql = BoundSql(dsn=settings.agent_database_url)
        self._redis = RedisSpace(url=settings.upstash_url, token=settings.upstash_token)
        self._queue = RunQueue(redis=runqueue.connect(settings.redis_url))
        model = OpenAIModel(name=settings.model, api_key=settings.model_key, base_url=settings.model_url or OPENAI_URL)
        self._turns = Turns(
            gateway=self._gateway,
            model=RetryingModel(model=model),
            tools=TOOLS,
            services=ToolServices(sql=self._sql, redis=self._redis, known=REGISTERED),
            slots=Slots(),
            leaving=self.leaving,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            lease_seconds=settings.lease_seconds,
            pulse_seconds=settings.pulse_seconds,
        )

    def open(self) -> None:
        """Connect, and begin to sweep. Raises Unavailable when the database does not answer."""
        self._thread.start()
        self.do(self._gateway.open())
        self.do(self._sql.open())
        cost_of(
            Usage(input_tokens=1, output_tokens=1), model=self._settings.model
        )  # reads the price list now, not in a run
        self._sweeping = asyncio.run_coroutine_threadsafe(self._sweep(), self._loop)

    def close(self) -> None:
        """Stop sweeping and return every connection."""
        self._sweeping.cancel()
        self.do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the workshop's loop and wait for it, from the main thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def advance(self, run_id: UUID, turn: int) -> None:
        """One turn of a run."""
        self.do(self._turns.advance(run_id, turn))

    async def _sweep(self) -> None:
        """Every worker looks for stranded, due and expired runs; the database lets one of them at a time."""
        while True:
            try:
                for due in await runs.sweep(self._gateway):
                    await self._queue.ring(due.run_id, due.turn)
                    log.info("run swept up", run_id=str(due.run_id), turn=due.turn)
            except PamError as error:
                log.warning("sweep missed", reason=str(error))
            except Exception as error:  # a sweeper that dies silently strands everybody's runs
                log.error("sweep broke", error=type(error).__name__)
            await asyncio.sleep(self._settings.sweep_seconds)

    async def _close(self) -> None:
        await self._sql.close()
        await self._gateway.close()
        await self._redis.close()


_workshop: Workshop | None = None


def install(workshop: Workshop) -> None:
    """Make this the workshop of the process."""
    global _workshop
    _workshop = workshop


def advance_run(run_id: str, turn: int) -> None:
    """The job in the queue: a run's id and turn, by function name. Safe to repeat."""
    if _workshop is None:
        raise Unavailable("this process is no PAM worker: start it with `python -m workers.main`")
    try:
        _workshop.advance(UUID(run_id), turn)
    except Unavailable as error:
        # Nothing is lost: the lease ends, and the sweeper brings the run back.
        log.error("turn broken off", run_id=run_id, turn=turn, reason=str(error))
