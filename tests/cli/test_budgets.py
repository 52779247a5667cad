"""`pam budget`: what runs together may use, set and seen at the terminal."""

from pathlib import Path

import pytest

from infra.cli import budgets
from infra.cli.person import CommandFailed
from infra.local.facts import StackFacts
from tests.cli.command import Pam
from tests.cli.test_workspace import Desk


async def test_the_commands_set_show_and_clear_a_budget(pam: Pam) -> None:
    told = await pam.run("budget", "set", "day", "--usd", "12.5", "--steps", "1000", "--minutes", "90", "--json")
    limits = [told.json()[f"max_{what}"] for what in ("cost_usd", "tokens", "steps", "seconds")]
    assert (told.status, limits) == (0, [12.5, None, 1000, 5400]), told
    (row,) = (await pam.run("budget", "list", "--json")).json()
    assert (row["period"], row["user_id"], row["max_tokens"]) == ("day", None, None)
    listed = (await pam.run("budget", "list")).stdout
    assert "of 12.50" in listed
    assert "0.0 of 90.0" in listed
    for _ in range(2):
        assert (
            await pam.run("budget", "clear", "day")
        ).stdout == "All runs of the organisation have no budget a day.\n"
    assert (await pam.run("budget", "list", "--json")).json() == []
    for wrong in (("set", "week", "--usd", "1"), ("set", "day"), ("set", "day", "--usd", "-1")):
        refused = await pam.run("budget", *wrong)
        assert (refused.status, refused.stdout, "Traceback" in refused.stderr) == (2, "", False), wrong


async def test_a_budget_is_told_with_what_is_used_of_it(stack: StackFacts, tmp_path: Path) -> None:
    desk = await Desk.sit(stack, tmp_path)
    assert await budgets.list_budgets(desk.env, console=desk.console) == []
    assert "`pam budget set day --usd 20` does" in " ".join(desk.said.getvalue().split())
    limits = {"max_cost_usd": 20.0, "max_tokens": 1_000_000, "max_steps": None, "max_seconds": 3600}
    await budgets.set_budget(desk.env, "month", limits, user_id=None, console=desk.console)
    assert "may use $20.00, 1,000,000 tokens, 60 minutes a month (UTC)." in desk.said.getvalue()
    (row,) = await budgets.list_budgets(desk.env, console=desk.console)
    assert (row["used_tokens"], row["held_tokens"], row["used_cost_usd"]) == (0, 0, 0)
    said = desk.said.getvalue()
    assert "0.00 of 20.00" in said
    assert "0 of 1,000,000" in said
    with pytest.raises(CommandFailed, match="no such member"):
        await budgets.set_budget(
            desk.env, "day", limits, user_id="00000000-0000-4000-8000-000000000000", console=desk.console
        )
