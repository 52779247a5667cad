"""`parked` and `retry`: runs that were given up, and the same asked once more."""

from typing import Any

from rich.console import Console

from infra.cli.ask import run_id_of
from infra.cli.plain_text import shown
from infra.cli.setting import place

_MAX_ROWS = 50


async def list_parked(env: dict[str, str], *, console: Console) -> list[dict[str, Any]]:
    """The newest runs that ended because worker after worker was lost, and that nobody has tried again since."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        which = {"org_id": await where.organization(person), "reason": "attempts", "retried_by": None}
        columns = "id,thread_id,user_id,steps,cost_usd,created_at,ended_at"
        rows = await person.select("runs", columns, order="ended_at", limit=_MAX_ROWS, **which)
        ids = [row["id"] for row in rows]
        ends = await person.select("events", "run_id,payload", run_id=ids, type="RUN_ERROR") if ids else []
    said = {end["run_id"]: end["payload"]["message"] for end in ends}
    parked = [{**row, "sentence": said.get(row["id"], "")} for row in rows]
    for row in parked:
        console.print(f"[bold]run {row['id']}[/bold] ended {row['ended_at'][:19]} UTC", soft_wrap=True)
        console.print(f"  {shown(row['sentence'])}", soft_wrap=True)
    console.print(
        "`pam inspect RUN` tells more; `pam retry RUN` asks the same again." if parked else "Nothing is parked."
    )
    return parked


async def run_retry(env: dict[str, str], run: str, *, despite_effects: bool, console: Console) -> dict[str, Any]:
    """Ask what a failed or cancelled run was asked once more."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        answer = await person.call("retry_run", run_id=run_id_of(run), despite_effects=despite_effects)
    console.print(f"run {answer['run_id']} asks the same again; `pam watch` shows it.", soft_wrap=True)
    return answer
