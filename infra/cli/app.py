"""The commands of `pam`, each with --help and --json; errors are one sentence on stderr, Ctrl-C is quiet."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from infra.__main__ import NEEDS_TEST
from infra.cli.console import Json, answer, consoles, execute
from infra.cli.groups import GROUPS
from infra.cli.on_call import on_call_app
from infra.cli.person import CommandFailed

app = typer.Typer(
    name="pam",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Agents that do backend engineering for teams on Supabase, as the person who asked.",
)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)
app.add_typer(on_call_app)


@app.command()
def demo(
    as_json: Json = False,
    fresh: Annotated[bool, typer.Option(help="Start over with an empty database.")] = False,
    record: Annotated[
        Path | None, typer.Option(help="Keep every raw websocket frame, the cut and the stored rows in this folder.")
    ] = None,
    all_tools: Annotated[
        bool, typer.Option("--all-tools", help="Also the second chapter: every tool of the card in a real run.")
    ] = False,
) -> None:
    """Run the main job on real input: two runs, rendered live, one cut in the middle."""
    from infra.cli.demo import run_demo
    from infra.cli.setting import environment

    report = execute(
        run_demo(environment(), console=consoles(as_json), fresh=fresh, record=record, all_tools=all_tools)
    )
    error = report.get("error")
    if error:
        print(f"pam: {error}", file=sys.stderr)
    answer(as_json, report)
    raise typer.Exit(1 if error else 0)


@app.command()
def up(
    as_json: Json = False, fresh: Annotated[bool, typer.Option(help="Start over with an empty database.")] = False
) -> None:
    """Run the embedded stack in the foreground: URLs, keys, what is running. Ctrl-C ends everything."""
    from infra.cli.setting import environment
    from infra.cli.up import run_up

    execute(run_up(environment(), console=consoles(as_json), fresh=fresh, as_json=as_json))


@app.command()
def ask(
    task: Annotated[str, typer.Argument(help="What the agent should do, in your own words.")],
    agent: Annotated[str, typer.Option(help="Which agent.")] = "BackendEngineer",
    thread: Annotated[str | None, typer.Option(help="Go on in this thread.")] = None,
    if_busy: Annotated[
        str, typer.Option(help="When the thread's run is not finished: reject, queue, interrupt or roll_back.")
    ] = "reject",
    priority: Annotated[
        int, typer.Option(min=-10, max=10, help="Which of the organisation's queued runs comes first.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Give an agent a task of your own, rendered live. Needs a model: OPENAI_API_KEY."""
    from infra.cli.ask import run_ask
    from infra.cli.setting import environment

    asked = run_ask(
        environment(),
        task,
        agent=agent,
        thread=thread,
        if_busy=if_busy,
        priority=priority,
        console=consoles(as_json),
    )
    report = execute(asked)
    answer(as_json, report)
    raise typer.Exit(0 if report["status"] in ("succeeded", "interrupted") else 1)


@app.command()
def steer(
    run: Annotated[str, typer.Argument(help="A run that is not finished.")],
    text: Annotated[str, typer.Argument(help="What it should know or do from here on.")],
    as_json: Json = False,
) -> None:
    """Say something to a run on its way; it is taken before its next step."""
    from infra.cli.ask import run_steer
    from infra.cli.setting import environment

    answer(as_json, execute(run_steer(environment(), run, text, console=consoles(as_json))))


@app.command()
def reply(
    run: Annotated[str, typer.Argument(help="The run that asked.")],
    text: Annotated[str, typer.Argument(help="Your answer.")],
    as_json: Json = False,
) -> None:
    """Answer the question of an interrupted run, and watch it go on."""
    from infra.cli.ask import run_reply
    from infra.cli.setting import environment

    report = execute(run_reply(environment(), run, text, console=consoles(as_json)))
    answer(as_json, report)
    raise typer.Exit(0 if report["status"] in ("succeeded", "interrupted") else 1)


@app.command()
def approvals(
    is_all: Annotated[bool, typer.Option("--all", help="Also the 50 newest that are over.")] = False,
    as_json: Json = False,
) -> None:
    """List what runs wait for: who may decide, until when, and what it would do."""
    from infra.cli.decisions import list_approvals
    from infra.cli.setting import environment

    answer(as_json, execute(list_approvals(environment(), is_all=is_all, console=consoles(as_json))))


