"""`check` and `test`: what CI runs, from the command line, with nothing of the caller's that costs money."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape

from infra.cli.setting import home
from infra.local.lite import deno_program
from infra.local.stack import HERE, ROOT

LITE = HERE / "lite"
SPENDS_MONEY = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "PAM_MODEL")
GRACE_SECONDS = 30


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


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a test run: without a model's key, and with the checkout on Python's path."""
    kept = {name: value for name, value in environment.items() if name not in SPENDS_MONEY}
    return {**kept, "PYTHONPATH": str(ROOT), "PAM_HOME": str(home()), "COLUMNS": environment.get("COLUMNS", "120")}


def run_tests(args: Sequence[str], *, mutations: bool, console: Console, as_json: bool) -> dict[str, Any]:
    """Run pytest (or the mutations) and answer {"status", "passed", "failed", "seconds"}.

    pytest's own output goes to stderr while stdout is for JSON. Ctrl-C: pytest ends in good order, status 130.
    """
    if mutations:
        from infra.mutations.run import run_mutations

        return run_mutations(args, console=console)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pam-test-") as folder:
        report = Path(folder) / "report.xml"
        child = subprocess.Popen(
            [sys.executable, "-m", "pytest", f"--junitxml={report}", *args],
            cwd=ROOT,
            env=harmless(os.environ),
            stdout=sys.stderr if as_json else None,
        )
        status = _wait(child)
        passed, failed = counted(report)
    seconds = round(time.monotonic() - began, 2)
    return {"status": status, "passed": passed, "failed": failed, "seconds": seconds}


def _wait(child: "subprocess.Popen[bytes]") -> int:
    """The child's exit status; the terminal's Ctrl-C reaches it too, so it is only waited for."""
    try:
        return child.wait()
    except KeyboardInterrupt:
        try:
            child.wait(GRACE_SECONDS)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            child.kill()
            child.wait()
        return 130


def counted(report: Path) -> tuple[int, int]:
    """Passed and failed tests of a JUnit report; none if pytest did not come so far."""
    try:
        suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314 - our own pytest wrote it
    except (OSError, ElementTree.ParseError):
        return 0, 0
    passed = failed = 0
    for suite in suites:
        wrong = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        failed += wrong
        passed += int(suite.get("tests", 0)) - wrong - int(suite.get("skipped", 0))
    return passed, failed
