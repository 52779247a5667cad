"""Figures of the sandbox: from the call to the first line that a program prints, against a bare Python."""

import asyncio
import sys
import time

from infra.bench.measure import Row, compared
from infra.cli.setting import home
from workers.sandbox.probe import probe, sandbox_home
from workers.sandbox.sandbox import Language, Limits, Program

_HELLO = "print('hello')"


async def first_line() -> Row:
    """A program's first line out of the sandbox that holds here, and out of `python -I -B -c` without one."""
    sandbox = await probe(home=sandbox_home(str(home())))

    async def walled() -> float:
        began = time.perf_counter()
        seen: list[float] = []

        async def note(text: str) -> None:
            seen.append(time.perf_counter() - began)

        outcome = await sandbox.run(Program(Language.PYTHON, _HELLO), (), Limits(), note)
        if outcome.exit_code != 0:
            raise RuntimeError(f"the program in the sandbox ended with {outcome.exit_code}: {outcome.output}")
        return seen[0]

    async def bare() -> float:
        began = time.perf_counter()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-B", "-c", _HELLO), stdout=asyncio.subprocess.PIPE, env={}
        )
        assert child.stdout is not None
        await child.stdout.readline()
        taken = time.perf_counter() - began
        await child.wait()
        return taken

    name = "sandbox start → first line"
    return await compared(name, walled, "bare python", bare, note=f"sandbox: {sandbox.name}")
