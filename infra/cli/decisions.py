"""`approvals`, `approve` and `policy`: what runs wait for, decided from the terminal, and when they must wait."""

import json
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from infra.cli.ask import follow
from infra.cli.console import agreed
from infra.cli.person import CommandFailed, Person
from infra.cli.plain_text import as_json, plain, shown
from infra.cli.setting import place

_MAX_BATCH = 200
_MAX_OVER, _OVER = 50, ["approved", "rejected", "answered", "expired", "withdrawn"]
_TERMS = ("is_allowed", "consent", "consent_after_untrusted", "decided_by")


async def list_approvals(env: dict[str, str], *, is_all: bool, console: Console) -> list[dict[str, Any]]:
    """What waits in the person's organisation, oldest first and in full; is_all: a line for each of the last to end."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        rows = [row async for row in person.select_all("approvals", by="id", org_id=org_id, status="pending")]
        over: list[dict[str, Any]] = []
        if is_all:
            over = await person.select("approvals", order="created_at", limit=_MAX_OVER, org_id=org_id, status=_OVER)
    over.reverse()
    rows = [*over, *sorted(rows, key=lambda row: str(row["created_at"]))]
    table = Table("approval", "run", "tool", "why", "until", "status", box=None)
    for row in over:
        table.add_row(row["id"], row["run_id"], row["tool"], shown(row["why"]), row["expires_at"][:16], row["status"])
    if over:
        console.print(table)
    for row in rows:
        if row["status"] == "pending":
            _show(row, console)
    if not rows:
        console.print("Nothing waits for a person.")
    return rows


async def approve(
    env: dict[str, str],
    ids: list[str],
    *,
    verdict: str,
    note: str | None,
    edited: str | None,
    is_sure: bool,
    console: Console,
) -> dict[str, Any]:
    """Show approvals by id, or everything that the named runs wait for, and decide them; a single run is followed.

    A person at a terminal is asked once, unless is_sure. Raises CommandFailed when they say no: nothing is decided.
    """
    arguments = _arguments(edited)
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        waiting = list({row["id"]: row for wanted in ids for row in await _waiting(person, wanted)}.values())
        if arguments is not None and len(waiting) != 1:
            raise CommandFailed(f"--edit changes one call; {len(waiting)} wait here: name the approval")
        decisions = [
            {"approval_id": row["id"], "verdict": verdict, "note": note}
            | ({"arguments": arguments} if arguments is not None else {})
            for row in waiting
        ]
        for row in waiting:
            _show(row, console)
        if edited is not None:
            console.print("with these arguments instead:", style="bold")
            console.print(as_json(arguments, indent=2), markup=False, soft_wrap=True)
        if not is_sure and not agreed(f"{verdict.capitalize()} {_counted(len(waiting))}?", console=console):
            raise CommandFailed("nothing was decided")
        results: list[dict[str, Any]] = []
        runs: dict[str, dict[str, Any]] = {}
        for first in range(0, len(decisions), _MAX_BATCH):
            answer = await person.call("decide", decisions=decisions[first : first + _MAX_BATCH])
            results += answer["results"]
            runs |= {run["run_id"]: run for run in answer["runs"]}  # the last word on a run in two batches
        for row, result in zip(waiting, results, strict=True):
            said = result.get("status") or result["refused"]["message"]
            told = f"{row['tool']} {row['id']}: {said}"
            console.print(shown(told), style="" if "status" in result else "yellow", soft_wrap=True)
        report = {"results": results, "runs": list(runs.values())}
        if len(report["runs"]) == 1 and report["runs"][0]["status"] == "queued":
            return {**report, "run": await follow(person, report["runs"][0]["run_id"], console)}
        return report


async def make_link(env: dict[str, str], approval: str, *, console: Console) -> dict[str, Any]:
    """A signed link that decides one approval, once."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        link = await person.call("make_decision_link", approval_id=_checked(approval))
        api = where.stack.api_url if where.stack else env.get("PAM_API_URL", "").rstrip("/")
    if not api:
        raise CommandFailed("set PAM_API_URL to where the api function answers: the link leads there")
    url = f"{api}/v1/decisions/{link['token']}"
    console.print(url, soft_wrap=True)
    console.print("Whoever has this link decides as you, once: send it to yourself alone.", style="yellow")
    return {"url": url, "expires_at": link["expires_at"]}


