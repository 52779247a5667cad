"""Runs pytest in a process of its own, with nothing of the caller's that costs money."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from infra.cli.setting import home
from infra.local.stack import ROOT

SPENDS_MONEY = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "PAM_MODEL")
GRACE_SECONDS = 30


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a test run: without a model's key, and with the checkout on Python's path."""
    kept = {name: value for name, value in environment.items() if name not in SPENDS_MONEY}
    return {**kept, "PYTHONPATH": str(ROOT), "PAM_HOME": str(home()), "COLUMNS": environment.get("COLUMNS", "120")}


def run_tests(args: Sequence[str], *, as_json: bool) -> dict[str, Any]:
    """Run pytest and answer {"status", "passed", "failed", "seconds"}.

    pytest's own output goes to stderr while stdout is for JSON. Ctrl-C: pytest ends in good order, status 130.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pam-test-") as folder:
        report = Path(folder) / "report.xml"
        child = subprocess.Popen(
            [sys.executable, "-m", "pytest", f"--junitxml={report}", *_at_once(args), *args],
            cwd=ROOT,
            env=harmless(os.environ),
            stdout=sys.stderr if as_json else None,
        )
        status = _wait(child)
        passed, failed = counted(report)
    seconds = round(time.monotonic() - began, 2)
    return {"status": status, "passed": passed, "failed": failed, "seconds": seconds}


def _at_once(args: Sequence[str]) -> tuple[str, ...]:
    """The whole suite in two processes, each with a stack of its own; what is picked out, in one."""
    is_whole = all(arg.startswith("-") for arg in args) and not {"-k", "-m", "-n", "-x", "--pdb"} & {*args}
    return ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder") if is_whole and (os.cpu_count() or 1) > 1 else ()


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
