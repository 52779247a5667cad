"""`pam hosts`: the list of hosts, kept at the terminal; what is repeated changes nothing, what is wrong is said."""

from pathlib import Path

import pytest

from infra.cli import hosts
from infra.cli.person import CommandFailed
from infra.local.facts import StackFacts
from tests.cli.command import Pam
from tests.cli.test_workspace import Desk


async def test_the_commands_keep_the_list_of_ones_organisation(pam: Pam) -> None:
    allowed = await pam.run("hosts", "allow", "api.example.com", "--json")
    assert (allowed.status, allowed.json()) == (0, {"host": "api.example.com", "port": 443}), allowed
    assert "api.example.com " in (await pam.run("hosts", "list")).stdout
    gone = await pam.run("hosts", "disallow", "api.example.com", "--json")
    assert (gone.status, gone.json()) == (0, {"host": "api.example.com", "was_listed": True}), gone
    assert (await pam.run("hosts", "list", "--json")).json() == []
    wrong = await pam.run("hosts", "allow", "https://api.example.com")
    assert (wrong.status, wrong.stdout, "Traceback" in wrong.stderr) == (1, "", False)
    assert "A host is written in small ASCII letters" in wrong.stderr


async def test_a_host_is_allowed_listed_and_taken_off_and_each_may_be_repeated(
    stack: StackFacts, tmp_path: Path
) -> None:
    desk = await Desk.sit(stack, tmp_path)
    assert await hosts.list_hosts(desk.env, console=desk.console) == []
    assert "pam hosts allow api.example.com" in desk.said.getvalue()

    for _ in range(2):
        allowed = await hosts.allow_host(desk.env, "api.example.com", console=desk.console)
        assert allowed == {"host": "api.example.com", "port": 443}
        assert desk.said.getvalue() == "Agents may call api.example.com.\n"
    await hosts.allow_host(desk.env, "*.example.net:8443", console=desk.console)
    assert "*.example.net:8443. That is every name below it" in desk.said.getvalue()

    rows = await hosts.list_hosts(desk.env, console=desk.console)
    assert [(row["host"], row["port"]) for row in rows] == [("api.example.com", 443), ("*.example.net", 8443)]
    listed = desk.said.getvalue()
    assert "*.example.net:8443 " in listed
    assert "api.example.com " in listed, "443 is what a host means without a port"

    async def taken_off(host: str) -> tuple[object, str]:
        told = await hosts.disallow_host(desk.env, host, console=desk.console)
        assert told["host"] == host
        return told["was_listed"], desk.said.getvalue()

    assert await taken_off("api.example.com") == (True, "Agents may not call api.example.com any more.\n")
    was_listed, said = await taken_off("api.example.com")
    assert (was_listed, "was not on the list as it is written here" in said) == (False, True)
    assert (await taken_off("*.example.net"))[0] is False, "another port is another entry"
    assert (await taken_off("*.example.net:8443"))[0] is True
    assert await hosts.list_hosts(desk.env, console=desk.console) == []

    for host, fault in (("127.0.0.1", "not an IP address"), ("db.internal", "inner networks are not reached")):
        with pytest.raises(CommandFailed, match=fault):
            await hosts.allow_host(desk.env, host, console=desk.console)


async def test_only_an_admin_keeps_the_list_and_a_developer_is_told_so(stack: StackFacts, tmp_path: Path) -> None:
    owner, developer = await Desk.sit(stack, tmp_path), await Desk.sit(stack, tmp_path)
    about = {"org_id": owner.org_id, "user_id": developer.person.user_id, "role": "developer"}
    await owner.person.call("set_member", **about)
    await hosts.allow_host(owner.env, "api.example.com", console=owner.console)
    there = {**developer.env, "PAM_ORG_ID": owner.org_id}

    for change in (hosts.allow_host, hosts.disallow_host):
        with pytest.raises(CommandFailed, match="Only an admin or owner"):
            await change(there, "api.example.com", console=developer.console)
    rows = await hosts.list_hosts(there, console=developer.console)
    assert [row["host"] for row in rows] == ["api.example.com"]
