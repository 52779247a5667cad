"""The commands that come in groups: `agents …`, `policy …`, `budget …`, `hosts …`, `workspace …`, `jobs …`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.connection_commands import connections_app
from infra.cli.console import Json, answer, consoles, execute

agents_app = typer.Typer(no_args_is_help=True, help="Import, list and show agents.")
policy_app = typer.Typer(no_args_is_help=True, help="Who may use which tool, and when a person is asked first.")
budget_app = typer.Typer(no_args_is_help=True, help="What all runs together may use in a day or month.")
hosts_app = typer.Typer(no_args_is_help=True, help="Which hosts agents may call over HTTP.")
workspace_app = typer.Typer(no_args_is_help=True, help="A Git repository's files into the workspace, and back.")
jobs_app = typer.Typer(no_args_is_help=True, help="List, show, cancel and retry background work.")
GROUPS = {
    "agents": agents_app,
    "policy": policy_app,
    "budget": budget_app,
    "hosts": hosts_app,
    "connections": connections_app,
    "workspace": workspace_app,
    "jobs": jobs_app,
}


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
    deny: Annotated[bool | None, typer.Option("--deny/--allow", help="Whether it may be used at all.")] = None,
    consent: Annotated[str | None, typer.Option(help="never, ask or four_eyes.")] = None,
    after_untrusted: Annotated[str | None, typer.Option(help="The same, once the run has read untrusted data.")] = None,
    decided_by: Annotated[str | None, typer.Option(help="The lowest role that may decide.")] = None,
    as_json: Json = False,
) -> None:
    """Say what holds for a tool with an effect; what is left out stays as it is now. Admins and owners."""
    from infra.cli.decisions import set_policy
    from infra.cli.setting import environment

    given = {"is_allowed": None if deny is None else not deny, "consent": consent}
    given |= {"consent_after_untrusted": after_untrusted, "decided_by": decided_by}
    changed = {name: value for name, value in given.items() if value is not None}
    policy = {"role": role, "tool": tool, "effect": effect}
    answer(as_json, execute(set_policy(environment(), policy, changed, console=consoles(as_json))))


@policy_app.command("reset")
def policy_reset(role: Role, tool: ToolName, effect: Effect, as_json: Json = False) -> None:
    """Take back what was set: PAM's default holds again. Admins and owners."""
    from infra.cli.decisions import reset_policy
    from infra.cli.setting import environment

    policy = {"role": role, "tool": tool, "effect": effect}
    answer(as_json, execute(reset_policy(environment(), policy, console=consoles(as_json))))


class Period(StrEnum):
    """Of the calendar, in UTC."""

    DAY = "day"
    MONTH = "month"


ForPeriod = Annotated[Period, typer.Argument(help="Of the calendar, in UTC.")]
Member = Annotated[str | None, typer.Option("--user", help="One member's runs, by user id; everybody's without.")]


@budget_app.command("list")
def budget_list(as_json: Json = False) -> None:
    """List the budgets that you may see, with what is used and held of each."""
    from infra.cli.budgets import list_budgets
    from infra.cli.setting import environment

    answer(as_json, execute(list_budgets(environment(), console=consoles(as_json))))


@budget_app.command("set")
def budget_set(
    period: ForPeriod,
    usd: Annotated[float | None, typer.Option(help="Dollars, by the price list.", min=0)] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens, read and written.", min=0)] = None,
    steps: Annotated[int | None, typer.Option(help="Calls to a model.", min=0)] = None,
    minutes: Annotated[int | None, typer.Option(help="Of workers' time; what waits takes none.", min=0)] = None,
    user: Member = None,
    as_json: Json = False,
) -> None:
    """Set a budget in place of the one before; runs that meet it end with a reason. Admins and owners."""
    from infra.cli.budgets import set_budget
    from infra.cli.setting import environment

    seconds = None if minutes is None else minutes * 60
    limits = {"max_cost_usd": usd, "max_tokens": tokens, "max_steps": steps, "max_seconds": seconds}
    if set(limits.values()) == {None}:
        raise typer.BadParameter("say --usd, --tokens, --steps or --minutes; `budget clear` takes a budget away")
    answer(as_json, execute(set_budget(environment(), period.value, limits, user_id=user, console=consoles(as_json))))


@budget_app.command("clear")
def budget_clear(period: ForPeriod, user: Member = None, as_json: Json = False) -> None:
    """Take a budget away; safe to repeat. Admins and owners."""
    from infra.cli.budgets import set_budget
    from infra.cli.setting import environment

    answer(as_json, execute(set_budget(environment(), period.value, {}, user_id=user, console=consoles(as_json))))


Host = Annotated[str, typer.Argument(help="api.example.com, *.example.com, either with :port; 443 without.")]


@hosts_app.command("list")
def hosts_list(as_json: Json = False) -> None:
    """List the hosts that your organisation's agents may call."""
    from infra.cli.hosts import list_hosts
    from infra.cli.setting import environment

    answer(as_json, execute(list_hosts(environment(), console=consoles(as_json))))


@hosts_app.command("allow")
def hosts_allow(host: Host, as_json: Json = False) -> None:
    """Let agents call a host. Admins and owners; safe to repeat."""
    from infra.cli.hosts import allow_host
    from infra.cli.setting import environment

    answer(as_json, execute(allow_host(environment(), host, console=consoles(as_json))))


@hosts_app.command("disallow")
def hosts_disallow(host: Host, as_json: Json = False) -> None:
    """Take a host off the list; calls under way end. Admins and owners; safe to repeat."""
    from infra.cli.hosts import disallow_host
    from infra.cli.setting import environment

    answer(as_json, execute(disallow_host(environment(), host, console=consoles(as_json))))


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
