"""Renders a timeline for somebody on call: a line an entry, what is noteworthy in front, a summary at the end."""

import json

from rich.console import Console

from infra.cli.plain_text import shown
from infra.cli.timeline import (
    After,
    Called,
    Claimed,
    Ended,
    Entry,
    Lost,
    Mark,
    Noted,
    Paused,
    Released,
    Reminded,
    Steered,
    Stepped,
    Tainted,
    Timeline,
    Unfinished,
    Waited,
)

_MAX_TEXT = 100
_CAME_AFTER = {
    After.QUEUED: "a worker took the run, {} after it was asked for",
    After.PEOPLE: "a worker goes on",
    After.RELEASED: "another worker took the run over, {} after it was given back",
    After.MODEL: "a worker goes on, {} after no model had answered",
    After.LOST: "another worker took the run over: the one before was lost, and nobody wrote for {}",
}


def show_timeline(timeline: Timeline, *, console: Console) -> None:
    """Print the head, the entries and the summary."""
    run, summary = timeline.run, timeline.summary
    reason = f" ({shown(run.reason)})" if run.reason else ""
    console.print(f"[bold]run {run.id} {run.status}{reason}[/bold]", soft_wrap=True)
    console.print(
        f"asked for {run.created_at:%Y-%m-%d %H:%M:%S} UTC; steps {run.steps} of {run.max_steps}, tokens "
        f"{run.input_tokens + run.output_tokens:,} of {run.max_tokens:,}, ${run.cost_usd:f} of ${run.max_cost_usd:f}, "
        f"turn {run.turn}, until {run.deadline_at:%H:%M:%S} UTC",
        style="dim",
        soft_wrap=True,
    )
    if run.taint:
        console.print(f"it has read what nobody vouches for: {shown(run.taint)}", style="dim", soft_wrap=True)
    for entry in timeline.entries:
        sign = "[bold yellow]![/]" if entry.marks else " "
        marks = [mark.value for mark in entry.marks if mark is not Mark.SLOW]
        if Mark.SLOW in entry.marks:
            marks.append(f"slow, {entry.seconds / summary.wall_seconds:.0%} of the whole time")
        noted = f"  [yellow]\\[{'; '.join(marks)}][/yellow]" if marks else ""
        console.print(
            f"{sign} {'+' + told(entry.at_seconds):>13}  {entry.kind:<8} {_words(entry)}{noted}", soft_wrap=True
        )
    _show_summary(timeline, console)


def _words(entry: Entry) -> str:
    match entry:
        case Claimed(after=after, unheld_seconds=seconds, turn=turn, attempt=attempt):
            where = f" (turn {turn}, attempt {attempt} at this step)" if turn else ""
            return _CAME_AFTER[after].format(told(seconds)) + where
        case Lost():
            where = f", in {shown(', '.join(entry.calls))}" if entry.calls else ""
            return f"worker {_short(entry.worker)} was lost after step {entry.steps}, attempt {entry.attempt}{where}"
        case Released():
            return "the worker left in good order and gave the run back"
        case Paused(is_by_person=True):
            return f"the run rests: {_short(entry.sentence)}"
        case Paused():
            return f"no model answered, the run waits: {_short(entry.sentence)}"
        case Steered():
            return f"a person said to it: {_short(entry.content)}"
        case Stepped():
            about = "about " if entry.is_estimated else ""
            cached = f" ({entry.cached_input_tokens:,} cached)" if entry.cached_input_tokens else ""
            used = f"{about}{entry.input_tokens:,} tokens in{cached}, {entry.output_tokens:,} out, ${entry.cost_usd:f}"
            asked = f" → {shown(', '.join(entry.calls))}" if entry.calls else ""
            said = f" “{_short(entry.text)}”" if entry.text.strip() else ""
            return f"{entry.step} by {shown(entry.model)}: {told(entry.seconds)}, {used}{asked}{said}"
        case Called():
            cost = f", ${entry.cost_usd:f}" if entry.cost_usd else ""
            decided = f", {shown(entry.decision)}" if entry.decision else ""
            origin = f", from {_short(entry.origin)}" if entry.origin else ""
            why = f": {_short(entry.result)}" if entry.status != "succeeded" else ""
            notes = f" ({shown(', '.join(entry.notes))})" if entry.notes else ""
            return (
                f"{shown(entry.tool)} ({shown(entry.effect)}) {shown(entry.status)} in {told(entry.seconds)}"
                f"{cost}{decided}{origin}{why}{notes}  {_short(_one_line(entry.arguments))}"
            )
        case Unfinished():
            end = "the log does not tell how it ended"
            return f"{shown(entry.tool)} of step {entry.step}: {end}  {_short(_one_line(entry.arguments))}"
        case Waited():
            kinds = ", ".join(f"{shown(one.reason)}: {_short(one.message)}" for one in entry.asks)
            return f"{told(entry.waited_seconds)} for people{'' if entry.is_over else ', not decided'}; {kinds}"
        case Reminded():
            return f"people were reminded of {entry.waiting} that wait"
        case Tainted():
            return f"first content that nobody vouches for: {_short(entry.origin)}"
        case Noted():
            return shown(entry.name)
        case Ended():
            reason = f" ({shown(entry.reason)})" if entry.reason else ""
            by = ", by the database: no worker held it" if entry.is_by_database else ""
            said = f": {_short(entry.sentence)}" if entry.sentence else ""
            return f"{entry.status.value}{reason}{by}{said}"
    return entry.kind


def _show_summary(timeline: Timeline, console: Console) -> None:
    summary = timeline.summary
    parts = {
        "model": summary.model_seconds,
        "tools": summary.tools_seconds,
        "waiting for people": summary.people_seconds,
        "waiting for a worker": summary.unheld_seconds,
        "the rest": summary.other_seconds,
    }
    wall = summary.wall_seconds
    shares = ", ".join(
        f"{name} {told(seconds)} ({seconds / wall:.0%})" if wall else f"{name} {told(seconds)}"
        for name, seconds in parts.items()
    )
    console.print(f"\n[bold]{told(wall)} in all[/bold]: {shares}", soft_wrap=True)
    unseen = f", calls whose bill nobody saw ${summary.unseen_usd:f}" if summary.unseen_usd else ""
    money = f"${summary.cost_usd:f}: steps ${summary.steps_usd:f}, calls ${summary.calls_usd:f}{unseen}"
    console.print(money, soft_wrap=True)
    for title, counts in (("told", summary.counts), ("calls", summary.outcomes), ("noteworthy", summary.marks)):
        if counts:
            numbers = ", ".join(f"{shown(name)} {number}" for name, number in counts.items())
            console.print(f"{title}: {numbers}", soft_wrap=True)


def told(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _one_line(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments


def _short(text: str) -> str:
    """The beginning of a text on one line, fit for a terminal."""
    line = " ".join(text.split())
    return shown(line if len(line) <= _MAX_TEXT else f"{line[: _MAX_TEXT - 1]}…")
