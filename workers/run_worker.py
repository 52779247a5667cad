"""RQ's worker without a fork: many runs at once on the workshop's loop, as many as there are places.

Postgres is the truth about runs. Redis holds what RQ's own tools read: the worker with its state, and of every run
under way its job with this worker's name, so that `rq info` shows it and a stop command finds it. All that is written
by one thread, many runs in one round trip, and leaves by itself when the worker is lost.
"""

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import FrameType
from typing import Any
from uuid import UUID

import structlog
from redis import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout
from rq import Queue
from rq.command import parse_payload
from rq.exceptions import DequeueTimeout, StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus

from workers.kernel import runqueue

BEAT_SECONDS = 15
KEPT_SECONDS = 4 * BEAT_SECONDS  # how long what a lost worker left in Redis stays there
_FULL_SECONDS = 1.0
_AWAY_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Work:
    """What a worker does when the bell rings, and how it is told to stop: safe to call from any thread.

    begin: work while there are runs, and tell of each (run, turn, whether it begins or is over). The bell's own run
    need not be the one that is next.
    """

    begin: Callable[[runqueue.Tell], "Future[None]"]
    stop: Callable[[UUID | None], None]
    leave: Callable[[], None]


@dataclass(frozen=True)
class _Place:
    """A turn under way."""

    run_id: UUID
    job: Job
    execution: Execution


