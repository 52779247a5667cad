"""`chaos`: a seeded storm over a stack of its own: workers and parts are killed while runs work, and all is counted."""

import asyncio
import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from rich.console import Console

from infra.chaos.outside import OutsideLedger
from infra.chaos.parts import NO_POWER_CUT
from infra.chaos.storm import Storm
from infra.chaos.team import SCRIPTS
from infra.cli.person import CommandFailed
from infra.cli.setting import home
from infra.local.attach import StackFailed, is_unsupervised, running_stack
from infra.local.processes import ProcessFailed
from infra.local.stack import StackOptions

_MAX_SEED = 1_000_000
_STOPS_SECONDS = 30.0
_LINGERS_SECONDS = 0.25  # so that many a worker dies while its call is outside


async def run_chaos(*, minutes: float, seed: int | None, console: Console) -> dict[str, Any]:
    """Blow for so many minutes; answers what --json prints. Raises CommandFailed when it cannot even begin."""
    seed = secrets.randbelow(_MAX_SEED) if seed is None else seed
    began = time.monotonic()

    def progress(line: str) -> None:
        console.print(f"  {line}", style="dim")

    console.print(f"Seed {seed}: `pam chaos --minutes {minutes:g} --seed {seed}` brings the same faults again.")
    async with _state() as state:
        options = StackOptions(
            state=state, home=home(), model=None, scripts=(SCRIPTS,), workers=0, postgres_settings=NO_POWER_CUT
        )
        try:
            async with (
                running_stack(options, progress=progress) as facts,
                OutsideLedger.open(lingers_seconds=_LINGERS_SECONDS) as ledger,
            ):
                storm = Storm(facts=facts, ledger=ledger, seed=seed, progress=progress)
                tally = await storm.blow(seconds=minutes * 60)
                effects = sum(ledger.effects.values())
            if tally.breaches:
                kept = await asyncio.to_thread(_keep_logs, state, seed)
                console.print(f"What every process said is in {kept}")
        except (StackFailed, ProcessFailed) as failure:
            raise CommandFailed(str(failure)) from failure
    report = {
        "seed": seed,
        "minutes": minutes,
        "runs": len(tally.accepted),
        "kills": tally.kills,
        "effects": effects,
        "breaches": tally.breaches,
        "ok": not tally.breaches,
        "ends": tally.ends,
        "faults": dict(sorted(tally.faults.items())),
        "slowest_seconds": tally.slowest_seconds,
        "seconds": round(time.monotonic() - began, 1),
    }
    for one in tally.breaches:
        console.print(f"[red]✘ {one['breach']}[/red]: {one['subject']}")
    mark = "[green]✔ every invariant held[/green]" if report["ok"] else "[red]✘ invariants were broken[/red]"
    console.print(f"{mark}: {report['runs']} runs, {report['kills']} kills, {report['effects']} effects outside.")
    return report


def _keep_logs(state: Path, seed: int) -> Path:
    """The logs of a storm that broke something, for whoever looks into it."""
    kept = Path(tempfile.mkdtemp(prefix=f"pam-chaos-logs-{seed}-"))
    return Path(shutil.copytree(state / "logs", kept, dirs_exist_ok=True))


@contextlib.asynccontextmanager
async def _state() -> AsyncIterator[Path]:
    """A state folder that the database's account can reach; it goes away when the stack in it has stopped."""
    folder = Path(tempfile.mkdtemp(prefix="pam-chaos-"))
    folder.chmod(0o755)
    try:
        yield folder / "stack"
    finally:
        with contextlib.suppress(TimeoutError, FileNotFoundError):
            async with asyncio.timeout(_STOPS_SECONDS):
                while not is_unsupervised(folder / "stack"):
                    await asyncio.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
