"""Chooses the sandbox at a worker's start: a layer is trusted only when an attack from inside it has failed here."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import structlog

from workers.sandbox.account import can_reach, ordinary_account
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.pyodide import PyodideSandbox
from workers.sandbox.pyodide import trial as pyodide_trial
from workers.sandbox.sandbox import (
    MIB,
    InputFile,
    Language,
    Limits,
    NoSandbox,
    OnOutput,
    Outcome,
    Program,
    Sandbox,
    SandboxRefused,
    Stop,
)
from workers.sandbox.walls import ENVIRONMENT

_TRIALS = {"bubblewrap": Path(__file__).with_name("trial.py").read_text(), "pyodide": pyodide_trial.PROGRAM}
_LIMITS = Limits(wall_seconds=30, processes=16, disk_bytes=2 * MIB, address_bytes=512 * MIB)
_SHORT = Limits(wall_seconds=0.3)
_STAYS = {
    "bubblewrap": Program(Language.SHELL, "trap '' TERM HUP INT; (setsid sleep 60 &) ; while :; do sleep 1; done"),
    "pyodide": Program(Language.PYTHON, "while True: pass"),
}

log = structlog.get_logger()


def sandbox_home(pam_home: str | None) -> Path:
    """Where sandboxes keep what they copied and fetched. Root's own folders are closed to the sandbox's user."""
    wished = Path(pam_home or Path.home() / ".cache" / "pam").absolute() / "sandbox"
    account = ordinary_account()
    if account.is_ours or (pam_home and can_reach(Path(pam_home), account)):
        return wished
    return Path("/var/lib/pam/sandbox")


class ProbedSandbox:
    """A worker's sandbox: probed when the worker opens, at the latest when the first program comes."""

    def __init__(self, *, home: Path) -> None:
        self._home = home
        self._choosing = asyncio.Lock()
        self._chosen: Sandbox | None = None

    async def open(self) -> Sandbox:
        """The layer that holds here; tried once."""
        async with self._choosing:
            if self._chosen is None:
                self._chosen = await probe(home=self._home)
            return self._chosen

    async def run(
        self, program: Program, files: tuple[InputFile, ...], limits: Limits, on_output: OnOutput | None = None
    ) -> Outcome:
        """See Sandbox.run."""
        return await (await self.open()).run(program, files, limits, on_output)

    async def close(self) -> None:
        """Leave nothing behind."""
        if self._chosen is not None:
            await self._chosen.close()


async def probe(*, home: Path) -> Sandbox:
    """The first layer that holds, or NoSandbox. It is logged once, with the reasons against the others."""
    reasons: list[str] = []
    layers: tuple[Callable[[Path], Awaitable[Sandbox]], ...] = (tried_bubblewrap, tried_pyodide)
    for layer in layers:
        try:
            sandbox = await layer(home)
        except SandboxRefused as why:
            reasons.append(str(why))
            continue
        log.info("sandbox chosen", sandbox=sandbox.name, languages=sorted(sandbox.languages), reasons=reasons)
        return sandbox
    log.warning("no sandbox holds", reasons=reasons)
    return NoSandbox(why=tuple(reasons))


async def tried_bubblewrap(home: Path) -> Sandbox:
    """Bubblewrap, after a trial. Raises SandboxRefused with what did not hold."""
    if sys.platform != "linux":
        raise SandboxRefused("Bubblewrap needs Linux.")
    try:
        sandbox = await asyncio.to_thread(Bubblewrap, home=home)
    except OSError as error:
        raise SandboxRefused(f"Bubblewrap's programs could not be laid out ({error.strerror}).") from error
    faults = await faults_of(sandbox)
    if faults:
        raise SandboxRefused("Bubblewrap does not hold: " + " ".join(faults))
    return sandbox


async def tried_pyodide(home: Path) -> Sandbox:
    """Pyodide in Deno, after a trial. Raises SandboxRefused with what did not hold."""
    sandbox = await asyncio.to_thread(PyodideSandbox, home=home)
    faults = await faults_of(sandbox)
    if faults:
        raise SandboxRefused("Pyodide in Deno does not hold: " + " ".join(faults))
    return sandbox


async def faults_of(sandbox: Bubblewrap | PyodideSandbox) -> list[str]:
    """What code could do in there and must not: the trial's own words, and whether a stop takes everything."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    handle, canary = tempfile.mkstemp(prefix="pam-canary-")
    try:
        os.write(handle, b"a file of this machine")
        os.fchmod(handle, 0o644)
        told = {
            "port": server.sockets[0].getsockname()[1],
            "canary": canary,
            "environment": [*ENVIRONMENT, "PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"],
            "processes": _LIMITS.processes,
            "address_bytes": _LIMITS.address_bytes,
            "disk_bytes": _LIMITS.disk_bytes,
        }
        trial = Program(Language.PYTHON, _TRIALS[sandbox.name])
        outcome = await sandbox.run(trial, (InputFile("trial.json", json.dumps(told).encode()),), _LIMITS)
        stopped = await sandbox.run(_STAYS[sandbox.name], (), _SHORT)
    finally:
        server.close()
        os.close(handle)
        os.unlink(canary)
    faults = _said(outcome)
    if stopped.stopped is not Stop.TIME:
        faults.append(f"A program that stays was not stopped: {stopped.output[-200:]}")
    return faults


def _said(outcome: Outcome) -> list[str]:
    with suppress(ValueError):
        said = json.loads(outcome.output)
        if outcome.exit_code == 0 and isinstance(said, list):
            return [str(sentence) for sentence in said]
    return [f"The trial did not run to its end: {outcome.output[-300:] or outcome.stopped or outcome.exit_code}."]
