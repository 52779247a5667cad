"""`install`, `upgrade` and `uninstall`: PAM in a project's own database."""

import secrets
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from rich.console import Console
from rich.prompt import Confirm

from infra import installation
from infra.cli.person import CommandFailed

_LOGINS = {
    "PAM_DATABASE_URL": "pam_worker",
    "PAM_AGENT_DATABASE_URL": "pam_agent_sql",
    "PAM_SWEEPER_DATABASE_URL": "pam_sweeper",
}


async def run_install(
    db_url: str, *, webhook_url: str | None, console: Console, with_logins: bool, renew: bool = False
) -> dict[str, Any]:
    """Apply what is missing. The logins' passwords and the webhook's secret are made once, and again only to renew."""
    try:
        done = await installation.install(db_url, progress=lambda line: console.print(f"  {line}", style="dim"))
        settings = await installation.read_settings(db_url)
        lines: dict[str, str] = {}
        if with_logins and (renew or "logins_made_at" not in settings):
            passwords = await installation.set_passwords(db_url)
            lines = {name: _as(db_url, login, passwords[login]) for name, login in _LOGINS.items()}
        if webhook_url:
            kept = None if renew else settings.get("webhook_secret")
            secret = kept or secrets.token_urlsafe(32)
            await installation.set_webhook(db_url, url=webhook_url, secret=secret)
            lines |= {} if kept else {"PAM_WEBHOOK_SECRET": secret}
    except psycopg.OperationalError as error:
        raise CommandFailed(f"the database does not answer: {str(error).strip().splitlines()[-1]}") from error
    console.print(f"PAM is {'installed' if done else 'up to date'}: {len(done)} migrations applied.")
    if lines:
        console.print("\nPut these lines into .env; they are shown this once (--renew makes new ones):\n")
        for name, value in lines.items():
            console.print(f"{name}={value}", soft_wrap=True, markup=False)
        console.print("\nNext: add `pam` to the project's exposed schemas (Settings, API), then run `pam doctor`.")
    if with_logins and not (webhook_url or "webhook_url" in settings):
        console.print("Without --webhook-url runs start by the sweeper, up to 10 s later.")
    return {"applied": done, "environment": lines}


async def run_uninstall(db_url: str, *, console: Console, is_sure: bool) -> dict[str, Any]:
    """Take PAM away."""
    if not is_sure and not (
        console.is_terminal and Confirm.ask("Remove PAM and every run, file and message it keeps?", console=console)
    ):
        raise CommandFailed("nothing was removed: say --yes to remove PAM and everything it stored")
    try:
        left = await installation.uninstall(db_url)
    except psycopg.OperationalError as error:
        raise CommandFailed(f"the database does not answer: {str(error).strip().splitlines()[-1]}") from error
    console.print("PAM is removed.")
    for line in left:
        console.print(f"  {line}", style="yellow")
    return {"removed": True, "left": left}


def _as(db_url: str, login: str, password: str) -> str:
    """The same address for another login; a pooler's user names carry the project behind a dot."""
    parts = conninfo_to_dict(db_url)
    owner, dot, project = str(parts.get("user", "postgres")).partition(".")
    user = f"{login}{dot}{project}" if dot else login
    query = f"?sslmode={parts['sslmode']}" if parts.get("sslmode") else ""
    address = f"{parts.get('host', '127.0.0.1')}:{parts.get('port', 5432)}"
    return f"postgresql://{user}:{password}@{address}/{parts.get('dbname', owner)}{query}"
