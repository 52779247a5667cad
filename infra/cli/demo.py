"""`demo`: the main job on real input, rendered live, cut in the middle, and counted."""

import asyncio
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from rich.console import Console

from infra.cli.demo_tools import ALL_TOOLS, ToolReport, play_tools
from infra.cli.live import Cut, FrameRecorder, LoggedEvent, PreviewFrame, RunFollower
from infra.cli.person import CommandFailed, Person
from infra.cli.setting import check_model, stack_options
from infra.cli.view import RunView
from infra.local.attach import StackFailed, running_stack
from infra.local.facts import StackFacts
from infra.local.stack import ROOT
from infra.sample import slow_list
from workers.kernel.cards import read_card
from workers.kernel.settings import money_limit
from workers.tools import CARD_TOOLS

CARD = ROOT / "workers" / "agent" / "backend_engineer.md"
WORKSPACE = ROOT / "infra" / "sample" / "workspace"
SECOND_TASK = (
    "Thank you. Now the work itself: which of my projects have tasks past their due date, and how many? Write it up in "
    "docs/overdue.md, keep the number in Redis under report:overdue for an hour, and check both."
)
SCRIPT_NAMES = ("slow-list", "overdue-tasks")
CUT_AFTER_RESULTS = 2
CUT_SECONDS = 1.2


@dataclass
class RunReport:
    """What the demo knows of one run at its end."""

    id: str
    status: str
    tools: list[str]
    events: int
    gaps: int
    duplicates: int
    cost_usd: float

    @property
    def is_good(self) -> bool:
        """Succeeded, with nothing lost and nothing doubled."""
        return self.status == "succeeded" and self.gaps == 0 and self.duplicates == 0


