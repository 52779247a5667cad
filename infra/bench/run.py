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

from infra.bench import calls, process, queries, rows, runs, sandbox, workspaces
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
    "SELECT over 1,000,000 rows under caps": queries.capped_select,
    "list of 20 runs under RLS": lambda bench: rows.list_runs(bench.facts, bench.org_id, bench.person.user_id),
}


async def run_bench(env: dict[str, str], *, console: Console, only: str | None) -> dict[str, Any]:
    """Measure the rows whose name contains `only` (all without): {"rows": […], "seconds"}. A script plays the model."""
    began = time.monotonic()
    word = (only or "").casefold()
    alone = {name: measure for name, measure in ALONE.items() if word in name.casefold()}
    on_a_stack = {name: measure for name, measure in ON_A_STACK.items() if word in name.casefold()}
    if not (alone or on_a_stack):
        raise CommandFailed(f"no row is called {only}: there are {', '.join([*ALONE, *ON_A_STACK])}")
    done: list[Row] = []

    def took(row: Row) -> None:
        done.append(row)
        console.print(f"  {row.name}: {row.median:g} {row.unit}", style="dim", highlight=False)

    for measure in alone.values():
        took(await measure())
    if on_a_stack:
        folder = Path(tempfile.mkdtemp(prefix="pam-bench-"))
        folder.chmod(0o755)
        try:
            options = StackOptions(state=folder / "stack", home=home(), model=None)
            async with running_stack(options) as facts, Bench.open(facts) as bench:
                for on_stack in on_a_stack.values():
                    took(await on_stack(bench))
        except StackFailed as error:
            raise CommandFailed(str(error)) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    _show(done, console)
    return {"rows": [asdict(row) for row in done], "seconds": round(time.monotonic() - began, 1)}


def _show(done: list[Row], console: Console) -> None:
    table = Table("what", "median", "yardstick", "median", "ratio", "runs", box=None)
    for row in done:
        ours, other = (f"{value:,.2f} {row.unit}" for value in (row.median, row.yardstick_median))
        table.add_row(row.name, ours, row.yardstick, other, f"{row.ratio:.2f}", str(row.runs))
    console.print(table)
    for row in done:
        if row.note:
            console.print(f"{row.name}: {row.note}", style="dim", highlight=False)
