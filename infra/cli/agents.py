"""`agents import | list | show`."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.cli.person import CommandFailed
from infra.cli.plain_text import plain
from infra.cli.setting import place
from workers.kernel.cards import read_card
from workers.tools import CARD_TOOLS, TOOLS


async def import_card(env: dict[str, str], file: Path, *, console: Console) -> dict[str, Any]:
    """Import a card. Raises CardRefused with file, line and reason."""
    try:
        card = read_card(file, known_tools=CARD_TOOLS)
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}") from error
    built = {tool.name for tool in TOOLS}
    waiting = [name for name in card.tools if name not in built]
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        answer = await person.import_card(org_id, card)
    console.print(f"{answer['name']} is imported as version {answer['version']}.")
    if waiting:
        console.print(
            f"Granted, and not offered to the model yet: {', '.join(waiting)} (they come with later releases).",
            style="yellow",
        )
    return {**answer, "not_built": waiting}


async def list_agents(env: dict[str, str], *, console: Console) -> list[dict[str, Any]]:
    """The agents of the person's organisation."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id, columns = await where.organization(person), "id,name,version,created_at"
        rows = [row async for row in person.select_all("agents", columns, by="name", org_id=org_id)]
    table = Table("agent", "version", "since", box=None)
    for row in rows:
        table.add_row(str(row["name"]), str(row["version"]), str(row["created_at"])[:16])
    console.print(table if rows else "There is no agent yet: `pam agents import FILE`.")
    return rows


async def show_agent(env: dict[str, str], name: str, *, console: Console) -> dict[str, Any]:
    """What an agent is told, at the version that new runs take."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        agents = await person.select("agents", "id,name,version", org_id=org_id, name=name)
        if not agents:
            raise CommandFailed(f"there is no agent {name} in your organisation: `pam agents list` shows them")
        versions = await person.select(
            "agent_versions",
            "version,definition,sha256,created_at",
            org_id=org_id,
            agent_id=agents[0]["id"],
            version=agents[0]["version"],
        )
    definition = versions[0]["definition"]
    console.print(f"{name}, version {versions[0]['version']}, sha256 {versions[0]['sha256'][:12]}…")
    console.print(f"tools: {', '.join(definition['tools'])}")
    console.print(f"conduct: {', '.join(definition.get('conduct_tools', [])) or 'none'}\n")
    console.print(plain(str(definition["instructions"])), markup=False)
    return {"name": name, **versions[0]}
