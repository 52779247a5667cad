"""`replay RUN | FILE`: a stored run carried out again offline, its decisions held against those that were recorded."""

from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console

from infra.cli.person import CommandFailed
from infra.cli.plain_text import shown
from infra.cli.setting import place
from infra.replay.recording import Recording, load
from infra.replay.replayed import Replayed, replay
from infra.replay.stored import recorded
from workers.kernel.cards import read_card
from workers.kernel.ledger.runs import AgentDefinition
from workers.tools import CARD_TOOLS, TOOLS

_MAX_SHOWN = 240


async def run_replay(
    env: dict[str, str], what: str, *, card: Path | None, save: Path | None, is_strict: bool, console: Console
) -> dict[str, Any]:
    """Replay a run of the project, or a file; answers whether the same was decided, and what was not."""
    recording = await _recording(env, what, save=save, console=console)
    if save is not None:
        recording.save(save)
        console.print(f"recorded in {save}", soft_wrap=True, markup=False)
    if card is not None:
        recording = recording.model_copy(update={"agent": _agent(card, version=recording.agent.version)})
    replayed = await replay(recording, tools=TOOLS)
    return _tell(recording, replayed, is_strict=is_strict, saved=save, console=console)


async def _recording(env: dict[str, str], what: str, *, save: Path | None, console: Console) -> Recording:
    try:
        run = str(UUID(what))
    except ValueError:
        if not Path(what).is_file():
            raise CommandFailed(
                f"{what!r} is neither a run's id nor a file that `pam replay RUN --save` made"
            ) from None
        if save is not None:
            raise CommandFailed(f"{what} is a recording already: --save is for a run of the project") from None
        return load(Path(what))
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        return await recorded(await where.person(), run)


def _agent(file: Path, *, version: int) -> AgentDefinition:
    card = read_card(file, known_tools=CARD_TOOLS)
    return AgentDefinition.model_validate({**card.definition(), "name": card.name, "version": version})


def _tell(
    recording: Recording, replayed: Replayed, *, is_strict: bool, saved: Path | None, console: Console
) -> dict[str, Any]:
    counted = (
        f"{_counted(replayed.steps, 'step')}, {_counted(replayed.calls, 'call')}, {_counted(replayed.pauses, 'pause')}"
    )
    end = recording.end
    ended = "waits for people" if end is None else f"{end.status}{f' ({end.reason})' if end.reason else ''}"
    if end is not None and end.is_from_outside:
        ended += ", from outside the loop: replayed as far as it came"
    if replayed.changed_inputs:
        steps = ", ".join(map(str, replayed.changed_inputs))
        severity = "not the same, strictly" if is_strict else "warning"
        console.print(
            f"[yellow]{severity}: the model would now be asked something else at step {steps} "
            "(input_sha256): its recorded answer may not be what it would say[/yellow]",
            soft_wrap=True,
        )
    difference = replayed.difference
    if difference is None:
        console.print(f"[bold green]replayed: same decisions[/bold green], {counted}; {shown(ended)}", soft_wrap=True)
    else:
        was, now = _apart(difference.recorded, difference.now)
        console.print(f"[bold red]replayed: another decision[/bold red] after {counted}", soft_wrap=True)
        console.print(f"  {shown(difference.where)}", soft_wrap=True)
        console.print(f"    recorded: {shown(was)}\n    now:      {shown(now)}", soft_wrap=True)
    return {
        "run_id": str(recording.run.id),
        "same": replayed.is_same(is_strict=is_strict),
        "difference": None
        if difference is None
        else {"where": difference.where, "recorded": difference.recorded, "now": difference.now},
        "changed_inputs": list(replayed.changed_inputs),
        "steps": replayed.steps,
        "calls": replayed.calls,
        "pauses": replayed.pauses,
        "end": None if end is None else {"status": end.status, "reason": end.reason},
        "saved": str(saved) if saved else None,
    }


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _apart(recorded_text: str, now: str) -> tuple[str, str]:
    """Two texts, each from shortly before where they part, on one line."""
    first = next((i for i, (a, b) in enumerate(zip(recorded_text, now, strict=False)) if a != b), 0)
    start = max(first - 60, 0) if first > _MAX_SHOWN // 2 else 0
    return _cut(recorded_text, start), _cut(now, start)


def _cut(text: str, start: int) -> str:
    piece = " ".join(text[start : start + _MAX_SHOWN].split())
    return f"{'…' if start else ''}{piece}{'…' if len(text) > start + _MAX_SHOWN else ''}"
