"""Renders a run's live events on a terminal, and plainly where there is none."""

import contextlib
import json
from decimal import Decimal
from typing import Any

from rich.console import Console

from infra.cli.live import Cut, LoggedEvent, PreviewFrame
from infra.cli.plain_text import plain, shown

_MAX_LINES = 8
_MAX_COLUMNS = 160


class RunView:
    """One run on a console: text as it is written, tool calls with arguments and results, usage and money."""

    def __init__(self, *, console: Console) -> None:
        self._console = console
        self._columns = console.width if console.is_terminal else _MAX_COLUMNS
        self._shown: dict[str, str] = {}
        self._open = ""
        self._arguments: dict[str, tuple[str, str]] = {}
        self._spent = Decimal(0)

    def show(self, item: LoggedEvent | PreviewFrame | Cut) -> None:
        """Render one item."""
        match item:
            case Cut():
                self._line("[yellow]  ✂ the connection is gone; reading on from the log[/yellow]")
            case PreviewFrame(_, _, text, is_output=True):
                for line in _first_lines(text, self._columns - 4):
                    self._line(f"    [dim]┊ {shown(line)}[/dim]")
            case PreviewFrame(message_id, offset, text):
                self._preview(message_id, offset, text)
            case LoggedEvent(payload=payload):
                self._event(payload)

    def _preview(self, message_id: str, offset: int, text: str) -> None:
        before = self._shown.get(message_id, "")
        if not text or offset != len(before):
            return
        if self._open != message_id:
            self._line("")
        self._open = message_id
        self._shown[message_id] = before + text
        self._console.print(plain(text), end="", markup=False, highlight=False, soft_wrap=True)

    def _event(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "TEXT_MESSAGE_CONTENT":
                self._message(event["messageId"], event["delta"])
            case "TOOL_CALL_START":
                self._arguments[event["toolCallId"]] = (event["toolCallName"], "")
            case "TOOL_CALL_ARGS":
                name, given = self._arguments.get(event["toolCallId"], ("?", ""))
                self._arguments[event["toolCallId"]] = (name, given + event["delta"])
            case "TOOL_CALL_END":
                name, given = self._arguments.get(event["toolCallId"], ("?", ""))
                self._line(f"  [cyan]→ {shown(name)}[/cyan] {shown(_one_line(given, self._columns - len(name) - 5))}")
            case "TOOL_CALL_RESULT":
                name, _ = self._arguments.get(event["toolCallId"], ("?", ""))
                self._line(f"  [green]← {shown(name)}[/green]")
                for line in _first_lines(str(event["content"]), self._columns - 4):
                    self._line(f"    [dim]{shown(line)}[/dim]")
            case "CUSTOM":
                self._custom(event["name"], event["value"])
            case "RUN_FINISHED":
                outcome = (event.get("outcome") or {}).get("type", "success")
                if outcome == "interrupt":
                    for asked in event["outcome"]["interrupts"]:
                        self._line(
                            f"[bold yellow]? {shown(str(asked.get('message') or asked['reason']))}[/bold yellow]"
                        )
                else:
                    word = {"success": "[bold green]✔ succeeded", "cancelled": "[bold yellow]■ cancelled"}.get(
                        outcome, shown(outcome)
                    )
                    self._line(f"{word}[/], ${self._spent:f} in all")
            case "RUN_ERROR":
                self._line(
                    f"[bold red]✘ failed[/bold red] ({shown(str(event.get('code')))}): {shown(event['message'])}"
                )
            case _:
                return

    def _custom(self, name: str, value: Any) -> None:
        match name:
            case "pam.usage":
                self._spent += Decimal(value["cost_usd"])
                about = "about " if value["is_estimated"] else ""
                self._line(
                    f"  [dim]{about}{value['input_tokens']:,} tokens in, {value['output_tokens']:,} out, "
                    f"${value['cost_usd']}, {value['seconds']:.1f} s[/dim]"
                )
            case "pam.tool_outcome" if value["status"] != "succeeded":
                self._line(f"    [yellow]{shown(value['tool'])}: {shown(value['status'])}[/yellow]")
            case "pam.paused":
                rest = (
                    f"The run waits {value['seconds']:.0f} s."
                    if "seconds" in value
                    else "It rests until it is resumed."
                )
                self._line(f"[yellow]  … {shown(value['message'])} {rest}[/yellow]")
            case "pam.steered":
                self._line(f"[cyan]  › {shown(value['content'])}[/cyan]")
            case "pam.resumed":
                self._line("[yellow]  ↻ another worker took the run over[/yellow]")
            case _:
                return

    def _message(self, message_id: str, text: str) -> None:
        before = self._shown.pop(message_id, "")
        if self._open == message_id and text.startswith(before):
            self._console.print(plain(text[len(before) :]), markup=False, highlight=False, soft_wrap=True)
        else:
            self._line("")
            self._console.print(plain(text), markup=False, highlight=False, soft_wrap=True)
        self._open = ""

    def _line(self, text: str) -> None:
        if self._open:
            self._console.print()
            self._shown[self._open] = ""
            self._open = ""
        self._console.print(text, highlight=False, soft_wrap=True)


def _one_line(text: str, columns: int) -> str:
    with contextlib.suppress(ValueError):
        text = json.dumps(json.loads(text), ensure_ascii=False)
    return _cut(text, columns)


def _first_lines(text: str, columns: int) -> list[str]:
    lines = text.splitlines()
    short = [_cut(line, columns) for line in lines[:_MAX_LINES]]
    return short if len(lines) <= _MAX_LINES else [*short, f"… {len(lines) - _MAX_LINES} lines more"]


def _cut(text: str, columns: int) -> str:
    columns = max(columns, 20)
    return text if len(text) <= columns else f"{text[: columns - 1]}…"
