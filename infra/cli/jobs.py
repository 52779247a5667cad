"""`jobs list | show | cancel | retry`: background work of the organisation, from the terminal."""

from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from infra.cli.person import CommandFailed, Person
from infra.cli.plain_text import plain, shown
from infra.cli.setting import place

_MAX_ROWS = 50


async def list_jobs(env: dict[str, str], *, status: str | None, console: Console) -> dict[str, Any]:
    """The newest jobs, perhaps of one status, and every active schedule."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        wanted = {"org_id": org_id} | ({"status": status} if status else {})
        jobs = await person.select("jobs", order="created_at", limit=_MAX_ROWS, **wanted)
        schedules = [row async for row in person.select_all("schedules", by="id", org_id=org_id, is_active=True)]
    schedules.sort(key=lambda row: str(row["created_at"]), reverse=True)
    table = Table("job or schedule", "task", "name", "status", "due", "attempt", box=None)
    for row in jobs:
        told = (row["id"], row["task"], shown(row["name"] or ""), row["status"], row["due_at"][:16])
        table.add_row(*told, f"{row['attempt']}/{row['max_attempts']}")
    for row in schedules:
        when = f"{row['cron']} {row['time_zone']}"
        table.add_row(row["id"], row["task"], shown(row["name"]), shown(when), (row["next_at"] or "")[:16], "")
    console.print(table if jobs or schedules else "There are no jobs.")
    return {"jobs": jobs, "schedules": schedules}


async def show_job(env: dict[str, str], job: str, *, console: Console) -> dict[str, Any]:
    """One job with its result; its run's log is at `pam events`."""
    wanted = _checked(job)
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        row = await _read(person, wanted)
    console.print(f"{row['task']} {shown(row['name'] or '')} is {row['status']}", soft_wrap=True)
    console.print(f"due {row['due_at'][:19]}, attempt {row['attempt']} of {row['max_attempts']}, run {row['run_id']}")
    if row["reason"]:
        console.print(f"reason: {shown(row['reason'])}")
    if row["result"]:
        console.print(plain(row["result"]), markup=False, soft_wrap=True)
    return row


async def change_job(env: dict[str, str], verb: str, job: str, *, console: Console) -> dict[str, Any]:
    """Cancel (a schedule, too) or retry."""
    wanted = _checked(job)
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        answer = await person.call(verb, org_id=await where.organization(person), job_id=wanted)
    console.print(f"{wanted} is {answer['status']}.")
    return answer


async def _read(person: Person, wanted: str) -> dict[str, Any]:
    rows = await person.select("jobs", id=wanted)
    if not rows:
        raise CommandFailed(f"there is no job {wanted}: `pam jobs list` shows what there is")
    return rows[0]


def _checked(wanted: str) -> str:
    try:
        return str(UUID(wanted))
    except ValueError:
        raise CommandFailed(f"{wanted!r} is no id of a job or a schedule: `pam jobs list` shows them") from None
