"""Root's Postgres runs as a system user: stacks that start at once on a new machine share one."""

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

_MADE = "import sys; from infra.local.postgres import system_user; print(system_user(sys.argv[1]).pw_uid)"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("useradd") is None, reason="makes a system user: needs root and useradd"
)


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody has; its user is gone again afterwards."""
    name = f"pam-test-{os.getpid()}"
    yield name
    subprocess.run(["userdel", name], capture_output=True)


async def test_processes_that_start_at_once_make_one_user(name: str) -> None:
    async def made() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _MADE, name, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        return int(output)

    uids = set(await asyncio.gather(*(made() for _ in range(8))))
    assert uids == {pwd.getpwnam(name).pw_uid}
