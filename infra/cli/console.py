"""How commands talk: one line of JSON on stdout or words for people, errors as a sentence, Ctrl-C in silence."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.prompt import Confirm

from infra.cli.person import CommandFailed
from infra.cli.plain_text import plain
from infra.installation import InstallationRefused
from workers.kernel.cards import CardRefused
from workers.kernel.errors import PamError

Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout and nothing else there.")]


def consoles(as_json: bool) -> Console:
    """Where a command talks to people: stdout, or stderr while stdout is for JSON."""
    return Console(stderr=as_json, highlight=False)


def answer(as_json: bool, line: dict[str, Any] | list[Any]) -> None:
    """The one line of JSON."""
    if as_json:
        print(json.dumps(line, default=str))


def agreed(question: str, *, console: Console) -> bool:
    """Whether the person at the terminal says yes. Without a terminal nobody is asked, and the command's word holds."""
    if not sys.stdin.isatty():
        return True
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's own waits for the answer
    try:
        return Confirm.ask(question, console=console)
    except EOFError:
        return False
    finally:
        signal.signal(signal.SIGINT, before)


def execute(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a command's coroutine; what people can act on is said in a sentence, status 1; Ctrl-C is 130."""
    try:
        return asyncio.run(work)
    except (CommandFailed, InstallationRefused, CardRefused, PamError) as error:
        print(f"pam: {plain(str(error))}", file=sys.stderr)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(141) from None
    raise typer.Exit(1)
