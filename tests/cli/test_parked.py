"""`pam parked` and `pam retry`: what was given up after lost workers, listed and asked once more."""

import json
from uuid import UUID

import psycopg

from tests.cli.command import Pam
from tests.cli.terminals import QUICK
from tests.cli.test_approvals import local_engineer
from tests.support.house import Engineer, House


async def poisoned(pam: Pam, me: Engineer, message: str) -> str:
    """A run that five workers were lost at, before any worker of this stack sees it."""
    assert pam.facts is not None
    async with await psycopg.AsyncConnection.connect(pam.facts.admin_dsn) as connection:
        claims = json.dumps({"sub": me.person.user_id, "role": "authenticated"})
        await connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        asked = "select pam.start_run(%s, 'engineer', %s) ->> 'run_id'"
        row = await (await connection.execute(asked, [UUID(me.org_id), message])).fetchone()
        assert row is not None
        await connection.execute("update pam.runs set attempt = 5 where id = %s", [row[0]])
    return str(row[0])


async def test_what_is_parked_is_listed_until_it_is_tried_again(pam: Pam) -> None:
    assert pam.facts is not None
    async with House.open(pam.facts) as house:
        me = await local_engineer(pam, house)
        assert "Nothing is parked." in (await pam.run("parked")).stdout
        run_id = await poisoned(pam, me, await house.script(QUICK))
        assert (await house.until(run_id))["reason"] == "attempts"

        (row,) = (await pam.run("parked", "--json")).json()
        assert (row["id"], row["sentence"].startswith("The run is parked: five workers")) == (run_id, True)
        listed = (await pam.run("parked")).stdout
        assert f"run {run_id} ended" in listed
        assert row["sentence"] in listed

        again = (await pam.run("retry", run_id, "--json")).json()
        assert (await house.until(again["run_id"]))["status"] == "succeeded"
        assert (await pam.run("parked", "--json")).json() == []
        twice = await pam.run("retry", again["run_id"])
        assert (twice.status, "this one is succeeded" in twice.stderr) == (1, True), twice
        odd = await pam.run("retry", "x", "--despite-effects")
        assert (odd.status, "no run id" in odd.stderr) == (1, True), odd
