"""`pam jobs`: background work listed, shown, cancelled and tried again at the terminal."""

from tests.agent.test_jobs import SUBMIT, job_of
from tests.cli.command import Pam
from tests.cli.test_approvals import local_engineer
from tests.support.house import House


async def test_a_job_is_listed_shown_cancelled_and_tried_again(pam: Pam) -> None:
    assert pam.facts is not None
    async with House.open(pam.facts) as house:
        me = await local_engineer(pam, house)
        later = SUBMIT.replace("action: submit", "action: submit, in_seconds: 3600")
        later = later.replace("TASK", "redis_set").replace("ARGUMENTS", "{key: visits, increment: 2}")
        await house.play(me, later)
        (row,) = (await pam.run("jobs", "list", "--status", "scheduled", "--json")).json()["jobs"]
        assert "redis_set" in (await pam.run("jobs", "list")).stdout

        assert (await pam.run("jobs", "cancel", row["id"], "--json")).json()["status"] == "cancelled"
        again = await pam.run("jobs", "cancel", row["id"])
        assert (again.status, "has ended already" in again.stderr) == (1, True), again
        assert (await pam.run("jobs", "retry", row["id"], "--json")).json()["status"] == "scheduled"
        await job_of(house, me, "succeeded")
        shown = (await pam.run("jobs", "show", row["id"], "--json")).json()
        assert (shown["status"], shown["result"]) == ("succeeded", "visits is 2 now.")
        nobody = await pam.run("jobs", "show", "x")
        assert (nobody.status, "pam jobs list" in nobody.stderr) == (1, True), nobody
