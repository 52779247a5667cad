"""A project that .env names replaces the embedded stack: the commands know only its URL, its key and a person."""

import json
from pathlib import Path

from infra.local.stack import ROOT
from tests.cli.command import Pam
from tests.support.house import House

CARD = ROOT / "tests" / "kernel" / "given_card.md"
ANSWER = """
name: NAME
when: NAME
turns: [{expect: {role: user, tools: [file_list]}, say: "All is well here."}]
"""


async def test_the_environment_of_a_project_is_all_that_the_commands_need(house: House, tmp_path: Path) -> None:
    pam = Pam(home=tmp_path / "unused", cwd=tmp_path)
    email, password = f"{tmp_path.name}@example.com", "correct horse battery staple"
    person = await house.person()
    await person.client.auth.sign_up({"email": email, "password": password})
    (tmp_path / ".env").write_text(
        f"SUPABASE_URL={house.facts.url}\nSUPABASE_PUBLISHABLE_KEY={house.facts.publishable_key}\n"
        f"PAM_EMAIL={email}\nPAM_PASSWORD='{password}'\n"
    )

    imported = (await pam.run("agents", "import", str(CARD), "--json")).json()
    assert (imported["name"], imported["version"]) == ("BackendEngineer", 1)
    assert [agent["name"] for agent in (await pam.run("agents", "list", "--json")).json()] == ["BackendEngineer"]

    asked = await pam.run("ask", await house.script(ANSWER), "--json")
    assert asked.status == 0, asked
    report = asked.json()
    assert (report["status"], report["gaps"], report["duplicates"]) == ("succeeded", 0, 0)
    assert "All is well here." in asked.stderr

    told = await pam.run("events", report["run_id"], "--jsonl")
    assert [json.loads(line) for line in told.stdout.splitlines()] == await house.events(report["run_id"])
    assert (await pam.run("watch", report["run_id"], "--json")).json()["events"] == report["events"]
    again = await pam.run("cancel", report["run_id"])
    assert (again.status, "ended already" in again.stderr) == (1, True)
    assert not (tmp_path / "unused").exists(), "nothing of the embedded stack was touched"
