"""The commands that come in groups: `agents …`, `policy …`, `workspace …`, `jobs …`."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.console import Json, answer, consoles, execute

agents_app = typer.Typer(no_args_is_help=True, help="Import, list and show agents.")
policy_app = typer.Typer(no_args_is_help=True, help="Who may use which tool, and when a person is asked first.")
workspace_app = typer.Typer(no_args_is_help=True, help="A Git repository's files into the workspace, and back.")
jobs_app = typer.Typer(no_args_is_help=True, help="List, show, cancel and retry background work.")


@agents_app.command("import")
def agents_import(
    file: Annotated[Path, typer.Argument(help="A Markdown agent card, or Markdown with YAML front matter.")],
    as_json: Json = False,
) -> None:
    """Import an agent card as the agent's next version; a broken one is refused with file, line and reason."""
    from infra.cli.agents import import_card
    from infra.cli.setting import environment

    answer(as_json, execute(import_card(environment(), file, console=consoles(as_json))))


@agents_app.command("list")
def agents_list(as_json: Json = False) -> None:
    """List the agents of your organisation."""
    from infra.cli.agents import list_agents
    from infra.cli.setting import environment

    answer(as_json, execute(list_agents(environment(), console=consoles(as_json))))


@agents_app.command("show")
def agents_show(name: Annotated[str, typer.Argument(help="The agent's name.")], as_json: Json = False) -> None:
    """Show what an agent is told and which tools it has."""
    from infra.cli.agents import show_agent
    from infra.cli.setting import environment

    answer(as_json, execute(show_agent(environment(), name, console=consoles(as_json))))


Role = Annotated[str, typer.Argument(help="developer, admin or owner: of the person who asks.")]
ToolName = Annotated[str, typer.Argument(help="A tool, or * for every tool.")]
Effect = Annotated[str, typer.Argument(help="read, write, external or irreversible.")]


@policy_app.command("list")
def policy_list(as_json: Json = False) -> None:
    """List what your organisation has set; everything else follows PAM's defaults."""
    from infra.cli.decisions import list_policies
    from infra.cli.setting import environment

    answer(as_json, execute(list_policies(environment(), console=consoles(as_json))))


@policy_app.command("set")
def policy_set(
    role: Role,
    tool: ToolName,
    effect: Effect,
    deny: Annotated[bool, typer.Option("--deny", help="Do not allow it at all.")] = False,
    consent: Annotated[str, typer.Option(help="never, ask or four_eyes.")] = "never",
    after_untrusted: Annotated[str, typer.Option(help="The same, once the run has read untrusted data.")] = "ask",
    decided_by: Annotated[str, typer.Option(help="The lowest role that may decide.")] = "admin",
    as_json: Json = False,
) -> None:
    """Say what holds for a tool with an effect. Admins and owners."""
    from infra.cli.decisions import set_policy
    from infra.cli.setting import environment

    policy = {"role": role, "tool": tool, "effect": effect, "is_allowed": not deny, "consent": consent}
    policy |= {"consent_after_untrusted": after_untrusted, "decided_by": decided_by}
    answer(as_json, execute(set_policy(environment(), console=consoles(as_json), **policy)))


@policy_app.command("reset")
def policy_reset(role: Role, tool: ToolName, effect: Effect, as_json: Json = False) -> None:
    """Take back what was set: PAM's default holds again. Admins and owners."""
    from infra.cli.decisions import reset_policy
    from infra.cli.setting import environment

    policy = {"role": role, "tool": tool, "effect": effect}
    answer(as_json, execute(reset_policy(environment(), console=consoles(as_json), **policy)))


Place = Annotated[str, typer.Argument(help="A local Git repository, or its https address.")]
Folder = Annotated[str, typer.Option("--path", help="A folder of the repository; all of it without.")]


@workspace_app.command("pull")
def workspace_pull(
    repository: Place,
    ref: Annotated[str | None, typer.Option(help="A branch, tag or commit; the current branch without.")] = None,
    path: Folder = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also files that were changed in the workspace; versions are kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a commit's files into the workspace, those that differ; links and submodules are left out."""
    from infra.cli.setting import environment
    from infra.cli.workspace_pull import run_pull

    work = run_pull(environment(), repository, ref=ref, folder=path, overwrite=overwrite, console=consoles(as_json))
    answer(as_json, execute(work))


@workspace_app.command("push")
def workspace_push(
    repository: Place,
    branch: Annotated[str, typer.Option(help="The new branch's name.")],
    message: Annotated[str | None, typer.Option(help="The commit's title.")] = None,
    base: Annotated[
        str | None, typer.Option(help="The branch it shall be merged into; the pulled one without.")
    ] = None,
    path: Folder = "",
    as_json: Json = False,
) -> None:
    """Make a branch with what was changed since the pull, one commit, and print a description for review."""
    from infra.cli.setting import environment
    from infra.cli.workspace_push import run_push

    console = consoles(as_json)
    work = run_push(environment(), repository, branch=branch, message=message, base=base, folder=path, console=console)
    answer(as_json, execute(work))


JobId = Annotated[str, typer.Argument(help="The job's id.")]


@jobs_app.command("list")
def jobs_list(
    status: Annotated[
        str | None, typer.Option(help="scheduled, queued, running, succeeded, failed or cancelled.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List your organisation's newest jobs and its active schedules."""
    from infra.cli.jobs import list_jobs
    from infra.cli.setting import environment

    answer(as_json, execute(list_jobs(environment(), status=status, console=consoles(as_json))))


@jobs_app.command("show")
def jobs_show(job: JobId, as_json: Json = False) -> None:
    """Show a job and its result; its run's log is at `pam events`."""
    from infra.cli.jobs import show_job
    from infra.cli.setting import environment

    answer(as_json, execute(show_job(environment(), job, console=consoles(as_json))))


@jobs_app.command("cancel")
def jobs_cancel(
    job: Annotated[str, typer.Argument(help="The job's or the schedule's id.")], as_json: Json = False
) -> None:
    """Cancel a job with its run, or a schedule."""
    from infra.cli.jobs import change_job
    from infra.cli.setting import environment

    answer(as_json, execute(change_job(environment(), "cancel_job", job, console=consoles(as_json))))


@jobs_app.command("retry")
def jobs_retry(job: JobId, as_json: Json = False) -> None:
    """Let a failed or cancelled job be due again now."""
    from infra.cli.jobs import change_job
    from infra.cli.setting import environment

    answer(as_json, execute(change_job(environment(), "retry_job", job, console=consoles(as_json))))
