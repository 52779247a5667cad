"""`ask`, `reply`, `watch`, `cancel` and `events`: runs of one's own, rendered live."""

from typing import Any
from uuid import UUID

from rich.console import Console

from infra.cli.person import CommandFailed, Person
from infra.cli.setting import SCRIPTS, chosen_model, place
from infra.cli.view import RunView
from infra.local.stack import ROOT
from workers.kernel.cards import read_card
from workers.kernel.settings import money_limit
from workers.tools import CARD_TOOLS

CARD = ROOT / "workers" / "agent" / "backend_engineer.md"
_HOW = {
    "question": 'Answer with: pam reply {run} "…"',
    "approval": "Decide with: pam approve {run}   (or --reject, --note, --edit, --link; pam approvals shows all)",
}
WORKSPACE = SCRIPTS.parent / "workspace"


async def run_ask(
    env: dict[str, str], task: str, *, agent: str, thread: str | None, if_busy: str, priority: int, console: Console
) -> dict[str, Any]:
    """Start a run and follow it to its end or its question."""
    if not env.get("SUPABASE_URL") and chosen_model(env) is None:
        raise CommandFailed(
            "no model is set: put OPENAI_API_KEY into the environment or .env (OPENAI_BASE_URL, PAM_MODEL for another"
            " OpenAI-compatible server). `pam demo` works without"
        )
    limit = money_limit(env)
    async with place(env, progress=_dimly(console)) as where:
        person = await where.person()
        org_id = await where.organization(person)
        if where.stack is not None:
            await _furnish(person, org_id)
        console.print(f"It may spend at most ${limit} (PAM_MAX_COST_USD).", style="dim")
        started = await person.call(
            "start_run",
            org_id=org_id,
            agent=agent,
            message=task,
            thread_id=thread,
            limits={"max_cost_usd": float(limit)},
            if_busy=if_busy,
            priority=priority,
        )
        console.print(f"run {started['run_id']}  thread {started['thread_id']}", style="dim")
        return await follow(person, str(started["run_id"]), console)


async def run_reply(env: dict[str, str], run: str, text: str, *, console: Console) -> dict[str, Any]:
    """Answer a run's question and follow it on."""
    async with place(env, progress=_dimly(console)) as where:
        person = await where.person()
        await person.call("answer_question", run_id=run_id_of(run), answer=text)
        return await follow(person, run, console)


async def run_steer(env: dict[str, str], run: str, text: str, *, console: Console) -> dict[str, Any]:
    """Say something to a run on its way."""
    async with place(env, progress=_dimly(console)) as where:
        person = await where.person()
        answer = await person.call("steer_run", run_id=run_id_of(run), message=text)
        console.print("The run takes it before its next step.")
        return answer


async def run_watch(env: dict[str, str], run: str, *, console: Console) -> dict[str, Any]:
    """Follow a run from its first event."""
    async with place(env, progress=_dimly(console)) as where:
        person = await where.person()
        await _known(person, run)
        return await follow(person, run, console)


async def run_told(env: dict[str, str], run: str, verb: str, *, console: Console) -> dict[str, Any]:
    """Tell a run to stop, to rest or to go on: `cancel_run`, `pause_run`, `resume_run`."""
    async with place(env, progress=_dimly(console)) as where:
        person = await where.person()
        answer = await person.call(verb, run_id=run_id_of(run))
        console.print(str(answer["message"]))
        return answer


async def read_events(env: dict[str, str], run: str) -> list[dict[str, Any]]:
    """The log of a run."""
    async with place(env, progress=lambda line: None) as where:
        person = await where.person()
        await _known(person, run)
        return [row async for row in person.select_all("events", "seq,type,payload,created_at", by="seq", run_id=run)]


async def _furnish(person: Person, org_id: str) -> None:
    """On the embedded stack a new organisation gets our agent and the sample's workspace."""
    await person.import_card(org_id, read_card(CARD, known_tools=CARD_TOOLS))
    await person.put_files(org_id, WORKSPACE)


async def follow(person: Person, run: str, console: Console) -> dict[str, Any]:
    """Render a run to its end, or until it waits for people; answers how it stands."""
    view = RunView(console=console)
    follower = person.follow(run)
    async for item in follower.follow():
        view.show(item)
    row = (await person.select("runs", id=run))[0]
    if row["status"] == "interrupted":
        for kind in {
            str(asked["kind"]) for asked in await person.select("approvals", "kind", run_id=run, status="pending")
        }:
            console.print(_HOW[kind].format(run=run), style="bold")
    return {
        "run_id": run,
        "thread_id": row["thread_id"],
        "status": row["status"],
        "reason": row["reason"],
        "events": len(follower.tally.seqs),
        "gaps": follower.tally.gaps,
        "duplicates": follower.tally.duplicates,
        "cost_usd": float(str(row["cost_usd"])),
    }


async def _known(person: Person, run: str) -> None:
    if not await person.select("runs", "id", id=run_id_of(run)):
        raise CommandFailed(f"there is no run {run} that you may see")


def run_id_of(run: str) -> str:
    """A run's id as it was typed, checked. Raises CommandFailed."""
    try:
        return str(UUID(run))
    except ValueError:
        raise CommandFailed(f"{run!r} is no run id: `pam ask` prints it, a UUID") from None


def _dimly(console: Console) -> Any:
    return lambda line: console.print(f"  {line}", style="dim")
