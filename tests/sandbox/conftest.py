"""The sandboxes of this machine, each built once."""

import pytest

from infra.cli.setting import home
from workers.sandbox import pyodide
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.probe import sandbox_home
from workers.sandbox.pyodide import PyodideSandbox


@pytest.fixture(scope="session")
def bubblewrap() -> Bubblewrap:
    return Bubblewrap(home=sandbox_home(str(home())))


@pytest.fixture(scope="session")
async def pyodide_sandbox() -> PyodideSandbox:
    await pyodide.install(sandbox_home(str(home())))
    return PyodideSandbox(home=sandbox_home(str(home())))
