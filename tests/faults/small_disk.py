"""A small disk under the log or the WAL of the lab's Postgres, filled to its last byte and freed again."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from infra.chaos.parts import Parts
from infra.local.postgres import lay_out
from tests.faults.conftest import Lab

MIB = 1 << 20
DISK_MIB = 192  # the WAL keeps 80 MB and more


class SmallDisk:
    """A disk of its own, in memory, that can be filled to the last byte: no other disk is touched."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self) -> None:
        """Leave no room."""
        filler = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            with contextlib.suppress(OSError):
                while True:
                    os.write(filler, bytes(1 << 16))
            with contextlib.suppress(OSError):
                while True:
                    os.write(filler, bytes(1 << 9))
        finally:
            os.close(filler)

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk() -> Iterator[SmallDisk]:
    """A small disk that Postgres can reach; a test is skipped where none can be mounted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small disk")
    place = Path(tempfile.mkdtemp(prefix="pam-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=755", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode:
        place.rmdir()
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)  # Postgres may have files open
        place.rmdir()


@asynccontextmanager
async def log_on(disk: SmallDisk, lab: Lab) -> AsyncIterator[None]:
    """The log of all runs lies on this disk, for as long as the context lasts."""
    folder = disk.place / "log"
    folder.mkdir(mode=0o700)
    account = lay_out(Path(lab.facts.state)).account
    assert account is not None
    os.chown(folder, account.uid, account.gid)
    parts = ("table pam.events", "index pam.events_pkey", "index pam.events_of_run")
    await lab.house.admin(f"create tablespace small location '{folder}'")
    for what in parts:
        await lab.house.admin(f"alter {what} set tablespace small")
    try:
        yield
    finally:
        disk.free()
        for what in parts:
            await lab.house.admin(f"alter {what} set tablespace pg_default")
        await lab.house.admin("drop tablespace small")


@asynccontextmanager
async def wal_on(disk: SmallDisk, lab: Lab) -> AsyncIterator[None]:
    """The WAL lies on this disk, for as long as the context lasts."""
    wal = lay_out(Path(lab.facts.state)).data / "pg_wal"
    async with postgres_down(lab):
        await moved(wal, disk.place / "wal")
        wal.symlink_to(disk.place / "wal")
    try:
        yield
    finally:
        disk.free()
        async with postgres_down(lab):
            wal.unlink()
            await moved(disk.place / "wal", wal)


async def moved(source: Path, target: Path) -> None:
    """With whom it belongs to, and to another disk."""
    moving = await asyncio.create_subprocess_exec("mv", source, target)
    assert await moving.wait() == 0


@asynccontextmanager
async def postgres_down(lab: Lab) -> AsyncIterator[None]:
    """Nobody writes to its files; afterwards it is up again."""
    parts = Parts(facts=lab.facts)
    server = psutil.Process(parts.pid("postgres"))
    everybody = [server, *server.children()]
    async with parts.away("postgres"):
        async with asyncio.timeout(30):
            while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in everybody):
                await asyncio.sleep(0.05)
        yield
    await answers(lab)


async def answers(lab: Lab) -> None:
    """Wait until Postgres takes connections and writes."""
    async with asyncio.timeout(90):
        while True:
            with contextlib.suppress(psycopg.Error):
                await lab.house.admin("select pg_current_xact_id()")
                return
            await asyncio.sleep(0.2)