async def list_policies(env: dict[str, str], *, console: Console) -> list[dict[str, Any]]:
    """What the organisation has set; everything else follows PAM's defaults."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        rows = await person.select("tool_policies", org_id=await where.organization(person))
    table = Table("role", "tool", "effect", "allowed", "asks", "after untrusted data", "decided by", box=None)
    for row in sorted(rows, key=lambda row: (row["role"], row["tool"], row["effect"])):
        table.add_row(
            row["role"],
            row["tool"],
            row["effect"],
            "yes" if row["is_allowed"] else "no",
            row["consent"],
            row["consent_after_untrusted"],
            f"{row['decided_by']}+",
        )
    console.print(table if rows else "No policy is set: PAM's defaults hold.")
    return rows


async def set_policy(
    env: dict[str, str], policy: dict[str, str], changed: dict[str, Any], *, console: Console
) -> dict[str, Any]:
    """Set one policy, a role's for a tool with an effect: what is not changed stays as it holds now.

    Raises CommandFailed when that cannot be told for every tool at once: their defaults differ.
    """
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        asked = {"org_id": await where.organization(person), **policy}
        holds = await person.call("read_policy", **asked)
        if policy["tool"] == "*" and holds["is_default"] and "consent" not in changed:
            raise CommandFailed("tools have defaults of their own: for every tool at once say --consent, too")
        await person.call("set_policy", **asked, **{name: changed.get(name, holds[name]) for name in _TERMS})
        return _say_policy(await person.call("read_policy", **asked), console)


async def reset_policy(env: dict[str, str], policy: dict[str, str], *, console: Console) -> dict[str, Any]:
    """Take one policy back."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        asked = {"org_id": await where.organization(person), **policy}
        await person.call("reset_policy", **asked)
        return _say_policy(await person.call("read_policy", **asked), console)


def _say_policy(holds: dict[str, Any], console: Console) -> dict[str, Any]:
    word = "by default" if holds["is_default"] else "now"
    allowed = "may be used" if holds["is_allowed"] else "may not be used"
    console.print(
        f"{holds['tool']} with the effect {holds['effect']} {allowed} {word} for a {holds['role']}; consent: "
        f"{holds['consent']}, after untrusted data: {holds['consent_after_untrusted']}, "
        f"decided by {holds['decided_by']}+."
    )
    return holds


async def _waiting(person: Person, wanted: str) -> list[dict[str, Any]]:
    """The approval of this id, or all that wait for the run of this id."""
    wanted = _checked(wanted)
    rows = await person.select("approvals", id=wanted) or await person.select(
        "approvals", run_id=wanted, status="pending", kind="approval"
    )
    if not rows:
        raise CommandFailed(f"nothing waits under {wanted}: `pam approvals` shows what does")
    return sorted(rows, key=lambda row: str(row["created_at"]))


def _arguments(edited: str | None) -> dict[str, Any] | None:
    if edited is None:
        return None
    try:
        arguments = json.loads(edited)
    except ValueError as error:
        raise CommandFailed(f"--edit is no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise CommandFailed("--edit takes a JSON object: all arguments of the call, as they should be")
    return arguments


def _show(row: dict[str, Any], console: Console) -> None:
    """All that a decision is bound to: the call, its arguments whole, why it waits and what its tool showed."""
    who = ("not the asker, " if row["is_four_eyes"] else "") + f"{row['needs_role']}+"
    console.print(f"[bold]{shown(row['tool'])}[/bold] ({row['effect']}), {row['status']}", soft_wrap=True)
    console.print(f"approval {row['id']}  run {row['run_id']}", soft_wrap=True)
    console.print(f"{row['kind']} for {who}, until {row['expires_at'][:16]} UTC", soft_wrap=True)
    console.print(as_json(row["arguments"], indent=2), markup=False, soft_wrap=True)
    console.print(plain(f"why: {row['why']}"), markup=False, soft_wrap=True)
    if row["shown"]:
        console.print("what it would do:", soft_wrap=True)
        console.print(plain(row["shown"]), markup=False, soft_wrap=True)
    console.print()


def _counted(count: int) -> str:
    return "this call" if count == 1 else f"these {count} calls"


def _checked(wanted: str) -> str:
    try:
        return str(UUID(wanted))
    except ValueError:
        raise CommandFailed(f"{wanted!r} is no id of a run or an approval: `pam approvals` shows them") from None
