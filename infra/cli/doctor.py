"""`doctor`: what is missing, and how to mend it."""

import asyncio
import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from rich.console import Console
from rich.markup import escape

from infra.cli.setting import home, stack_options
from infra.local.facts import StackFacts
from infra.local.lite import Lite, deno_program
from infra.local.postgres import server_programs
from infra.local.processes import ProcessFailed
from infra.local.redis import server_program

SUPPORTED = {("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")}
LEAST_FREE_BYTES = 1_500_000_000


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `mend` says what to do when it is not well."""

    name: str
    is_well: bool
    seen: str
    mend: str = ""


async def run_doctor(env: dict[str, str], *, console: Console) -> dict[str, Any]:
    """Look at this machine, and at the hosted project when the environment names one."""
    findings = [*_machine(), *_programs()]
    findings += await _hosted(env) if env.get("SUPABASE_URL") else _stack(env)
    for finding in findings:
        mark = "[green]✔[/green]" if finding.is_well else "[red]✘[/red]"
        console.print(f"{mark} {escape(finding.name)}: {escape(finding.seen)}")
        if not finding.is_well:
            console.print(f"    {escape(finding.mend)}", style="yellow")
    return {"ok": all(f.is_well for f in findings), "findings": [vars(f) for f in findings]}


def _machine() -> list[Finding]:
    here = (platform.system(), platform.machine())
    libc = platform.libc_ver()[0]
    is_musl = here[0] == "Linux" and libc != "glibc"
    free = shutil.disk_usage(home() if home().exists() else home().parent).free
    return [
        Finding("Python", sys.version_info >= (3, 11), platform.python_version(), "PAM needs Python 3.11 or newer"),
        Finding(
            "platform",
            here in SUPPORTED and not is_musl,
            " ".join(here) + (" (musl)" if is_musl else ""),
            "the embedded stack runs on Linux x86-64 and arm64 (glibc) and macOS arm64; elsewhere use a hosted project",
        ),
        Finding(
            "disk",
            free > LEAST_FREE_BYTES,
            f"{free / 1e9:.1f} GB free",
            "the stack needs about 1.5 GB below PAM_HOME (.pam in the checkout)",
        ),
        Finding("account", True, "root: Postgres runs as pam-postgres" if os.geteuid() == 0 else "an ordinary user"),
    ]


def _postgres_program() -> Path:
    return server_programs() / "bin" / "postgres"


def _programs() -> list[Finding]:
    found: list[Finding] = []
    again = "remove the folder .pam/venv and run the command again: it is made anew from the lock"
    for name, look in (
        ("Postgres", _postgres_program),
        ("Redis", server_program),
        ("Deno", deno_program),
    ):
        try:
            program = look()
            found.append(Finding(name, program.exists(), str(program), again))
        except ProcessFailed as error:
            found.append(Finding(name, False, str(error).splitlines()[0], again))
    return found


def _stack(env: dict[str, str]) -> list[Finding]:
    options = stack_options(env)
    facts = StackFacts.read(options.state / "stack.json")
    lite = Lite(home=options.home)
    model = (
        f"{options.model.name} at {options.model.url}"
        if options.model
        else "none: `demo` plays a script, `ask` needs OPENAI_API_KEY"
    )
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", 0))
            can_listen = True
        except OSError:
            can_listen = False
    return [
        Finding(
            "loopback",
            can_listen,
            "ports can be opened on 127.0.0.1" if can_listen else "no port can be opened on 127.0.0.1",
            "allow this program to listen on 127.0.0.1",
        ),
        Finding(
            "Auth and PostgREST",
            True,
            "fetched" if lite.is_installed else "fetched from the npm registry at the first start",
        ),
        Finding("stack", True, f"running at {facts.url}" if facts else "not running: `pam up` starts it"),
        Finding("model", True, model),
    ]


async def _hosted(env: dict[str, str]) -> list[Finding]:
    """What a hosted project must have."""
    url, key = env["SUPABASE_URL"].rstrip("/"), env.get("SUPABASE_PUBLISHABLE_KEY", "")
    found: list[Finding] = []
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.get(f"{url}/rest/v1/agents?limit=1", headers={"apikey": key, "Accept-Profile": "pam"})
        exposed = answer.status_code != 406 and "PGRST106" not in answer.text
        found.append(
            Finding(
                "address", answer.status_code < 500, f"{url} answers {answer.status_code}", "is SUPABASE_URL right?"
            )
        )
        found.append(
            Finding(
                "publishable key",
                answer.status_code != 401 or "API" not in answer.text.upper(),
                "taken" if answer.status_code != 401 else "refused",
                "copy SUPABASE_PUBLISHABLE_KEY from Settings, API keys",
            )
        )
        found.append(
            Finding(
                "exposed schema",
                exposed,
                "pam is exposed" if exposed else "pam is not exposed",
                "add `pam` to the exposed schemas (Settings, API), after `pam install`",
            )
        )
    except httpx.HTTPError as error:
        found.append(
            Finding("address", False, f"{url}: {type(error).__name__}", "is SUPABASE_URL right, and the network there?")
        )
    for name, login in (
        ("PAM_DATABASE_URL", "pam_worker"),
        ("PAM_AGENT_DATABASE_URL", "pam_agent_sql"),
        ("PAM_SWEEPER_DATABASE_URL", "pam_sweeper"),
    ):
        found.append(await _login(name, login, env.get(name, "")))
    if env.get("PAM_OWNER_DATABASE_URL"):
        found += await _project(env["PAM_OWNER_DATABASE_URL"])
    for name in (
        "REDIS_URL",
        "UPSTASH_REDIS_REST_URL",
        "UPSTASH_REDIS_REST_TOKEN",
        "PAM_WEBHOOK_SECRET",
        "OPENAI_API_KEY",
    ):
        found.append(
            Finding(
                name,
                bool(env.get(name)),
                "set" if env.get(name) else "not set",
                f"set {name}: the annotated .env in the README says where it comes from",
            )
        )
    return found


async def _login(name: str, login: str, dsn: str) -> Finding:
    if not dsn:
        return Finding(name, False, "not set", f"the login {login}: `pam install` prints the line")
    try:
        async with (
            asyncio.timeout(10),
            await psycopg.AsyncConnection.connect(dsn, prepare_threshold=None) as connection,
        ):
            row = await (await connection.execute("select session_user")).fetchone()
    except (psycopg.Error, TimeoutError) as error:
        return Finding(
            name,
            False,
            type(error).__name__,
            "the login fails: `pam install` makes new passwords; through a pooler the user is login.project",
        )
    is_right = bool(row) and str(row[0]) == login  # type: ignore[index]
    return Finding(
        name, is_right, f"signs in as {row[0] if row else '?'}", f"it must be the login {login}, not another"
    )


async def _project(dsn: str) -> list[Finding]:
    """What only the owner can see: roles, pg_net, the webhook."""
    checks = (
        ("installed", "select to_regclass('pam.runs') is not null", "run `pam install`"),
        (
            "agent's role",
            "select pg_has_role('pam_agent_sql', 'pam_agent', 'set')",
            "as postgres: grant pam_agent to pam_agent_sql with inherit false, set true",
        ),
        (
            "pg_net",
            "select to_regprocedure('net.http_post(text,jsonb,jsonb,jsonb,integer)') is not null",
            "enable the extension pg_net (Database, Extensions); until then runs start by the sweeper",
        ),
        (
            "webhook",
            "select count(*) = 2 from pam_private.settings where name like 'webhook%'",
            "run `pam install --webhook-url …/hooks/run-queued`",
        ),
    )
    found: list[Finding] = []
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
            for name, query, mend in checks:
                try:
                    row = await (await connection.execute(query.encode())).fetchone()
                    is_well = bool(row and row[0])
                except psycopg.Error:
                    is_well = False
                found.append(Finding(name, is_well, "there" if is_well else "missing", mend))
    except psycopg.Error as error:
        found.append(Finding("owner's connection", False, type(error).__name__, "check PAM_OWNER_DATABASE_URL"))
    return found
