"""`hosts list | allow | disallow`: where the organisation's agents may call, kept from the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from infra.cli.person import Refused
from infra.cli.plain_text import shown
from infra.cli.setting import place

_STANDARD_PORT = 443


async def list_hosts(env: dict[str, str], *, console: Console) -> list[dict[str, Any]]:
    """The organisation's list: at most 200 entries, by name."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        rows = await person.select("allowed_hosts", org_id=await where.organization(person))
    rows.sort(key=lambda row: (str(row["host"]).removeprefix("*."), row["host"], row["port"]))
    table = Table("host", "since", "allowed by", box=None)
    for row in rows:
        table.add_row(shown(_authority(row)), str(row["allowed_at"])[:16], str(row["allowed_by"]))
    console.print(table if rows else "Agents may call no host yet: `pam hosts allow api.example.com`.")
    return rows


async def allow_host(env: dict[str, str], host: str, *, console: Console) -> dict[str, Any]:
    """Put a host on the list; one that is there stays. Raises CommandFailed when it is none, or for no admin."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        added = await person.call("allow_host", org_id=await where.organization(person), host=host)
    below = " That is every name below it, not the name itself." if host.startswith("*.") else ""
    console.print(f"Agents may call {shown(_authority(added))}.{below}", soft_wrap=True)
    return added


async def disallow_host(env: dict[str, str], host: str, *, console: Console) -> dict[str, Any]:
    """Take a host off the list; one that is not there is said to be none. Raises CommandFailed for no admin."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        try:
            await person.call("disallow_host", org_id=org_id, host=host)
            was_listed = True
        except Refused as refusal:
            if refusal.code != "not_found":
                raise
            was_listed = False
    console.print(
        f"Agents may not call {shown(host)} any more."
        if was_listed
        else f"{shown(host)} was not on the list as it is written here: `pam hosts list` shows what is.",
        soft_wrap=True,
    )
    return {"host": host, "was_listed": was_listed}


def _authority(row: dict[str, Any]) -> str:
    """As `allow` takes it: with its port unless that is 443."""
    return str(row["host"]) if row["port"] == _STANDARD_PORT else f"{row['host']}:{row['port']}"