class Demo:
    """Both runs of the demo for a fresh person."""

    def __init__(
        self, *, facts: StackFacts, console: Console, limit_usd: str, record: Path | None, all_tools: bool
    ) -> None:
        self._facts = facts
        self._console = console
        self._limit_usd = limit_usd
        self._record = record
        self._all_tools = all_tools
        self.tools: list[ToolReport] = []
        self.runs: list[RunReport] = []
        self.seconds_to_first_event: float | None = None

    async def play(self) -> None:
        """Raises CommandFailed when the job is not done."""
        person = await Person.sign_up(
            self._facts.url,
            self._facts.publishable_key,
            email=f"ada-{secrets.token_hex(4)}@example.com",
            password=secrets.token_urlsafe(18),
        )
        self._say(f"Signed in as {person.email} through Supabase Auth.")
        org_id = str((await person.call("create_organization", name="Ada's agency"))["org_id"])
        agent = await person.import_card(org_id, read_card(CARD, known_tools=CARD_TOOLS))
        files = await person.put_files(org_id, WORKSPACE)
        projects = await self._join_projects(person)
        self._say(
            f"Made an organisation, imported {agent['name']} version {agent['version']}, wrote {files} workspace files."
        )
        self._say(
            f"Joined the sample's open projects {', '.join(map(str, projects))} under their own row-level security.\n"
        )

        first = await self._run(person, org_id, str(agent["name"]), slow_list.TASK, thread_id=None, cut=False)
        if first.report.is_good:
            await self._prove(person, org_id, first.written)
        self._say("")
        second = await self._run(person, org_id, str(agent["name"]), SECOND_TASK, thread_id=first.thread_id, cut=True)
        if not second.was_cut:
            raise CommandFailed("the second run ended before its connection could be cut")
        self._say(
            f"The connection was cut in mid-run and read on by seq: {second.report.events} events, "
            f"{second.report.gaps} lost, {second.report.duplicates} doubled ({second.live} came live)."
        )
        if self._all_tools:
            await self._play_tools(person, org_id, str(agent["name"]))
        await self._check_script()

    async def _play_tools(self, person: Person, org_id: str, agent: str) -> None:
        """The second chapter. Raises CommandFailed when a tool has not done its work, or left no trace of it."""
        self._say("\nThe second chapter: every tool of the card.\n")
        _, self.tools = await play_tools(
            person, org_id, agent, facts=self._facts, console=self._console, limit_usd=self._limit_usd
        )
        for tool in self.tools:
            mark = "✔" if tool.is_whole else "✘"
            self._say(
                f"  {mark} {tool.tool}: event {tool.event_seq}, ledger {', '.join(tool.ledger) or 'no row'}, "
                f"{tool.audit_rows} audit rows"
            )
        if missing := [tool.tool for tool in self.tools if not tool.is_whole]:
            raise CommandFailed(f"not every tool is shown to work: {', '.join(missing)}")

    async def _check_script(self) -> None:
        """A script of ours that is not used up, or that met what it did not expect, fails loudly."""
        if self._facts.model != "rehearsal":
            return
        address = self._facts.rehearsal_url.removesuffix("/v1")
        async with httpx.AsyncClient(trust_env=False) as client:
            for name in (*SCRIPT_NAMES, *([ALL_TOOLS] if self._all_tools else [])):
                answer = await client.get(f"{address}/rehearsal/report", params={"script": name})
                report = answer.raise_for_status().json()
                if report["unused"] or report["unexpected"]:
                    told = json.dumps([report["unused"], report["unexpected"]])
                    raise CommandFailed(f"the rehearsal left its script: {told}")

    async def _join_projects(self, person: Person) -> list[int]:
        """Accept the sample's open invitations, as any signed-in person may."""
        rows: Any = (
            await person.client.from_("invitations")
            .select("project_id")
            .eq("is_open", True)
            .order("project_id")
            .limit(3)
            .execute()
        ).data
        projects = [int(row["project_id"]) for row in rows]
        for project in projects:
            await (
                person.client.from_("members")
                .insert(
                    {"project_id": project, "user_id": person.user_id, "role": "member"},
                    returning="minimal",  # type: ignore[arg-type]
                )
                .execute()
            )
        return projects

    async def _run(
        self, person: Person, org_id: str, agent: str, task: str, *, thread_id: str | None, cut: bool
    ) -> "_Played":
        self._say(f"[bold]{task}[/bold]\n" if self._console.is_terminal else f"{task}\n")
        began = time.monotonic()
        started = await person.call(
            "start_run",
            org_id=org_id,
            agent=agent,
            message=task,
            thread_id=thread_id,
            limits={"max_cost_usd": float(self._limit_usd)},
        )
        follower = person.follow(str(started["run_id"]))
        played = _Played(str(started["thread_id"]), [], False, 0)
        recorder = FrameRecorder(file=self._record / f"frames-{started['run_id']}.jsonl") if self._record else None
        view = RunView(console=self._console)
        if recorder:
            with recorder.recording():
                await self._follow(follower, view, played, began, cut)
        else:
            await self._follow(follower, view, played, began, cut)
        await self._count(person, follower, played)
        if played.report.status != "succeeded":
            raise CommandFailed(f"run {played.report.id} {played.report.status}: see its last event above")
        return played

    async def _follow(self, follower: RunFollower, view: RunView, played: "_Played", began: float, cut: bool) -> None:
        results = 0
        async for item in follower.follow():
            if isinstance(item, (LoggedEvent, PreviewFrame)) and self.seconds_to_first_event is None:
                self.seconds_to_first_event = round(time.monotonic() - began, 3)
            view.show(item)
            if isinstance(item, Cut) or not isinstance(item, LoggedEvent):
                continue
            event = item.payload
            if event["type"] == "CUSTOM" and event["name"] == "pam.file_changed":
                played.written.append(str(event["value"]["path"]))
            results += event["type"] == "TOOL_CALL_RESULT"
            if cut and not played.was_cut and results >= CUT_AFTER_RESULTS:
                played.was_cut = True
                if self._record:
                    note = {
                        "run_id": follower.run_id,
                        "at": time.time(),
                        "after_seq": item.seq,
                        "away_seconds": CUT_SECONDS,
                    }
                    (self._record / "cut.json").write_text(json.dumps(note))
                follower.cut(seconds=CUT_SECONDS)

    async def _count(self, person: Person, follower: RunFollower, played: "_Played") -> None:
        """Compare what came with what is stored."""
        run = (await person.select("runs", id=follower.run_id))[0]
        events = person.select_all("events", "seq,created_at,payload", by="seq", run_id=follower.run_id)
        stored = [event async for event in events]
        seqs = [int(row["seq"]) for row in stored]
        lost = set(seqs) ^ set(follower.tally.seqs)
        gaps = follower.tally.gaps + len(lost) + (0 if seqs == list(range(1, len(seqs) + 1)) else 1)
        calls = await person.select("tool_calls", "tool,step,place", run_id=follower.run_id)
        tools = [str(c["tool"]) for c in sorted(calls, key=lambda c: (c["step"], c["place"]))]
        played.live = follower.tally.live
        played.report = RunReport(
            follower.run_id,
            str(run["status"]),
            tools,
            len(stored),
            gaps,
            follower.tally.duplicates,
            float(str(run["cost_usd"])),
        )
        self.runs.append(played.report)
        if self._record:
            text = "\n".join(json.dumps(row) for row in stored)
            (self._record / f"rows-{follower.run_id}.jsonl").write_text(text + "\n")

    async def _prove(self, person: Person, org_id: str, written: list[str]) -> None:
        """Apply the written migration to a clone of the database, and compare."""
        paths = [path for path in dict.fromkeys(written) if path.startswith("supabase/migrations/")]
        if len(paths) != 1:
            raise CommandFailed(f"the task asks for one new migration file; the agent wrote {len(paths)}")
        file = await person.call("read_file", org_id=org_id, path=paths[0])
        self._say(f"\nApplying {paths[0]} to a clone of the database …")
        proof = await slow_list.prove(
            owner_dsn=self._facts.owner_dsn,
            admin_dsn=self._facts.admin_dsn,
            migration_sql=str(file["text"]),
            user_id=UUID(person.user_id),
        )
        if not proof.passed:
            raise CommandFailed(f"the fix does not hold on the clone: {proof.reason}")
        self._say(
            f"The same {proof.rows} rows: {proof.before_seconds * 1000:.0f} ms before, "
            f"{proof.after_seconds * 1000:.1f} ms after, {proof.ratio:.0f} × as fast. "
            "Nobody sees more or less than before."
        )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


