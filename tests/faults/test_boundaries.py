"""A run of twelve steps with effects, killed and frozen at every boundary that it has; nothing is lost, nothing doubled."""

import asyncio
import random
from collections import Counter

import pytest

from infra.chaos.team import OUTSIDE_STEPS, STEPS, Team
from tests.faults.conftest import Lab
from tests.faults.sweep import Case, Fate, Outcome, Sweep

SEED = 20261123
FROZEN = 6
PEOPLE = 3  # one person may have so many unfinished runs, and no more


def what_is_wrong(lab: Lab, outcome: Outcome, *, last: int) -> list[str]:
    """Everything about a run that its fate does not excuse."""
    found = []
    run, effects = outcome.run, lab.ledger.effects
    if (run["status"], run["steps"]) != ("succeeded", STEPS):
        found.append(f"ended {run['status']} ({run['reason']}) after {run['steps']} steps")
    unknown = [call for call in outcome.calls if call["status"] == "unknown"]
    if [call for call in outcome.calls if call["status"] not in ("succeeded", "unknown")]:
        found.append(f"calls ended as {Counter(call['status'] for call in outcome.calls)}")
    if len(unknown) >= outcome.claims or any(call["tool"] != "api_call" for call in unknown):
        found.append(f"unknown: {[call['tool'] for call in unknown]}")
    lost_at = {call["step"] for call in unknown}
    for step in OUTSIDE_STEPS:
        count = effects[(outcome.case.name, step)]
        if count != 1 and not (count == 0 and step in lost_at):
            found.append(f"step {step} took effect {count} times")
    if 1 < outcome.case.boundary < last and outcome.claims < 2:  # a slow machine may lose a lease besides
        found.append(f"{outcome.claims} claims: nobody took it over")
    return [f"{outcome.case}: {one}" for one in found]


@pytest.mark.timeout(400)
async def test_a_run_goes_on_wherever_its_worker_dies_or_freezes(lab: Lab) -> None:
    teams = [await lab.team() for _ in range(PEOPLE)]
    async with Sweep.open(lab) as sweep:
        boundaries = await sweep.boundaries(teams[0])
        last = len(boundaries)
        assert [row["boundary"] for row in boundaries] == list(range(1, last + 1))
        assert (boundaries[0]["verb"], boundaries[-1]["verb"]) == ("claim_next", "finish_run")
        assert Counter(row["verb"] for row in boundaries)["record_step"] == STEPS
        cases = [Case(number, fate) for number in range(1, last + 1) for fate in (Fate.LOST, Fate.DEAF)]
        cases += [Case(number, Fate.FROZEN) for number in random.Random(SEED).sample(range(1, last), FROZEN)]

        async def play(place: int, case: Case) -> list[str]:
            try:
                return what_is_wrong(lab, await sweep.play(_of(teams, place), case), last=last)
            except (AssertionError, TimeoutError) as error:
                return [f"{case}: {type(error).__name__} {error}"]

        found = await asyncio.gather(*(play(place, case) for place, case in enumerate(cases)))
    print([(row["verb"], row["targets"]) for row in boundaries])
    print(f"{last} boundaries with {sum(row['writes'] for row in boundaries)} writes, {len(cases)} cases")
    told = [one for some in found for one in some]
    assert not told, "\n".join(told)


def _of(teams: list[Team], place: int) -> Team:
    return teams[place % len(teams)]
