"""The commands of whoever is on call: `inspect`, `parked`, `retry`, `pause` and `resume`."""

from typing import Annotated

import typer

from infra.cli.console import Json, answer, consoles, execute

on_call_app = typer.Typer()


@on_call_app.command()
def inspect(run: Annotated[str, typer.Argument(help="The run's id.")], as_json: Json = False) -> None:
    """Show a run's timeline: claims, steps, calls, waits, what went wrong, and where time and money went."""
    from infra.cli.inspection import run_inspect
    from infra.cli.setting import environment

    answer(as_json, execute(run_inspect(environment(), run, console=consoles(as_json))))


@on_call_app.command()
def parked(as_json: Json = False) -> None:
    """List runs that were given up after five lost workers, with what each attempt died of."""
    from infra.cli.parked import list_parked
    from infra.cli.setting import environment

    answer(as_json, execute(list_parked(environment(), console=consoles(as_json))))


@on_call_app.command()
def retry(
    run: Annotated[str, typer.Argument(help="A run that failed or was cancelled.")],
    despite_effects: Annotated[
        bool, typer.Option("--despite-effects", help="Also when it has or may have taken effect: you have looked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask what a failed or cancelled run was asked once more, in its thread."""
    from infra.cli.parked import run_retry
    from infra.cli.setting import environment

    work = run_retry(environment(), run, despite_effects=despite_effects, console=consoles(as_json))
    answer(as_json, execute(work))


@on_call_app.command()
def pause(run: Annotated[str, typer.Argument(help="A run that is not finished.")], as_json: Json = False) -> None:
    """Let a run rest, with its jobs, until `resume`; it loses nothing."""
    from infra.cli.ask import run_told
    from infra.cli.setting import environment

    answer(as_json, execute(run_told(environment(), run, "pause_run", console=consoles(as_json))))


@on_call_app.command()
def resume(run: Annotated[str, typer.Argument(help="A paused run.")], as_json: Json = False) -> None:
    """Let a paused run go on, with its jobs."""
    from infra.cli.ask import run_told
    from infra.cli.setting import environment

    answer(as_json, execute(run_told(environment(), run, "resume_run", console=consoles(as_json))))
