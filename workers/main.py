"""The worker process: RQ's worker in the main thread, its runs on the workshop's loop; with -n, several processes."""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

import structlog

from workers import jobs
from workers.kernel import runqueue, telemetry
from workers.kernel.errors import PamError
from workers.kernel.settings import WorkerSettings
from workers.run_worker import RunWorker, Work

FAULTY = 2  # the exit status of a worker that cannot start as it is set up
_RESTART_SECONDS = 1.0

log = structlog.get_logger()


def main(arguments: Sequence[str] = ()) -> int:
    """Work until told to stop. Exit status 2: a setting is missing, or the database or Redis is away at the start."""
    parser = argparse.ArgumentParser(prog="python -m workers.main", description=__doc__)
    parser.add_argument("-n", "--processes", type=int, default=1, help="how many worker processes (default 1)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    telemetry.configure("worker", level=os.environ.get("PAM_LOG_LEVEL", "info"))
    if asked.child:
        threading.Thread(target=_follow_parent, name="parent", daemon=True).start()
    return _several(asked.processes) if asked.processes > 1 else _one()


def _one() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_before_work)  # until the worker puts its own in place
    try:
        settings = WorkerSettings.read(os.environ)
        redis = runqueue.connect(settings.redis_url)
        workshop = jobs.Workshop(settings=settings)
        workshop.open()
        runqueue.ping(redis)
    except PamError as error:
        print(f"pam worker: {error}", file=sys.stderr)
        return FAULTY
    work = Work(begin=workshop.begin, stop=workshop.stop, leave=workshop.leaving.set)
    worker = RunWorker(connection=redis, work=work, places=settings.max_runs)
    log.info("worker ready", model=settings.model, places=settings.max_runs)
    try:
        worker.work(logging_level="WARNING", with_scheduler=False)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        workshop.close()
    return 0 if workshop.leaving.is_set() else 1


def _several(count: int) -> int:
    """Keep so many workers alive, each a process of its own, until told to stop; then let them leave."""
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopping.append(got))
    workers = [_another() for _ in range(count)]
    while not stopping:
        time.sleep(_RESTART_SECONDS)
        for place, worker in enumerate(workers):
            if worker.poll() == FAULTY:  # it has said why, and the next would say the same
                stopping.append(FAULTY)
            elif worker.returncode is not None and not stopping:
                log.error("worker lost", pid=worker.pid, status=worker.returncode)
                workers[place] = _another()
    for worker in workers:
        worker.terminate()
    left = [worker.wait() for worker in workers]
    return FAULTY if FAULTY in left else max(map(abs, left))


def _another() -> "subprocess.Popen[bytes]":
    """A worker in a session of its own, so that Ctrl-C comes to it once; it leaves when the pipe to its parent ends."""
    command = [sys.executable, "-m", "workers.main", "--child"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _follow_parent() -> None:
    while os.read(0, 1024):  # not by sys.stdin: its lock would be missed at the interpreter's end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _leave_before_work(signum: int, frame: FrameType | None) -> None:
    """Told to stop before the first job: there is nothing to give back."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
