"""The queue: RQ on Redis, a doorbell that carries a run's id and turn by function name, and nothing else."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from workers.kernel.errors import Unavailable

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

QUEUE = "pam-runs"
JOB = "workers.jobs.advance_run"
CLAIM_SECONDS = 15  # a living worker claims its turn long before


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
        from rq.exceptions import DuplicateJobError, NoSuchJobError
        from rq.job import Job

        queue = Queue(QUEUE, connection=self._redis, serializer="json")
        name = f"{run_id}-{turn}"

        def enqueue() -> None:
            # Finished jobs leave at once, so that a sweep may ring again for a turn whose job died.
            queue.enqueue_call(
                JOB, args=[str(run_id), turn], job_id=name, unique=True, timeout=-1, result_ttl=0, failure_ttl=5
            )

        try:
            try:
                enqueue()
            except DuplicateJobError:
                try:
                    known = Job.fetch(name, connection=self._redis, serializer="json")
                    if not _is_dead(known):
                        return False
                    known.delete()
                except NoSuchJobError:
                    pass  # it has just left
                enqueue()
        except DuplicateJobError:
            return False
        except RedisError as error:
            raise Unavailable(
                f"the queue did not answer ({type(error).__name__}): the sweeper will ring again"
            ) from error
        return True


def _is_dead(job: "Job") -> bool:
    """Whether a worker took this job and was lost: whoever rings knows that its turn was never claimed."""
    taken_at = job.started_at or job.last_heartbeat
    if job.get_status(refresh=False) == "queued" or taken_at is None:
        return False
    aware = taken_at if taken_at.tzinfo else taken_at.replace(tzinfo=UTC)
    return datetime.now(UTC) - aware > timedelta(seconds=CLAIM_SECONDS)
