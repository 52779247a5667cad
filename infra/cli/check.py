"""`check`: format, lint, types and house rules, from the command line."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from infra.cli.setting import home
from infra.local.lite import deno_program
from infra.local.stack import HERE, ROOT
from infra.pytest_run import harmless

LITE = HERE / "lite"


@dataclass(frozen=True)
class Check:
    """One thing that CI looks at: commands run one after the other; the first that fails is shown."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    environment: dict[str, str] = field(default_factory=dict)


def checks() -> tuple[Check, ...]:
    """Everything that `check` runs."""
    python, deno, configuration = sys.executable, str(deno_program()), str(LITE / "deno.json")
    written = tuple(str(path) for path in (LITE / "launch.ts", *sorted((ROOT / "tests").rglob("*.ts"))))
    return (
        Check("format", ((python, "-m", "ruff", "format", "--check", "--output-format", "concise", "."),)),
        Check("lint", ((python, "-m", "ruff", "check", "--output-format", "concise", "."),)),
        Check("types", ((python, "-m", "mypy"),)),
        Check(
            "TypeScript",
            (
                (deno, "fmt", "--check", "--config", configuration, *written),
                (deno, "check", "--config", configuration, *written),
            ),
            {"DENO_DIR": str(home() / "deno"), "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"},
        ),
        Check("house rules", ((python, "-m", "pytest", "-p", "no:cacheprovider", "tests/house"),)),
    )


def run_check(*, console: Console) -> dict[str, Any]:
    """Run every check, two at a time; a line appears when one is done, with its output if it failed."""
    done: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for future in as_completed([pool.submit(_run, check) for check in checks()]):
            outcome = future.result()
            done.append(outcome)
            mark = "[green]✔[/green]" if outcome["ok"] else "[red]✘[/red]"
            console.print(f"{mark} {outcome['name']} ({outcome['seconds']:.1f} s)")
            if not outcome["ok"]:
                console.print(escape(outcome["output"]), highlight=False, soft_wrap=True)
    order = [check.name for check in checks()]
    done.sort(key=lambda outcome: order.index(outcome["name"]))
    return {"ok": all(outcome["ok"] for outcome in done), "checks": done}


def _run(check: Check) -> dict[str, Any]:
    began = time.monotonic()
    status, output = 0, ""
    for command in check.commands:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**harmless(os.environ), **check.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        status, output = ended.returncode, ended.stdout.strip()
        if status:
            break
    seconds = round(time.monotonic() - began, 2)
    return {"name": check.name, "ok": status == 0, "seconds": seconds, "output": output}
