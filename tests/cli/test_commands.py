"""The other commands: what they say when something is missing or wrong, and how they end."""

import json
import os
import signal
import socket
from contextlib import ExitStack
from uuid import uuid4

import pytest

from infra import pytest_run
from tests.cli.command import Pam, assert_gone, stack_processes

CARD = """---
name: Reader
type: assistant
version: 1.0.0
description: Reads files.
tools: [file_read]
---

You read files.
"""


async def test_ask_without_a_model_says_what_to_set(newcomer: Pam) -> None:
    ended = await newcomer.run("ask", "List the files.")

    assert (ended.status, ended.stdout) == (1, "")
    assert "OPENAI_API_KEY" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not newcomer.state.exists(), "nothing is started for a command that cannot go on"


@pytest.mark.parametrize("command", ["events", "watch", "cancel"])
@pytest.mark.parametrize("run", ["not-a-run", str(uuid4())], ids=["odd", "unknown"])
async def test_a_wrong_run_is_named_in_a_sentence(pam: Pam, command: str, run: str) -> None:
    ended = await pam.run(command, run)

    assert (ended.status, ended.stdout) == (1, "")
    said = ended.stderr.strip().splitlines()[-1]
    assert said.startswith("pam: ")
    assert "run" in said
    assert "Traceback" not in ended.stderr


async def test_a_broken_card_is_refused_with_file_line_and_reason(pam: Pam) -> None:
    card = pam.cwd / "broken card.md"
    card.write_text(CARD.replace("file_read", "file_read, launch_rocket"))

    ended = await pam.run("agents", "import", str(card))

    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"pam: {card}:6: unknown tool `launch_rocket`; known are "), ended.stderr


async def test_a_card_is_imported_listed_and_shown(pam: Pam) -> None:
    card = pam.cwd / "reader.md"
    card.write_text(CARD)

    imported = await pam.run("agents", "import", str(card), "--json")

    assert imported.status == 0, imported.stderr
    assert imported.json()["version"] == 1
    assert "Reader" in {agent["name"] for agent in (await pam.run("agents", "list", "--json")).json()}
    shown = (await pam.run("agents", "show", "Reader", "--json")).json()
    assert shown["definition"]["tools"] == ["file_read"]


async def test_up_shows_its_addresses_and_ends_by_ctrl_c_with_nothing_left(newcomer: Pam) -> None:
    process = await newcomer.start("up", "--json")
    assert process.stdout is not None
    told = json.loads(await process.stdout.readline())
    assert {"SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "PAM_DATABASE_URL", "REDIS_URL", "PAM_API_URL"} <= set(told)
    processes = stack_processes(await newcomer.until_up())

    os.killpg(process.pid, signal.SIGINT)
    ended = await newcomer.ended(process)

    assert ended.status in (0, 130), ended.stderr
    assert "Traceback" not in ended.stderr
    await assert_gone(processes)


async def test_up_says_when_its_stack_was_killed_and_leaves_nothing(newcomer: Pam) -> None:
    process = await newcomer.start("up", "--json")
    processes = stack_processes(await newcomer.until_up())

    processes[0].kill()  # the supervisor: what is below it ends by itself
    ended = await newcomer.ended(process)

    assert (ended.status, "the stack ended: `pam up` starts it again" in ended.stderr) == (1, True), ended.stderr
    await assert_gone(processes)


async def test_ports_that_others_took_meanwhile_are_no_trouble(newcomer: Pam) -> None:
    first = await newcomer.start("up", "--json")
    before = stack_processes(await newcomer.until_up())
    os.killpg(first.pid, signal.SIGTERM)
    await newcomer.ended(first)
    await assert_gone(before)
    ports = json.loads((newcomer.state / "ports.json").read_text())
    with ExitStack() as taken:
        for port in ports.values():
            occupied = taken.enter_context(socket.socket())
            occupied.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            occupied.bind(("127.0.0.1", port))
            occupied.listen()

        listed = await newcomer.run("agents", "list", "--json")

        assert listed.status == 0, listed.stderr
        assert not set(json.loads((newcomer.state / "ports.json").read_text()).values()) & set(ports.values())


async def test_a_broken_env_file_is_named_with_its_line(newcomer: Pam) -> None:
    (newcomer.cwd / ".env").write_text("PAM_MODEL=x\nwhat is this\n")

    ended = await newcomer.run("doctor")

    assert ended.status == 1
    assert f"{newcomer.cwd}/.env:2: expected NAME=value" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_command_that_does_not_exist_is_refused_by_usage(newcomer: Pam) -> None:
    ended = await newcomer.run("fly")

    assert ended.status == 2
    assert "fly" in ended.stderr


async def test_bench_measures_beside_a_yardstick(newcomer: Pam) -> None:
    ended = await newcomer.run("bench", "--only", "sql guard", "--json")

    assert ended.status == 0, ended.stderr
    [row] = ended.json()["rows"]
    assert row["runs"] >= 7
    assert row["median"] > row["yardstick_median"] > 0
    assert not newcomer.state.exists(), "a row of one process needs no stack"


async def test_the_test_command_counts_on_stdout_and_talks_on_stderr(newcomer: Pam) -> None:
    ended = await newcomer.run("test", "--json", "-k", "types_alone", "tests/house/test_arrows.py")

    report = ended.json()
    assert (report["status"], report["passed"], report["failed"]) == (0, 1, 0)
    assert "1 passed" in ended.stderr
    nothing = await newcomer.run("test", "--json", "-k", "there_is_no_such_test", "tests/house/test_arrows.py")
    assert (nothing.status, nothing.json()["passed"]) == (5, 0)


@pytest.mark.parametrize(
    ("args", "is_whole"),
    [((), True), (("-q", "--durations=9"), True), (("tests/cli",), False), (("-k", "word"), False), (("-x",), False)],
)
def test_the_whole_suite_runs_in_two_processes_and_a_part_of_it_in_one(args: tuple[str, ...], is_whole: bool) -> None:
    assert bool(pytest_run._at_once(args)) is (is_whole and (os.cpu_count() or 1) > 1)