@app.command()
def approve(
    ids: Annotated[list[str], typer.Argument(help="Approvals, or runs: everything that a run waits for.")],
    reject: Annotated[bool, typer.Option("--reject", help="Say no instead.")] = False,
    note: Annotated[str | None, typer.Option(help="Why; the agent reads it.")] = None,
    edit: Annotated[str | None, typer.Option(help="Approve with these arguments instead, a JSON object.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Make a signed link that decides it once, instead.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask at the terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Show what runs wait for and decide it, one or many at once; a single run is then watched."""
    from infra.cli.decisions import approve as decide
    from infra.cli.decisions import make_link
    from infra.cli.setting import environment

    if link:
        return answer(as_json, execute(make_link(environment(), ids[0], console=consoles(as_json))))
    verdict = "reject" if reject else "approve"
    console = consoles(as_json)
    work = decide(environment(), ids, verdict=verdict, note=note, edited=edit, is_sure=yes, console=console)
    report = execute(work)
    answer(as_json, report)
    raise typer.Exit(0 if all("status" in result for result in report["results"]) else 1)


@app.command()
def watch(run: Annotated[str, typer.Argument(help="The run's id.")], as_json: Json = False) -> None:
    """Watch a run live, from its first event on."""
    from infra.cli.ask import run_watch
    from infra.cli.setting import environment

    answer(as_json, execute(run_watch(environment(), run, console=consoles(as_json))))


@app.command()
def cancel(run: Annotated[str, typer.Argument(help="The run's id.")], as_json: Json = False) -> None:
    """Stop a run."""
    from infra.cli.ask import run_told
    from infra.cli.setting import environment

    answer(as_json, execute(run_told(environment(), run, "cancel_run", console=consoles(as_json))))


@app.command()
def events(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One AG-UI event a line, as it is stored.")] = False,
    as_json: Json = False,
) -> None:
    """Print the log of a run."""
    from infra.cli.ask import read_events
    from infra.cli.setting import environment

    rows = execute(read_events(environment(), run))
    if as_json:
        return answer(True, rows)
    for row in rows:
        print(json.dumps(row["payload"]) if jsonl else f"{row['seq']:>5}  {row['created_at']}  {row['type']}")
    return None


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="The run's id, or a file that --save made.")],
    card: Annotated[Path | None, typer.Option(help="With this agent card instead of the run's own.")] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the run as one JSON file, to replay anywhere.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail also when the model would be asked otherwise.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Carry a stored run out again, offline, with its recorded answers; status 1 when other decisions come of it."""
    from infra.cli.replay import run_replay
    from infra.cli.setting import environment
    from workers.kernel import telemetry

    telemetry.configure("replay", level="critical")  # that a tool broke, then, is no news
    work = run_replay(environment(), run, card=card, save=save, is_strict=strict, console=consoles(as_json))
    report = execute(work)
    answer(as_json, report)
    raise typer.Exit(0 if report["same"] else 1)


def _owners(given: str) -> str:
    from infra.cli.setting import environment

    url = given.strip() or environment().get("PAM_OWNER_DATABASE_URL", "").strip()
    if not url:
        raise typer.BadParameter("give it, or set PAM_OWNER_DATABASE_URL in the environment or .env")
    return url


DbUrl = Annotated[
    str,
    typer.Option(
        "--db-url",
        callback=_owners,
        show_default=False,
        help="The project's owner: postgresql://postgres:…@…; without it PAM_OWNER_DATABASE_URL, also from .env.",
    ),
]


@app.command()
def install(
    db_url: DbUrl = "",
    webhook_url: Annotated[
        str | None, typer.Option(help="Where queued runs are announced: the hooks function's URL.")
    ] = None,
    renew: Annotated[bool, typer.Option(help="Make new passwords and a new webhook secret.")] = False,
    as_json: Json = False,
) -> None:
    """Install PAM beside a project's own tables. Prints the lines for .env."""
    from infra.cli.project import run_install

    answer(
        as_json,
        execute(run_install(db_url, webhook_url=webhook_url, console=consoles(as_json), with_logins=True, renew=renew)),
    )


@app.command()
def upgrade(db_url: DbUrl = "", as_json: Json = False) -> None:
    """Bring an installed PAM up to date; passwords and settings stay."""
    from infra.cli.project import run_install

    answer(as_json, execute(run_install(db_url, webhook_url=None, console=consoles(as_json), with_logins=False)))


@app.command()
def uninstall(
    db_url: DbUrl = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Take PAM and everything it stored out of a project; the project's own tables stay as they are."""
    from infra.cli.project import run_uninstall

    answer(as_json, execute(run_uninstall(db_url, console=consoles(as_json), is_sure=yes)))


@app.command()
def operator(db_url: DbUrl = "", as_json: Json = False) -> None:
    """Try and apply approved changes of the schema on the owner's connection, in the foreground, until Ctrl-C."""
    from infra.owner.service import serve
    from workers.kernel import telemetry

    telemetry.configure("operator")
    execute(serve(db_url))
    answer(as_json, {"stopped": True})


@app.command()
def bundle(
    folder: Annotated[Path, typer.Option(help="Where the zips go; serverless.yml looks in build/lambda.")] = Path(
        "build/lambda"
    ),
    as_json: Json = False,
) -> None:
    """Build the Lambda bundles that serverless.yml names: arm64, pinned, reproducible."""
    from infra.deploy.bundle import BundleFailed, build

    console = consoles(as_json)
    try:
        zips = build(folder, progress=lambda line: console.print(f"  {line}", style="dim"))
    except BundleFailed as failure:
        print(f"pam: the bundle was not built: {failure}", file=sys.stderr)
        raise typer.Exit(1) from None
    for path in zips:
        console.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    answer(as_json, {path.stem: {"path": str(path), "bytes": path.stat().st_size} for path in zips})


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is missing here or in the hosted project, and how to mend it."""
    from infra.cli.doctor import run_doctor
    from infra.cli.setting import environment
    from workers.kernel import telemetry

    telemetry.configure("doctor", level="error")  # what the sandbox's trial logs is said in a finding
    report = execute(run_doctor(environment(), console=consoles(as_json)))
    answer(as_json, report)
    raise typer.Exit(0 if report["ok"] else 1)


@app.command()
def check(as_json: Json = False) -> None:
    """Format, lint, types and house rules: what CI checks."""
    from infra.cli.check import run_check

    report = run_check(console=consoles(as_json))
    answer(as_json, report)
    raise typer.Exit(0 if report["ok"] else 1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(
    context: typer.Context,
    mutations: Annotated[
        bool, typer.Option(help="Drop each policy, grant, fence and guard in turn; a survivor fails.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the test suite; further arguments go to pytest."""
    if mutations:
        from infra.mutations.run import run_mutations

        report = run_mutations(context.args, console=consoles(as_json))
    else:
        from infra.pytest_run import run_tests

        report = run_tests(context.args, as_json=as_json)
    answer(as_json, report)
    raise typer.Exit(int(report["status"]))


@app.command()
def chaos(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long faults strike.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same faults; else one is drawn.")] = None,
    as_json: Json = False,
) -> None:
    """Kill, freeze and restart workers and every part of a stack of its own while runs work; count what is lost."""
    from infra.cli.chaos import run_chaos

    report = execute(run_chaos(minutes=minutes, seed=seed, console=consoles(as_json)))
    answer(as_json, report)
    raise typer.Exit(0 if report["ok"] else 1)


@app.command()
def bench(
    only: Annotated[str | None, typer.Option(help="Run the rows whose name contains this.")] = None,
    as_json: Json = False,
) -> None:
    """Measure: medians, each with a yardstick in the same run."""
    from infra.bench import run_bench
    from infra.cli.setting import environment

    answer(as_json, execute(run_bench(environment(), console=consoles(as_json), only=only)))


def main() -> None:
    """The entry point of `pam` and `python3 -m infra`. A fault in .env is said in a sentence, like all others."""
    try:
        word = next(iter(sys.argv[1:]), "")
        if word in NEEDS_TEST and find_spec("pytest") is None:
            raise CommandFailed(f"what `{word}` needs is not fetched yet: `python3 -m infra {word}` fetches it")
        app(prog_name="pam")
    except CommandFailed as error:
        print(f"pam: {error}", file=sys.stderr)
        raise SystemExit(1) from None
