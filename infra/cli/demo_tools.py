"""The demo's second chapter: every tool of the card in a real run, each with event, ledger row and audit row."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
from rich.console import Console

from infra.cli.live import LoggedEvent
from infra.cli.person import CommandFailed, Person
from infra.cli.view import RunView
from infra.local.facts import StackFacts
from infra.local.stack import ROOT
from workers.tools import CARD_TOOLS

SCRIPT = ROOT / "infra" / "sample" / "chapters" / "all_tools.yaml"
ALL_TOOLS = "all-tools"
TASK = (
    "Show me that each of your tools works here, all thirteen. The team's service is at {api} (GET /health). Send word "
    "to org:mine, keep an hours report in reports/, sum it up with a program, look again by a job, read your own log, "
    "and give public.tasks.title a comment by a migration that I approve."
)


@dataclass(frozen=True)
class ToolReport:
    """What the database knows of one tool of the run: its first call's event, how its calls ended, its audit rows."""

    tool: str
    event_seq: int | None
    ledger: list[str]
    audit_rows: int

    @property
    def is_whole(self) -> bool:
        """Whether the tool ran, and everything that must be recorded is."""
        return self.event_seq is not None and "succeeded" in self.ledger and self.audit_rows >= len(self.ledger)


async def play_tools(
    person: Person, org_id: str, agent: str, *, facts: StackFacts, console: Console, limit_usd: str
) -> tuple[str, list[ToolReport]]:
    """Play the chapter, approving what waits as its asker; answers the run and what is recorded of each tool.

    Raises CommandFailed when the run does not succeed.
    """
    api = f"http://localhost:{urlsplit(facts.api_url).port}"
    await _furnish(person, org_id, facts, api)
    task = TASK.format(api=api)
    console.print(f"{task}\n", highlight=False, soft_wrap=True)
    started = await person.call(
        "start_run", org_id=org_id, agent=agent, message=task, limits={"max_cost_usd": float(limit_usd)}
    )
    run_id = str(started["run_id"])
    view = RunView(console=console)
    shown = 0
    while True:
        async for item in person.follow(run_id).follow():
            if not isinstance(item, LoggedEvent) or item.seq > shown:
                view.show(item)
            shown = max(shown, item.seq) if isinstance(item, LoggedEvent) else shown
        run = (await person.select("runs", "status,reason", id=run_id))[0]
        if run["status"] != "interrupted":
            break
        await _agree(person, run_id, console)
    if run["status"] != "succeeded":
        raise CommandFailed(f"run {run_id} {run['status']} ({run['reason']}): see its last event above")
    return run_id, await _recorded(person, org_id, run_id)


async def _furnish(person: Person, org_id: str, facts: StackFacts, api: str) -> None:
    """What an admin and the project's owner say once: which host may be called, and who works on the schema."""
    await person.call("allow_host", org_id=org_id, host=api.removeprefix("http://"))
    async with await psycopg.AsyncConnection.connect(facts.owner_dsn, autocommit=True) as owner:
        await owner.execute("select pam.trust_organization_with_schema(%s::uuid)", [org_id])
    if facts.model == "rehearsal":
        await put_script(facts, SCRIPT)


async def put_script(facts: StackFacts, script: Path) -> None:
    """Hand the rehearsal a script that it does not play by itself."""
    address = f"{facts.rehearsal_url.removesuffix('/v1')}/rehearsal/scripts/{ALL_TOOLS}"
    async with httpx.AsyncClient(trust_env=False) as client:
        (await client.put(address, content=script.read_bytes())).raise_for_status()


async def _agree(person: Person, run_id: str, console: Console) -> None:
    """Approve everything that waits, in one step, as the person who asked."""
    waiting = await person.select("approvals", run_id=run_id, status="pending")
    answer = await person.call(
        "decide", decisions=[{"approval_id": asked["id"], "verdict": "approve"} for asked in waiting]
    )
    refused = [result["refused"]["message"] for result in answer["results"] if "refused" in result]
    if refused:
        raise CommandFailed(f"the approval was refused: {refused[0]}")
    console.print(f"[green]✔ approved by the asker: {', '.join(str(a['tool']) for a in waiting)}[/green]")


async def _recorded(person: Person, org_id: str, run_id: str) -> list[ToolReport]:
    calls = [call async for call in person.select_all("tool_calls", "id,tool,status", by="id", run_id=run_id)]
    results = person.select_all("events", "seq,payload", by="seq", run_id=run_id, type="TOOL_CALL_RESULT")
    seqs = {str(event["payload"]["toolCallId"]): int(event["seq"]) async for event in results}
    audit = person.select_all("audit", "id,action,subject", by="id", org_id=org_id, is_allowed=True)
    audited = [str(row["subject"].get("call")) async for row in audit if str(row["action"]).startswith("tool.")]
    reports = []
    for tool in CARD_TOOLS:
        own = [call for call in calls if call["tool"] == tool]
        reports.append(
            ToolReport(
                tool,
                min((seqs[str(call["id"])] for call in own if str(call["id"]) in seqs), default=None),
                sorted(str(call["status"]) for call in own),
                sum(audited.count(str(call["id"])) for call in own),
            )
        )
    return reports
