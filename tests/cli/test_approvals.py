"""`pam approvals`, `approve` and `policy`: what waits, decided at the terminal, and what must wait."""

from infra.cli.person import CommandFailed, Person
from infra.cli.setting import LOCAL_EMAIL
from infra.local.facts import Secrets
from tests.agent.test_approvals import WRITES
from tests.cli.command import Pam
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
        assert "file_write" in (await pam.run("approvals")).stdout

        edited = await pam.run("approve", run_id, "--edit", '{"path": "a.txt", "content": "x"}')
        assert (edited.status, "name the approval" in edited.stderr) == (1, True), edited
        assert "no JSON" in (await pam.run("approve", waiting[0]["id"], "--edit", "{")).stderr
        rejected = await pam.run("approve", waiting[0]["id"], "--reject", "--note", "not now", "--json")
        assert rejected.json()["results"][0]["status"] == "rejected"

        link = (await pam.run("approve", waiting[1]["id"], "--link", "--json")).json()
        assert link["url"].startswith(f"{pam.facts.api_url}/v1/decisions/")

        went_on = await pam.run("approve", run_id)
        assert went_on.status == 0, went_on
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
