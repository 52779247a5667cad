"""The demo as people run it: its JSON, its recordings, two at once, and killed in the middle of a newcomer's first."""

import asyncio
import json
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from infra.cli.inspection import timeline_of
from infra.cli.person import Person
from infra.replay.replayed import replay
from infra.replay.stored import recorded
from tests.cli.command import Pam, assert_gone, stack_processes
from workers.tools import CARD_TOOLS, TOOLS

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
async def test_the_demo_works_on_what_is_really_there_with_another_beside_it(pam: Pam, tmp_path: Path) -> None:
    await asked(
        pam,
        "update public.projects set name = %s"
        " where id = (select min(project_id) from public.invitations where is_open)",
        PLANTED,
    )

    beside = await pam.start("demo", "--json")
    ended = await pam.run("demo", "--all-tools", "--json", "--record", str(tmp_path / "re cord"))
    other = await pam.ended(beside)

    assert ended.status == 0, ended.stderr
    assert other.status == 0, other.stderr
    report = ended.json()
    assert [run["gaps"] + run["duplicates"] for run in other.json()["runs"]] == [0, 0]
    assert len({run["id"] for each in (report, other.json()) for run in each["runs"]}) == 4
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

    # Whoever is on call and a member of the demo's organisations reads every run of it, and replays it.
    assert pam.facts is not None
    who = {"email": f"{uuid4().hex}@example.com", "password": uuid4().hex}
    person = await Person.sign_up(pam.facts.url, pam.facts.publishable_key, **who)
    await asked(
        pam,
        "insert into pam.members (org_id, user_id, role)"
        " select distinct org_id, %s::uuid, 'viewer'::pam.member_role from pam.runs",
        person.user_id,
    )
    runs = [row["id"] for row in await asked(pam, "select id::text from pam.runs order by created_at")]
    assert len(runs) >= 5
    for run in runs:
        replayed = await replay(await recorded(person, run), tools=TOOLS)
        assert (replayed.difference, replayed.changed_inputs) == (None, ()), run
        told = await timeline_of(person, run)
        assert told.entries[-1].kind == "end"
        assert told.summary.unseen_usd == 0


async def test_two_newcomers_share_one_stack_from_its_first_second_and_a_kill_of_the_last_leaves_nothing(
    newcomer: Pam,
) -> None:
    process, other = await newcomer.start("demo"), await newcomer.start("agents", "list", "--json")
    facts = await newcomer.until_up()
    processes = stack_processes(facts)

    listed = await newcomer.ended(other)
    assert (listed.status, listed.json()) == (0, []), listed.stderr
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"database_query" not in await process.stdout.readline():
            continue
    assert newcomer.facts == facts
    assert all(each.is_running() for each in processes), "whoever ends leaves the stack to the other"
    os.kill(process.pid, signal.SIGKILL)
    await newcomer.ended(process)

    await assert_gone(processes)

    assert newcomer.facts is None