@dataclass
class _Played:
    """One run as the demo saw it."""

    thread_id: str
    written: list[str]
    was_cut: bool
    live: int
    report: RunReport = None  # type: ignore[assignment]


async def run_demo(
    env: dict[str, str], *, console: Console, fresh: bool, record: Path | None, all_tools: bool = False
) -> dict[str, Any]:
    """The whole demo; answers what --json prints, with `error` when it failed."""
    began = time.monotonic()
    limit = money_limit(env)
    options = stack_options(env, fresh=fresh)
    if options.model is None:
        console.print(
            "The model is a [bold]rehearsal[/bold]: a script behind the real wire. Everything else is real.",
            highlight=False,
        )
        console.print(
            "Set OPENAI_API_KEY (and OPENAI_BASE_URL, PAM_MODEL) to use a model of your own.\n", highlight=False
        )
    else:
        console.print(
            f"The model is [bold]{options.model.name}[/bold]. A run may spend at most ${limit} (PAM_MAX_COST_USD).\n",
            highlight=False,
        )
    if record:
        await asyncio.to_thread(record.mkdir, parents=True, exist_ok=True)
    demo: Demo | None = None
    error: str | None = None
    try:
        async with running_stack(
            options, progress=lambda line: console.print(f"  {line}", style="dim", highlight=False)
        ) as facts:
            check_model(facts, options.model)
            console.print(f"  The stack is ready: {time.monotonic() - began:.1f} s.\n", style="dim", highlight=False)
            demo = Demo(facts=facts, console=console, limit_usd=str(limit), record=record, all_tools=all_tools)
            await demo.play()
    except (CommandFailed, StackFailed) as failure:
        error = str(failure)
    runs = demo.runs if demo else []
    if error is None and not all(run.is_good for run in runs):
        error = "a run did not succeed, or its live events and its log differ"
    report: dict[str, Any] = {
        "model": options.model.name if options.model else "rehearsal",
        "runs": [vars(run) for run in runs],
        "seconds_to_first_event": demo.seconds_to_first_event if demo else None,
        "seconds": round(time.monotonic() - began, 2),
    }
    if all_tools:
        report["tools"] = [vars(tool) for tool in demo.tools] if demo else []
    if error is not None:
        report["error"] = error
    return report