class RunWorker(BaseWorker):
    """Takes a job only when a place is free, hands its turn on, and goes back to the queue at once."""

    def __init__(self, *, connection: "Redis", work: Work, places: int) -> None:
        super().__init__(
            [Queue(runqueue.QUEUE, connection=connection, serializer="json")],
            connection=connection,
            serializer="json",
            worker_ttl=KEPT_SECONDS,
        )
        self.log_job_description = False
        self._work = work
        self._places = threading.BoundedSemaphore(places)
        self._count = places
        self._is_waiting = self._has_looked = False
        self._busy: dict[str, _Place] = {}
        self._books: queue.Queue[str | None] = queue.Queue()  # jobs of which there is something to tell; None: the last
        self._keeper = threading.Thread(target=self._keep_books, name="books", daemon=True)

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Never: RQ's registries say nothing here, the sweeper looks into Postgres."""
        return False

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register, forget what a lost worker had between the queue and its hands, and begin to keep books."""
        super().bootstrap(*args, **kwargs)
        self.connection.delete(self.queues[0].intermediate_queue_key)
        self._keeper.start()

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job, once there is a place for it. Redis away is waited for."""
        self._is_waiting = True
        try:
            while not self._places.acquire(timeout=_FULL_SECONDS):
                pass
            try:
                return self._next()
            except BaseException:
                self._places.release()
                raise
        finally:
            self._is_waiting = False

    def _next(self) -> tuple[Job, Queue]:
        """The next bell; at its start, and after each silence, a look without one: older code may have taken it."""
        while True:
            if not self._has_looked:
                self._has_looked = True
                return self._place(UUID(int=0), 0).job, self.queues[0]
            try:
                found = self.queue_class.dequeue_any(
                    self.queues, BEAT_SECONDS, connection=self.connection, job_class=Job, serializer="json"
                )
                if found is not None and _turn_of(found[0]) is not None:
                    return found
                if found is not None:  # whoever can write to Redis names no other function here
                    log.error("foreign job dropped", job_id=found[0].id)
                    found[0].delete()
            except (DequeueTimeout, RedisTimeout):
                self._has_looked = False
            except RedisError as error:
                log.warning("queue away", error=type(error).__name__)
                time.sleep(_AWAY_SECONDS)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """The bell rang: let a place work while there is anything to do, and go back to the queue at once."""
        self._books.put(job.id)

        def tell(run_id: UUID, turn: int, begins: bool) -> None:
            known = runqueue.job_id(run_id, turn)
            if begins:
                self._busy[known] = self._place(run_id, turn)
            else:
                self._busy.pop(known, None)
            self._books.put(known)

        self._work.begin(tell).add_done_callback(lambda _: self._places.release())

    def _place(self, run_id: UUID, turn: int) -> _Place:
        id = runqueue.job_id(run_id, turn)
        job = Job.create(
            runqueue.JOB, args=[str(run_id), turn], id=id, connection=self.connection, origin=runqueue.QUEUE,
            serializer="json",
        )  # fmt: skip
        return _Place(run_id, job, Execution(id=id, job_id=id, connection=self.connection, worker_name=self.name))

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Told by the keeper of the books, not after every job."""
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)

    def handle_payload(self, message: dict[Any, Any]) -> None:
        """RQ's commands: `stop-job` and `stop-execution` stop one run, `kill-horse` all, `shutdown` lets steps end."""
        told = parse_payload(message)
        match told.get("command"):
            case "shutdown":
                os.kill(os.getpid(), signal.SIGINT)
            case "kill-horse":
                self._work.stop(None)
            case "stop-job" | "stop-execution":
                place = self._busy.get(str(told.get("job_id")))
                if place is not None:
                    self._work.stop(place.run_id)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: take nothing more, let every run finish its step and give it back, leave."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_force_stop)
        self._shutdown_requested_date = now()
        self._stop_requested = True
        self._work.leave()
        if self._is_waiting:  # else a job is in its hands, and the loop leaves right after
            raise StopRequested

    def teardown(self) -> None:
        """Wait for the runs under way, then take leave of Redis."""
        self._work.leave()
        for _ in range(self._count):  # every place is free
            while not self._places.acquire(timeout=_FULL_SECONDS):
                pass
        self._books.put(None)
        self._keeper.join()
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.warning("queue away", error=type(error).__name__)

    def _keep_books(self) -> None:
        """Tell Redis which bells rang, what began and what ended, all that has gathered, and that it is alive."""
        known: dict[str, _Place] = {}
        beat_at = time.monotonic()
        is_over = False
        while not is_over:
            gathered: set[str] = set()
            try:
                one = self._books.get(timeout=BEAT_SECONDS)
                while True:
                    if one is None:
                        is_over = True
                    else:
                        gathered.add(one)
                    one = self._books.get_nowait()
            except queue.Empty:
                pass
            is_beat = time.monotonic() - beat_at >= BEAT_SECONDS or not gathered
            try:
                if not self.connection.hexists(self.key, "birth"):  # Redis has forgotten everything
                    self.connection.delete(self.key)
                    self.register_birth()  # type: ignore[no-untyped-call]
                    gathered |= set(known)
                    known.clear()
                with self.connection.pipeline(transaction=False) as pipe:
                    for id in gathered:
                        self._tell(id, known, pipe)
                    self._tell_state(known, pipe)
                    if is_beat:
                        beat_at = time.monotonic()
                        self._beat(known, pipe)
                    pipe.execute()
            except RedisError as error:
                log.warning("queue away", error=type(error).__name__)

    def _tell(self, id: str, known: dict[str, _Place], pipe: Any) -> None:
        """A job is under way here, or it is of no more use: a bell that rang, a run that is over."""
        place, before = self._busy.get(id), known.pop(id, None)
        pipe.lrem(self.queues[0].intermediate_queue_key, 1, id)
        if place is None:
            execution = before.execution if before else Execution(id, id, self.connection)
            pipe.delete(Job.key_for(id), execution.key)
            pipe.srem(self.executions_key, execution.composite_key)
            return
        known[id] = place
        if before is None:
            place.job.save(pipeline=pipe)
            place.job.prepare_for_execution(self.name, pipe)
            pipe.expire(place.job.key, KEPT_SECONDS)
            place.execution.save(KEPT_SECONDS, pipe)
            pipe.sadd(self.executions_key, place.execution.composite_key)

    def _tell_state(self, known: dict[str, _Place], pipe: Any) -> None:
        state = WorkerStatus.BUSY if known else WorkerStatus.IDLE
        if state != self.get_state():
            self.set_state(state, pipe)

    def _beat(self, known: dict[str, _Place], pipe: Any) -> None:
        super().heartbeat(pipeline=pipe)
        for place in known.values():
            pipe.expire(place.job.key, KEPT_SECONDS)
            pipe.expire(place.execution.key, KEPT_SECONDS)


def _turn_of(job: Job) -> tuple[UUID, int] | None:
    """The run and turn that a job names; None when it is none of ours."""
    try:
        run_id, turn = job.args
        return (UUID(run_id), int(turn)) if job.func_name == runqueue.JOB else None
    except (TypeError, ValueError):
        return None
