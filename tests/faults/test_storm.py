"""Storms by the command itself: drawn from a seed, counted in one line, over without a trace, also when broken off."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.chaos.weather import forecast
from infra.cli.setting import home
from infra.local.stack import ROOT
from tests.support.stack import temporary_state


def test_the_same_seed_is_the_same_weather_and_another_is_another() -> None:
    assert forecast(7, seconds=600) == forecast(7, seconds=600)
    assert forecast(7, seconds=600) != forecast(8, seconds=600)
    assert forecast(7, seconds=60) == [fault for fault in forecast(7, seconds=600) if fault.at_seconds < 60]


def test_ten_minutes_of_weather_strike_every_part_in_every_way() -> None:
    struck = {(fault.act, fault.part) for fault in forecast(7, seconds=600)}
    parts = ("worker", "postgres", "redis", "gateway", "rehearsal", "functions", "lite")
    assert {("kill", part) for part in parts} <= struck
    assert {("freeze", "worker"), ("restart", "worker"), ("flush", "redis"), ("freeze", "rehearsal")} <= struck


def chaos(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PAM_HOME": str(home()), "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "infra.cli", "chaos", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it for what runs beside it
    )  # fmt: skip


def of(folder: Path) -> list[Any]:
    """Processes that a storm in this folder started."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        told = [*(process.info["cmdline"] or []), process.info["cwd"] or ""]
        if any(str(folder) in word for word in told):
            found.append(process)
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the storm keeps its stack."""
    with temporary_state() as state:
        yield state.parent


@pytest.mark.timeout(240)
def test_a_storm_of_some_seconds_loses_and_doubles_nothing(folder: Path) -> None:
    command = chaos("--minutes", "0.4", "--seed", "20261123", "--json", folder=folder)
    told, progress = command.communicate(timeout=230)
    assert told, progress
    report = json.loads(told)
    assert report["breaches"] == [], progress
    assert (command.returncode, report["ok"]) == (0, True)
    assert (report["seed"], report["minutes"]) == (20261123, 0.4)
    assert report["kills"] == sum(fault.is_kill for fault in forecast(20261123, seconds=24))
    assert report["runs"] >= 6
    assert report["effects"] >= report["runs"], "three a run, unless their outcome is unknown"
    assert of(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.timeout(120)
def test_a_storm_that_is_broken_off_leaves_nothing(folder: Path) -> None:
    command = chaos("--minutes", "5", "--seed", "1", folder=folder)
    assert command.stdout is not None
    for line in command.stdout:
        if "kills" in line:  # it has begun to blow
            break
    os.kill(command.pid, signal.SIGINT)
    _, said = command.communicate(timeout=90)
    assert command.returncode == 130
    assert "Traceback" not in said
    assert of(folder) == []
    assert list(folder.iterdir()) == []
