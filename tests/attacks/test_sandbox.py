"""Everything that code in the sandbox was told to try: a hundred mechanisms, and none gets through.

As the user who runs the tests, and once more as an ordinary one when that is root. The fallback has its own list.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.cli.setting import home
from tests.attacks import pyodide_attacks
from tests.attacks.sandbox_attacks import ATTACKS, CANARY, Attack, breach
from tests.attacks.sandbox_target import ROOT, attempted, target
from workers.sandbox import pyodide
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.probe import sandbox_home
from workers.sandbox.pyodide import PyodideSandbox
from workers.sandbox.sandbox import InputFile, Language, Program

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap needs Linux")


@pytest.fixture(scope="module")
def sandbox() -> Bubblewrap:
    return Bubblewrap(home=sandbox_home(str(home())))


@pytest.fixture(scope="module")
async def here() -> AsyncIterator[InputFile]:
    async with target() as file:
        yield file


def test_every_attack_is_another_mechanism() -> None:
    programs = Counter(attack.code for attack in ATTACKS)
    assert max(programs.values()) == 1
    assert len({attack.tried for attack in ATTACKS}) == len(ATTACKS) >= 100
    assert len(pyodide_attacks.ESCAPES) + len(pyodide_attacks.BOMBS) >= 30


@linux_only
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.tried.replace(" ", "-"))
async def test_what_code_tries_in_bubblewrap_is_stopped(sandbox: Bubblewrap, here: InputFile, attack: Attack) -> None:
    assert await attempted(sandbox, attack, here) is None


def ordinary_python() -> str | None:
    """A Python of this version that an ordinary user can start."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin") or ""):
        with contextlib.suppress(PermissionError, subprocess.CalledProcessError):
            command = [program or "/bin/false", "-c", ""]
            subprocess.run(command, user=65534, group=65534, extra_groups=[], cwd="/", check=True)
            return program
    return None


@linux_only
@pytest.mark.skipif(os.geteuid() != 0, reason="all of these tests already run as an ordinary user")
@pytest.mark.timeout(300)
async def test_the_same_is_stopped_when_an_ordinary_user_is_the_worker() -> None:
    python = await asyncio.to_thread(ordinary_python)
    if python is None:
        pytest.skip("no Python of this version is reachable for an ordinary user")
    packages = next(path for path in sys.path if (Path(path) / "psycopg").exists())
    with tempfile.TemporaryDirectory(prefix="pam-ordinary-") as folder:
        os.chown(folder, 65534, 65534)
        child = await asyncio.create_subprocess_exec(
            *(python, "-B", "-m", "tests.attacks.sandbox_target", folder),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": f"{ROOT}:{packages}"},
            user=65534,
            group=65534,
            extra_groups=[],
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await child.communicate()
    assert child.returncode == 0
    told = json.loads(out)
    assert told == {"uid": 65534, "tried": len(ATTACKS), "breaches": {}}


@pytest.fixture(scope="module")
async def fallback() -> PyodideSandbox:
    await pyodide.install(sandbox_home(str(home())))
    return PyodideSandbox(home=sandbox_home(str(home())))


async def test_what_code_tries_in_pyodide_is_stopped_by_deno(fallback: PyodideSandbox, here: InputFile) -> None:
    program = Program(Language.PYTHON, pyodide_attacks.TOGETHER)
    outcome = await fallback.run(program, (here,), pyodide_attacks.LIMITS)
    assert CANARY not in outcome.output
    told = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", outcome.output, re.MULTILINE | re.DOTALL))
    assert set(told) == set(pyodide_attacks.ESCAPES), outcome
    through = {
        tried: told[tried]
        for tried, (_, stopped_by) in pyodide_attacks.ESCAPES.items()
        if "ESCAPED" in told[tried] or not re.search(stopped_by, told[tried], re.DOTALL)
    }
    assert through == {}


@pytest.mark.parametrize("attack", pyodide_attacks.APART, ids=lambda attack: attack.tried.replace(" ", "-"))
async def test_what_code_uses_up_in_pyodide_is_stopped(
    fallback: PyodideSandbox, here: InputFile, attack: Attack
) -> None:
    outcome = await fallback.run(Program(Language.PYTHON, attack.code), (here,), attack.limits)
    assert breach(attack, outcome) is None
