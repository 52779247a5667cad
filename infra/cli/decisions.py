"""`approvals`, `approve` and `policy`: what runs wait for, decided from the terminal, and when they must wait."""

import json
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.cli.ask import follow
from infra.cli.person import CommandFailed, Person
from infra.cli.setting import place

_MAX_COLUMNS = 100
_MAX_BATCH = 200


async def list_approvals(env: dict[str, str], *, is_all: bool, console: Console) -> list[dict[str, Any]]:
    """What waits in the person's organisation, oldest first; with is_all also what was decided."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        wanted = {} if is_all else {"status": "pending"}
        rows = await person.select("approvals", org_id=org_id, **wanted)
    rows.sort(key=lambda row: str(row["created_at"]))
    table = Table("approval", "run", "what", "why", "who", "until", "status", box=None)
    for row in rows:
        who = ("not the asker, " if row["is_four_eyes"] else "") + f"{row['needs_role']}+"
        table.add_row(
            row["id"],
            row["run_id"][:8],
            escape(_told(row)),
            escape(row["why"]),
            who,
            row["expires_at"][:16],
            row["status"],
        )
    console.print(table if rows else "Nothing waits for a person.")
    return rows


async def approve(
    env: dict[str, str],
    ids: list[str],
    *,
    verdict: str,
    note: str | None,
    edited: str | None,
    watch: bool,
    console: Console,
) -> dict[str, Any]:
    """Decide approvals by id, or everything that the named runs wait for; a single run is then followed."""
    arguments = _arguments(edited)
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        waiting = [row for wanted in ids for row in await _waiting(person, wanted)]
        if arguments is not None and len(waiting) != 1:
            raise CommandFailed(f"--edit changes one call; {len(waiting)} wait here: name the approval")
        decisions = [
            {"approval_id": row["id"], "verdict": verdict, "note": note}
            | ({"arguments": arguments} if arguments is not None else {})
            for row in waiting
        ]
        report: dict[str, Any] = {"results": [], "runs": []}
        for first in range(0, len(decisions), _MAX_BATCH):
            answer = await person.call("decide", decisions=decisions[first : first + _MAX_BATCH])
            report = {"results": report["results"] + answer["results"], "runs": answer["runs"]}
        for row, result in zip(waiting, report["results"], strict=True):
            said = result.get("status") or result["refused"]["message"]
            console.print(f"{escape(_told(row))}: {escape(said)}", style="" if "status" in result else "yellow")
        if watch and len(report["runs"]) == 1 and report["runs"][0]["status"] == "queued":
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


async def set_policy(env: dict[str, str], *, console: Console, **policy: Any) -> dict[str, Any]:
    """Set one policy."""
    return await _policy(env, "set_policy", console, **policy)


async def reset_policy(env: dict[str, str], *, console: Console, **policy: Any) -> dict[str, Any]:
    """Take one policy back."""
    return await _policy(env, "reset_policy", console, **policy)


async def _policy(env: dict[str, str], verb: str, console: Console, **policy: Any) -> dict[str, Any]:
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        await person.call(verb, org_id=org_id, **policy)
        asked = {key: policy[key] for key in ("role", "tool", "effect")}
        holds = await person.call("read_policy", org_id=org_id, **asked)
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


def _told(row: dict[str, Any]) -> str:
    text = f"{row['tool']} {json.dumps(row['arguments'], ensure_ascii=False)}"
    return text if len(text) <= _MAX_COLUMNS else f"{text[: _MAX_COLUMNS - 1]}…"


def _checked(wanted: str) -> str:
    try:
        return str(UUID(wanted))
    except ValueError:
        raise CommandFailed(f"{wanted!r} is no id of a run or an approval: `pam approvals` shows them") from None
