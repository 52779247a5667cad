"""`bench`: every figure on a stack of its own state folder, as a table and as JSON."""

import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.bench import calls, live, process, queries, rows, runs, sandbox, scale, starts, steps, takeover, workspaces
from infra.bench.measure import Row
from infra.bench.runs import Bench
from infra.cli.person import CommandFailed
from infra.cli.setting import home
from infra.local.attach import StackFailed, running_stack
from infra.local.stack import StackOptions

Measured = Callable[[], Awaitable[Row]]

ALONE: dict[str, Measured] = {
    "cold import of functions.main": lambda: process.cold_import("functions.main"),
    "cold import of functions.hooks": lambda: process.cold_import("functions.hooks"),
    "warm GET /health through Mangum": process.warm_call,
    "SQL guard, a typical statement": process.guard_look,
    "sandbox start → first line": sandbox.first_line,
}
ON_A_STACK: dict[str, Callable[[Bench], Awaitable[Row]]] = {
    "start_run → first live event": runs.first_event,
    "whole run with one tool": runs.one_tool,
    "one step more": runs.added_step,
    "path of a tool call": calls.path_of_a_call,
    "file_list of 10,000 files": workspaces.list_files,
    "search of 10,000 files": workspaces.search_files,
    "a logged event through to a client": live.events_to_a_client,
    "SELECT over 1,000,000 rows under caps": queries.capped_select,
    "list of 20 runs under RLS": rows.list_runs,  # the last: its million rows stay
}
# Figures that bring workers of their own.
UNSTAFFED: dict[str, Callable[[Bench], Awaitable[Row]]] = {
    "enqueue → start of a run": starts.enqueue_to_start,
    "enqueue → start, beside a bare job": starts.enqueue_to_bare_start,
    "32 runs at once": lambda bench: scale.at_once(bench, 32),
    "1,000 runs at once": lambda bench: scale.at_once(bench, 1_000),
    "added step, everything durable": steps.durable_step,
    "takeover after kill -9": takeover.takeover,
}


async def run_bench(env: dict[str, str], *, console: Console, only: str | None) -> dict[str, Any]:
    """Measure the rows whose name contains `only` (all without): {"rows": […], "seconds"}. A script plays the model."""
    began = time.monotonic()
    word = (only or "").casefold()
    alone = {name: measure for name, measure in ALONE.items() if word in name.casefold()}
    stacks = [
        (workers, {name: measure for name, measure in group.items() if word in name.casefold()})
        for workers, group in ((1, ON_A_STACK), (0, UNSTAFFED))
    ]
    if not (alone or any(chosen for _, chosen in stacks)):
        raise CommandFailed(f"no row is called {only}: there are {', '.join([*ALONE, *ON_A_STACK, *UNSTAFFED])}")
    done: list[Row] = []

    def took(row: Row) -> None:
        done.append(row)
        console.print(f"  {row.name}: {row.median:g} {row.unit}", style="dim", highlight=False)

    def told(line: str) -> None:
        console.print(f"    {line}", style="dim", highlight=False)

    for measure in alone.values():
        took(await measure())
    for workers, chosen in stacks:
        if not chosen:
            continue
        folder = Path(tempfile.mkdtemp(prefix="pam-bench-"))
        folder.chmod(0o755)
        try:
            options = StackOptions(state=folder / "stack", home=home(), model=None, workers=workers)
            async with running_stack(options) as facts, Bench.open(facts, tell=told) as bench:
                for on_stack in chosen.values():
                    took(await on_stack(bench))
        except StackFailed as error:
            raise CommandFailed(str(error)) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    _show(done, console)
    return {"rows": [asdict(row) for row in done], "seconds": round(time.monotonic() - began, 1)}


def _show(done: list[Row], console: Console) -> None:
    table = Table("what", "median", "yardstick", "median", "ratio", "runs", "asked for", box=None)
    for row in done:
        ours, other = (f"{value:,.2f} {row.unit}" for value in (row.median, row.yardstick_median))
        table.add_row(row.name, ours, row.yardstick, other, f"{row.ratio:.2f}", str(row.runs), row.verdict)
    console.print(table)
    for row in done:
        if row.note:
            console.print(f"{row.name}: {row.note}", style="dim", highlight=False)
