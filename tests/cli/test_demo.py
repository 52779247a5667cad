"""The demo as a newcomer runs it: its JSON, its recordings, two at once, and killed in the middle."""

import asyncio
import json
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.cli.command import Pam, assert_gone, stack_processes
from workers.tools import CARD_TOOLS

PLANTED = "Planted Heron 7261"


async def asked(pam: Pam, statement: str, *values: Any) -> list[dict[str, Any]]:
    """Ask the stack's database as its superuser."""
    assert pam.facts is not None
    async with await psycopg.AsyncConnection.connect(
        pam.facts.admin_dsn, autocommit=True, row_factory=dict_row
    ) as admin:
        cursor = await admin.execute(statement.encode(), values or None)
        return await cursor.fetchall() if cursor.description else []


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.timeout(240)
async def test_the_demo_works_on_what_is_really_there(pam: Pam, tmp_path: Path) -> None:
    await asked(
        pam,
        "update public.projects set name = %s"
        " where id = (select min(project_id) from public.invitations where is_open)",
        PLANTED,
    )

    ended = await pam.run("demo", "--all-tools", "--json", "--record", str(tmp_path / "re cord"))

    assert ended.status == 0, ended.stderr
    report = ended.json()
    assert set(report) == {"model", "runs", "tools", "seconds_to_first_event", "seconds"}
    assert {tool["tool"] for tool in report["tools"]} == set(CARD_TOOLS)
    for tool in report["tools"]:
        assert set(tool["ledger"]) == {"succeeded"}, tool
        assert tool["event_seq"], tool
        assert tool["audit_rows"] == len(tool["ledger"]), tool
    assert report["model"] == "rehearsal"
    assert 0 < report["seconds_to_first_event"] < report["seconds"]
    first, second = report["runs"]
    for run in (first, second):
        assert set(run) == {"id", "status", "tools", "events", "gaps", "duplicates", "cost_usd"}
        assert (run["status"], run["gaps"], run["duplicates"]) == ("succeeded", 0, 0)
        assert run["cost_usd"] > 0
        rows = lines(tmp_path / "re cord" / f"rows-{run['id']}.jsonl")
        assert [row["seq"] for row in rows] == list(range(1, run["events"] + 1))
        assert (rows[0]["payload"]["type"], rows[-1]["payload"]["type"]) == ("RUN_STARTED", "RUN_FINISHED")
        frames = lines(tmp_path / "re cord" / f"frames-{run['id']}.jsonl")
        over = datetime.fromisoformat(rows[-1]["created_at"]).timestamp()
        broadcasts = [frame["at"] for frame in frames if '"broadcast"' in frame["frame"]]
        assert len([at for at in broadcasts if at < over]) >= 5, "most is seen while the run still works"
    assert first["tools"].count("file_write") == 1
    assert {"database_query", "file_write", "redis_set", "redis_get", "file_read"} <= set(second["tools"])

    # What was planted went through the person's row-level security, the tool, the model, and back.
    [stored] = await asked(
        pam,
        "select (select string_agg(payload::text, ' ') from pam.events where run_id = r.id) as events,"
        " (select string_agg(result, ' ') from pam.tool_calls where run_id = r.id) as ledger,"
        " (select content from pam.messages where run_id = r.id order by position desc limit 1) as answer"
        " from pam.runs r where r.id = %s",
        first["id"],
    )
    assert all(PLANTED in text for text in stored.values())
    assert PLANTED in ended.stderr

    cut = json.loads((tmp_path / "re cord" / "cut.json").read_text())
    assert cut["run_id"] == second["id"]
    frames = lines(tmp_path / "re cord" / f"frames-{second['id']}.jsonl")
    assert [frame for frame in frames if frame["at"] < cut["at"]]
    assert [frame for frame in frames if frame["at"] > cut["at"] + cut["away_seconds"]]
    away = [frame for frame in frames if cut["at"] + 0.1 < frame["at"] < cut["at"] + cut["away_seconds"]]
    assert not away, "nothing can come while the connection is gone"


@pytest.mark.timeout(240)
async def test_two_newcomers_share_one_stack_from_its_first_second(newcomer: Pam) -> None:
    one, two = await newcomer.start("demo", "--json"), await newcomer.start("demo", "--json")
    processes = stack_processes(await newcomer.until_up())

    reports = [(await newcomer.ended(process)) for process in (one, two)]

    for ended in reports:
        assert ended.status == 0, ended.stderr
        assert [run["gaps"] + run["duplicates"] for run in ended.json()["runs"]] == [0, 0]
    assert not {run["id"] for run in reports[0].json()["runs"]} & {run["id"] for run in reports[1].json()["runs"]}
    await assert_gone(processes)


async def test_a_demo_killed_in_the_middle_leaves_nothing_running(newcomer: Pam) -> None:
    process = await newcomer.start("demo")
    await newcomer.until_up()
    processes = stack_processes(await newcomer.until_up())
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while b"database_query" not in await process.stdout.readline():
            continue
    os.kill(process.pid, signal.SIGKILL)
    await newcomer.ended(process)

    await assert_gone(processes)

    assert newcomer.facts is None
