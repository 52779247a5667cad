"""`pam pause` and `pam resume`: a run that rests, and whoever watches it."""

import asyncio

from tests.agent.test_pause import THINKS
from tests.cli.command import Pam
from tests.cli.test_approvals import local_engineer
from tests.support.house import House


async def test_a_run_is_paused_and_resumed_and_whoever_watches_sees_both(pam: Pam) -> None:
    assert pam.facts is not None
    async with House.open(pam.facts) as house:
        me = await local_engineer(pam, house)
        message = await house.script(THINKS)
        run_id = await me.start(message)
        async with asyncio.timeout(20):
            while await house.unused(message):
                await asyncio.sleep(0.02)
        told = await pam.run("pause", run_id)
        assert (told.status, told.stdout.startswith("The run stops where it is")) == (0, True), told
        await house.until(run_id, "queued")
        assert (await pam.run("pause", run_id, "--json")).json()["message"] == "The run rests until it is resumed."

        watching = asyncio.create_task(pam.run("watch", run_id))
        assert (await pam.run("resume", run_id)).stdout == "The run goes on.\n"
        seen = await watching
        assert seen.status == 0, seen
        assert "A person has paused the run. It rests until it is resumed." in " ".join(seen.stdout.split())
        assert "the run rests: A person has paused the run." in (await pam.run("inspect", run_id)).stdout

        for verb in ("pause", "resume"):
            refused = await pam.run(verb, run_id)
            assert (refused.status, "The run is over." in refused.stderr) == (1, True), refused
