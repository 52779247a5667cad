"""The queue: RQ on Redis, a doorbell that carries a run's id and turn by function name, and nothing else."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from workers.kernel.errors import Unavailable

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue

QUEUE = "pam-runs"
JOB = "workers.jobs.advance_run"
QUEUED_SECONDS = 86_400  # whoever waits longer is rung for anew
Tell = Callable[[UUID, int, bool], None]  # of a run and its turn: it begins here, or it is over
TAKEN_SECONDS = 15  # a living worker has taken a run long before


def connect(redis_url: str) -> "Redis":
    """A Redis client fit for RQ: keep-alives, short timeouts, no retry storm."""
    from redis import Redis
    from redis.backoff import ExponentialBackoff
    from redis.retry import Retry

    return Redis.from_url(
        redis_url,
        socket_keepalive=True,
        socket_connect_timeout=3,
        socket_timeout=3,  # a Redis that hangs must not hold a hook or a sweep; RQ's worker raises it for itself
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=2, base=0.1), 3),
    )


def ping(redis: "Redis") -> None:
    """Raises Unavailable when Redis does not answer."""
    from redis.exceptions import RedisError

    try:
        redis.ping()
    except RedisError as error:
        raise Unavailable(f"Redis did not answer ({type(error).__name__}): check REDIS_URL") from error


def job_id(run_id: UUID, turn: int) -> str:
    """The name of a turn's job: ringing twice for one turn is one job."""
    return f"{run_id}-{turn}"


class RunQueue:
    """Rings for a run. Ringing twice for one turn is harmless: the queue drops a turn it has seen."""

    def __init__(self, *, redis: "Redis") -> None:
        self._redis = redis

    async def ring(self, run_id: UUID, turn: int) -> bool:
        """Enqueue the turn; False when it is in the queue already. Raises Unavailable when Redis is away."""
        return await asyncio.to_thread(self._ring, run_id, turn)  # RQ is blocking: the one marked place

    def _ring(self, run_id: UUID, turn: int) -> bool:
        from redis.exceptions import RedisError
        from rq import Queue
        from rq.exceptions import DuplicateJobError
        from rq.job import Job

        queue = Queue(QUEUE, connection=self._redis, serializer="json")
        name = job_id(run_id, turn)

        def enqueue() -> None:
            # No job stays for good: a sweep may ring again for a turn whose job died.
            queue.enqueue_call(
                JOB, args=[str(run_id), turn], job_id=name, unique=True, timeout=-1, ttl=QUEUED_SECONDS,
                result_ttl=0, failure_ttl=5,
            )  # fmt: skip

        try:
            try:
                enqueue()
            except DuplicateJobError:
                if self._is_on_its_way(queue, name):
                    return False
                self._redis.delete(Job.key_for(name))
                enqueue()
        except DuplicateJobError:
            return False
        except RedisError as error:
            raise Unavailable(
                f"the queue did not answer ({type(error).__name__}): the sweeper will ring again"
            ) from error
        return True

    def _is_on_its_way(self, queue: "Queue", name: str) -> bool:
        """Whether a worker will take this bell, or has just taken it. Else it is lost, or its run under way: then a
        bell too many does no harm."""
        from rq.exceptions import NoSuchJobError
        from rq.job import Job

        try:
            rung_at = Job.fetch(name, connection=self._redis, serializer="json").enqueued_at
        except NoSuchJobError:
            return False  # it has just left
        is_new = rung_at is not None and datetime.now(UTC) - rung_at < timedelta(seconds=TAKEN_SECONDS)
        return is_new or queue.get_job_position(name) is not None
