"""The environment that `python3 -m infra` makes: what is said when the disk is full, or a part was never fetched."""

import asyncio
import os
import re
import site
import subprocess
import sys
from pathlib import Path

import pytest

from infra.__main__ import LOCKS, NEEDS_TEST, install
from infra.local.stack import ROOT

PIP_SAYS = "#!/bin/sh\necho 'Collecting alembic'\necho 'ERROR: {why}'\nexit 1\n"


async def ended(*words: str, **environment: str) -> tuple[int, str]:
    """A program's status and all that it said."""
    told = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    done = await asyncio.to_thread(
        subprocess.run, words, cwd=ROOT, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout


async def on_a_small_disk(folder: Path, size: str) -> str:
    """What `python3 -m infra doctor` says with PAM_HOME on a disk of its own, in a namespace that ends with it."""
    mount = f'mount -t tmpfs -o {size} tmpfs "$1"'
    if os.geteuid() != 0 or (await ended("unshare", "-m", "sh", "-c", mount, "sh", str(folder)))[0]:
        pytest.skip("a small disk is made by root alone, where it may mount one")
    program = f'{mount} && PAM_HOME="$1/home" exec "$2" -m infra doctor'
    status, said = await ended("unshare", "-m", "sh", "-c", program, "sh", str(folder), sys.executable)
    assert status == 1, said
    assert "Traceback" not in said
    assert not list(folder.iterdir()), "it was another disk"
    return said.splitlines()[-1]


async def test_a_disk_without_room_for_an_environment_is_named(tmp_path: Path) -> None:
    said = await on_a_small_disk(tmp_path, "size=4m")

    assert said == f"pam: no room is left in {tmp_path}/home: make room, or set PAM_HOME to another folder"


async def test_a_disk_without_any_room_is_named(tmp_path: Path) -> None:
    said = await on_a_small_disk(tmp_path, "nr_inodes=1")

    assert said == f"pam: No space left on device ({tmp_path}/home): make room, or set PAM_HOME to another folder"


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("Could not find a version that satisfies the requirement alembic", "is the network (or your package index)"),
    ],
)
def test_packages_that_do_not_come_are_told_by_their_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], why: str, said: str
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(PIP_SAYS.format(why=why))
    python.chmod(0o755)

    with pytest.raises(SystemExit, match="1"):
        install(tmp_path, LOCKS / "run.txt", 1)

    told = capsys.readouterr().err
    assert f"pam: the packages could not be installed: {said}" in told
    assert f"ERROR: {why}\nRun the same command again" in told


@pytest.fixture
def without_pytest(tmp_path: Path) -> str:
    """A folder with every package of this environment that people get who never asked for the tests."""
    for package in [entry for folder in site.getsitepackages() for entry in Path(folder).iterdir()]:
        if not re.match(r"_?pytest\b", package.name):
            (tmp_path / package.name).symlink_to(package)
    return f"{ROOT}{os.pathsep}{tmp_path}"


@pytest.mark.parametrize("word", sorted(NEEDS_TEST))
async def test_a_command_whose_packages_were_never_fetched_says_what_fetches_them(
    without_pytest: str, word: str
) -> None:
    status, said = await ended(sys.executable, "-S", "-m", "infra.cli", word, PYTHONPATH=without_pytest)

    fetches = f"pam: what `{word}` needs is not fetched yet: `python3 -m infra {word}` fetches it\n"
    assert (status, said) == (1, fetches)


async def test_the_other_commands_need_nothing_of_the_tests(without_pytest: str) -> None:
    status, said = await ended(sys.executable, "-S", "-m", "infra.cli", "hosts", "--help", PYTHONPATH=without_pytest)

    assert (status, "disallow" in said) == (0, True), said
