"""`inspect RUN`: the timeline of one run, read from its row and its log alone, as the person who is signed in."""

from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from infra.cli.ask import run_id_of
from infra.cli.person import CommandFailed, Person
from infra.cli.setting import place
from infra.cli.timeline import Timeline
from infra.cli.timeline_reading import LogReader
from infra.cli.timeline_view import show_timeline
from workers.kernel.ledger.events import Event
from workers.kernel.ledger.runs import Run


async def run_inspect(env: dict[str, str], run: str, *, console: Console) -> dict[str, Any]:
    """Print a run's timeline; answers it as data."""
    wanted = run_id_of(run)
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        timeline = await timeline_of(await where.person(), wanted)
    show_timeline(timeline, console=console)
    return timeline.data()


async def timeline_of(person: Person, run: str) -> Timeline:
    """The timeline of a run that this person may see. Raises CommandFailed or LogUnreadable."""
    rows = await person.select("runs", id=run)
    if not rows:
        raise CommandFailed(f"there is no run {run} that you may see: `pam ask` prints a run's id")
    columns = "seq,type,payload,created_at"
    reader = LogReader(Run.model_validate(rows[0]))
    async for row in person.select_all("events", columns, by="seq", run_id=run):
        reader.read(Event.model_validate(row))
    return reader.finish(now=datetime.now(UTC))
