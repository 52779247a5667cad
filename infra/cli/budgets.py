"""`budget list | set | clear`: what an organisation's runs, or one member's, may use in a day or month."""

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.cli.setting import place


async def list_budgets(env: dict[str, str], *, console: Console) -> list[dict[str, Any]]:
    """The budgets that you may see, with what is used and held of each by now."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        rows: list[dict[str, Any]] = (await person.call("read_budgets", org_id=await where.organization(person)))[
            "budgets"
        ]
    table = Table("for", "a", "dollars", "tokens", "steps", "minutes", "begins anew", box=None)
    for row in rows:
        table.add_row(
            _whose(row["user_id"]),
            row["period"],
            _of(row["used_cost_usd"], row["held_cost_usd"], row["max_cost_usd"], "{:,.2f}"),
            _of(row["used_tokens"], row["held_tokens"], row["max_tokens"], "{:,.0f}"),
            _of(row["used_steps"], 0, row["max_steps"], "{:,.0f}"),
            _of(
                row["used_seconds"] / 60, 0, None if row["max_seconds"] is None else row["max_seconds"] / 60, "{:,.1f}"
            ),
            f"{datetime.fromisoformat(row['begins_anew_at']):%Y-%m-%d %H:%M} UTC",
        )
    console.print(
        table
        if rows
        else "No budget is set: each run's own limits hold, and nothing bounds them together. "
        "`pam budget set day --usd 20` does."
    )
    return rows


async def set_budget(
    env: dict[str, str], period: str, limits: dict[str, Any], *, user_id: str | None, console: Console
) -> dict[str, Any]:
    """Set a budget; without limits it is taken away. Raises CommandFailed for no admin or no such member."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        told = await person.call("set_budget", org_id=org_id, period=period, user_id=user_id, **limits)
    bounds = [f"${limits['max_cost_usd']:,.2f}"] if limits.get("max_cost_usd") is not None else []
    bounds += [
        f"{limits[f'max_{what}']:,} {what}" for what in ("tokens", "steps") if limits.get(f"max_{what}") is not None
    ]
    bounds += [f"{limits['max_seconds'] // 60:,} minutes"] if limits.get("max_seconds") is not None else []
    whose = "All runs of the organisation" if user_id is None else f"The runs of {user_id}"
    console.print(
        f"{whose} may use {', '.join(bounds)} a {period} (UTC)." if bounds else f"{whose} have no budget a {period}.",
        soft_wrap=True,
    )
    return dict(told)


def _whose(user_id: str | None) -> str:
    return "everybody" if user_id is None else user_id


def _of(used: float, held: float, most: float | None, form: str) -> str:
    said = form.format(used) + (f" (+{form.format(held)} held)" if held else "")
    return f"{said} of {form.format(most)}" if most is not None else said
