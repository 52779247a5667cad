"""`pam approvals`, `approve` and `policy`: what waits, decided at the terminal, and what must wait."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from infra.cli import decisions
from infra.cli.person import CommandFailed, Person
from infra.cli.setting import LOCAL_EMAIL
from infra.local.facts import Secrets, StackFacts
from tests.agent.test_approvals import WRITES
from tests.cli.command import Pam
from tests.cli.test_workspace import Desk
from tests.support.database import DEFINITION
from tests.support.house import Engineer, House


async def local_engineer(pam: Pam, house: House) -> Engineer:
    """Whoever `pam` signs in as on this stack, with an organisation and an agent."""
    facts = house.facts
    who = {"email": LOCAL_EMAIL, "password": Secrets.keep(pam.state / "secrets.json").owner_password}
    try:
        person = await Person.sign_in(facts.url, facts.publishable_key, **who)
    except CommandFailed:
        person = await Person.sign_up(facts.url, facts.publishable_key, **who)
    found = await person.select("organizations", "id")
    org_id = str(found[0]["id"] if found else (await person.call("create_organization", name="Mine"))["org_id"])
    await person.call("import_agent", org_id=org_id, name="engineer", definition=DEFINITION, source="# card")
    return Engineer(person, org_id)


async def test_what_waits_is_listed_decided_and_watched(pam: Pam) -> None:
    assert pam.facts is not None
    async with House.open(pam.facts) as house:
        me = await local_engineer(pam, house)
        told = await pam.run(
            "policy", "set", "owner", "file_write", "write", "--consent", "ask", "--decided-by", "developer"
        )
        assert (told.status, "consent: ask" in told.stdout) == (0, True), told
        assert (await pam.run("policy", "list", "--json")).json()[0]["tool"] == "file_write"

        run_id, _ = await house.play_until_question(me, WRITES)
        await house.until(run_id, "interrupted")
        waiting = (await pam.run("approvals", "--json")).json()
        assert [row["arguments"]["path"] for row in waiting] == ["a.txt", "b.txt"]
        listed = (await pam.run("approvals")).stdout
        for row in waiting:
            assert f"approval {row['id']}  run {run_id}" in listed
            assert f'"content": "{row["arguments"]["content"]}"' in listed
            assert f"why: {row['why']}" in listed

        edited = await pam.run("approve", run_id, "--edit", '{"path": "a.txt", "content": "x"}')
        assert (edited.status, "name the approval" in edited.stderr) == (1, True), edited
        assert "no JSON" in (await pam.run("approve", waiting[0]["id"], "--edit", "{")).stderr
        rejected = await pam.run("approve", waiting[0]["id"], "--reject", "--note", "not now", "--json")
        assert rejected.json()["results"][0]["status"] == "rejected"

        link = (await pam.run("approve", waiting[1]["id"], "--link", "--json")).json()
        assert link["url"].startswith(f"{pam.facts.api_url}/v1/decisions/")

        went_on = await pam.run("approve", run_id)
        assert went_on.status == 0, went_on
        assert went_on.stdout.index('"content": "two"') < went_on.stdout.index(": approved"), (
            "first shown, then decided"
        )
        assert "succeeded" in went_on.stdout, "a single run is watched on"
        assert (await house.until(run_id))["status"] == "succeeded"
        assert (await me.person.call("read_file", org_id=me.org_id, path="b.txt"))["text"] == "two"

        late = await pam.run("approve", waiting[1]["id"])
        assert (late.status, "decided already" in late.stdout) == (1, True), late
        nothing = await pam.run("approve", run_id)
        assert (nothing.status, "nothing waits under" in nothing.stderr) == (1, True), nothing
        odd = await pam.run("approve", "rm -rf")
        assert (odd.status, "no id of a run" in odd.stderr) == (1, True), odd

        reset = await pam.run("policy", "reset", "owner", "file_write", "write")
        assert (reset.status, "by default" in reset.stdout) == (0, True), reset
        wrong = await pam.run("policy", "set", "pope", "file_write", "write")
        assert (wrong.status, "Traceback" in wrong.stderr) == (1, False), wrong
        assert (await pam.run("policy", "list")).stdout.strip().endswith("PAM's defaults hold.")


async def test_what_a_policy_does_not_name_stays_as_it_is(pam: Pam) -> None:
    about = ("owner", "api_call", "irreversible")

    async def told(*words: str) -> tuple[object, ...]:
        holds = (await pam.run("policy", "set", *about, *words, "--json")).json()
        return (
            holds["is_default"],
            *(holds[term] for term in ("is_allowed", "consent", "consent_after_untrusted", "decided_by")),
        )

    default = (await pam.run("policy", "reset", *about, "--json")).json()
    assert (default["is_default"], default["consent"]) == (True, "ask")
    assert await told("--decided-by", "owner") == (False, True, "ask", default["consent_after_untrusted"], "owner")
    assert await told("--after-untrusted", "four_eyes") == (False, True, "ask", "four_eyes", "owner")
    assert await told("--deny") == (False, False, "ask", "four_eyes", "owner")
    assert await told("--consent", "never") == (False, False, "never", "four_eyes", "owner"), "denied it stays"
    assert await told("--allow") == (False, True, "never", "four_eyes", "owner")
    assert (await pam.run("policy", "reset", *about)).status == 0
    every = await pam.run("policy", "set", "owner", "*", "write", "--decided-by", "owner")
    assert (every.status, "say --consent, too" in every.stderr) == (1, True), every


async def at_a_terminal(pam: Pam, typed: str, *words: str) -> str:
    """Run the command with a terminal for its input; answers what it said, its status last."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, typed.encode())
        ended = await pam.ended(await pam.start(*words, stdin=theirs))
    finally:
        os.close(ours)
        os.close(theirs)
    return f"{ended.stdout}{ended.stderr}{ended.status}"


