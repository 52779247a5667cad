"""`up`: the embedded stack in the foreground."""

import asyncio
import json
import signal

from rich.console import Console

from infra.cli.person import CommandFailed
from infra.cli.setting import stack_options
from infra.local.attach import StackFailed, is_unsupervised, running_stack


async def run_up(env: dict[str, str], *, console: Console, fresh: bool, as_json: bool) -> None:
    """Start or join the stack, print its addresses, and hold it until Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    options = stack_options(env, fresh=fresh)
    try:
        async with running_stack(options, progress=lambda line: console.print(f"  {line}", style="dim")) as facts:
            if as_json:
                print(
                    json.dumps(
                        {**facts.environment(), "SUPABASE_SECRET_KEY": facts.secret_key, "PAM_API_URL": facts.api_url}
                    ),
                    flush=True,
                )
            console.print(f"\nSupabase    {facts.url}     (Auth, PostgREST, Realtime; schemas public and pam)")
            console.print(f"API         {facts.api_url}")
            console.print(f"Postgres    {facts.owner_dsn}")
            console.print(f"Key         {facts.publishable_key}")
            console.print(
                f"Model       {facts.model}"
                + ("  (a script; set OPENAI_API_KEY for a model)" if facts.model == "rehearsal" else "")
            )
            console.print(f"Logs        {options.state / 'logs'}")
            console.print("\nThe stack is up. Ctrl-C ends it.")
            while not stop.is_set():
                try:
                    await asyncio.wait_for(stop.wait(), 1)
                except TimeoutError:
                    if is_unsupervised(options.state):
                        log = options.state / "logs" / "supervisor.log"
                        raise CommandFailed(f"the stack ended: `pam up` starts it again; see {log}") from None
            console.print("Stopping the stack, unless another command still uses it.")
    except StackFailed as error:
        raise CommandFailed(str(error)) from error
