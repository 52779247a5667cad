"""The worker process: RQ's worker in the main thread, one run at a time, the workshop beside it."""

import os
import signal
import sys
from types import FrameType

import structlog
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job

from workers import jobs
from workers.agent.shutdown import LeavingFlag
from workers.kernel import runqueue, telemetry
from workers.kernel.errors import PamError
from workers.kernel.settings import WorkerSettings

log = structlog.get_logger()


class RunWorker(SimpleWorker):
    """RQ's worker without a fork: connections stay open, a kill takes everything, a signal lets the step finish."""

    leaving = LeavingFlag()

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run the one job there is; whoever can write to Redis names no other function here."""
        if job.func_name != runqueue.JOB:
            log.error("foreign job dropped", job_id=job.id)
            job.delete()
            return False
        return super().perform_job(job, queue, execution)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: finish the step, give the run back, leave."""
        self.leaving.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]


def main() -> int:
    """Work until told to stop. Exit status 2 when a setting is missing or the database is away at the start."""
    telemetry.configure("worker", level=os.environ.get("PAM_LOG_LEVEL", "info"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_before_work)  # until RQ puts its own in place
    try:
        settings = WorkerSettings.read(os.environ)
        workshop = jobs.Workshop(settings=settings)
        workshop.open()
    except PamError as error:
        print(f"pam worker: {error}", file=sys.stderr)
        return 2
    jobs.install(workshop)
    redis = runqueue.connect(settings.redis_url)
    worker = RunWorker(
        [Queue(runqueue.QUEUE, connection=redis, serializer="json")],
        connection=redis,
        serializer="json",
        worker_ttl=90,
    )
    worker.leaving = workshop.leaving
    worker.log_job_description = False
    log.info("worker ready", model=settings.model)
    try:
        worker.work(logging_level="WARNING", with_scheduler=False)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        workshop.close()
    return 0 if workshop.leaving.is_set() else 1


def _leave_before_work(signum: int, frame: FrameType | None) -> None:
    """Told to stop before the first job: there is nothing to give back."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