async def test_a_person_at_a_terminal_sees_everything_and_is_asked_once(pam: Pam) -> None:
    assert pam.facts is not None
    async with House.open(pam.facts) as house:
        me = await local_engineer(pam, house)
        set_up = ("policy", "set", "owner", "file_write", "write", "--consent", "ask", "--decided-by", "developer")
        assert (await pam.run(*set_up)).status == 0
        long = "x" * 300 + " the end\\u202e"
        run_id, _ = await house.play_until_question(me, WRITES.replace('"one"', f'"{long}"'))
        await house.until(run_id, "interrupted")
        await house.admin("update pam.approvals set shown = %s where run_id = %s", "2 lines\x1b[2J more", run_id)

        told = await at_a_terminal(pam, "n\n", "approve", run_id)
        assert told.count("these 2 calls?") == 1
        assert told.endswith("pam: nothing was decided\n1"), told
        assert "x the end\\u202e" in told, "the arguments to their end"
        assert "2 lines[2J more" in told
        assert (await house.until(run_id, "interrupted"))["status"] == "interrupted"
        assert len((await pam.run("approvals", "--json")).json()) == 2

        told = await at_a_terminal(pam, "y\n", "approve", run_id, "--note", "go on")
        assert told.endswith("0"), told
        assert (await house.until(run_id))["status"] == "succeeded"

        run_id, _ = await house.play_until_question(me, WRITES.replace("a.txt", "c.txt").replace("b.txt", "d.txt"))
        (first, _) = (await pam.run("approvals", "--json")).json()
        instead = '{"path": "c.txt", "content": "else\\u202e"}'
        told = await at_a_terminal(pam, "", "approve", first["id"], "--edit", instead, "--yes")
        assert "instead:\n" in told
        assert '"content": "else\\u202e"' in told.partition("instead:\n")[2], "what is agreed to is seen, too"
        told = await at_a_terminal(pam, "", "approve", run_id, "--yes")
        assert ("calls?" in told, told[-1]) == (False, "0"), told
        await pam.run("policy", "reset", "owner", "file_write", "write")


async def test_a_large_batch_keeps_every_run_and_names_nothing_twice(
    stack: StackFacts, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await Desk.sit(stack, tmp_path)
    call = desk.person.call
    await call("import_agent", org_id=desk.org_id, name="engineer", definition=DEFINITION, source="# card")
    await call(
        "set_policy", org_id=desk.org_id, role="owner", tool="file_write", effect="write", consent="ask",
        consent_after_untrusted="ask", decided_by="developer",
    )  # fmt: skip
    runs = []
    for paths in (("a.txt", "b.txt"), ("c.txt", "d.txt")):
        script = WRITES.replace("a.txt", paths[0]).replace("b.txt", paths[1])
        runs.append((await house.play_until_question(Engineer(desk.person, desk.org_id), script))[0])
        await house.until(runs[-1], "interrupted")
    one = (await desk.person.select("approvals", "id", run_id=runs[0]))[0]["id"]
    monkeypatch.setattr(decisions, "_MAX_BATCH", 1)

    report = await decisions.approve(
        desk.env, [runs[0], one, *runs], verdict="approve", note=None, edited=None, is_sure=True,
        console=Console(file=io.StringIO()),
    )  # fmt: skip

    assert [result.get("status") for result in report["results"]] == ["approved"] * 4, report
    assert {run["run_id"]: run["status"] for run in report["runs"]} == dict.fromkeys(runs, "queued")
    assert [(await house.until(run))["status"] for run in runs] == ["succeeded"] * 2

    monkeypatch.setattr(decisions, "_MAX_OVER", 3)
    listed = await decisions.list_approvals(desk.env, is_all=True, console=desk.console)
    decided = await house.admin("select id from pam.approvals where org_id = %s order by created_at", desk.org_id)
    assert [row["id"] for row in listed] == [str(row["id"]) for row in decided[1:]], "the newest, the oldest first"
    assert await decisions.list_approvals(desk.env, is_all=False, console=desk.console) == []
