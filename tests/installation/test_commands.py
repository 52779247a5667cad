"""`pam install`, `upgrade` and `uninstall` as their users run them, and the same migrations by the real Supabase CLI."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from infra import installation
from infra.local.facts import StackFacts
from infra.local.stack import ROOT
from tests.support.database import Database, Template

CLI_VERSION = "3.1.0"


@pytest.fixture(scope="module")
async def bare(stack: StackFacts) -> Template:
    """A hosted project's database before PAM."""
    return await Template.make(stack, name="bare_project", with_pam=False, with_sample=False)


@pytest.fixture
async def project(bare: Template, stack: StackFacts) -> AsyncIterator[Database]:
    """A project of this test's own; the logins get the stack's passwords back at the end."""
    async with bare.clone() as cloned:
        yield cloned
    given = {
        "pam_worker": stack.worker_dsn,
        "pam_agent_sql": stack.agent_dsn,
        "pam_sweeper": stack.sweeper_dsn,
    }
    async with await psycopg.AsyncConnection.connect(stack.admin_dsn, autocommit=True) as admin:
        for login, dsn in given.items():
            word = psycopg.sql.Literal(conninfo_to_dict(dsn)["password"])
            await admin.execute(
                psycopg.sql.SQL("alter role {} password {}").format(psycopg.sql.Identifier(login), word)
            )


def url(database: Database) -> str:
    """The owner's address as a person would paste it."""
    parts = conninfo_to_dict(database.owner_dsn)
    return f"postgresql://postgres:{parts['password']}@127.0.0.1:{parts['port']}/{parts['dbname']}"


async def pam(*arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Run the command line as a process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PAM_OWNER_DATABASE_URL", None)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "infra.cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


async def test_install_prints_logins_that_work_once_and_repeating_it_changes_nothing(project: Database) -> None:
    hook = "https://hooks.example.com/hooks/run-queued"
    status, out, _ = await pam("install", "--db-url", url(project), "--webhook-url", hook, "--json")
    assert status == 0
    first: dict[str, Any] = json.loads(out)
    assert len(first["applied"]) == len(installation.read_migrations())
    for name, login in (
        ("PAM_DATABASE_URL", "pam_worker"),
        ("PAM_AGENT_DATABASE_URL", "pam_agent_sql"),
        ("PAM_SWEEPER_DATABASE_URL", "pam_sweeper"),
    ):
        async with await psycopg.AsyncConnection.connect(first["environment"][name]) as connection:
            assert await (await connection.execute("select session_user")).fetchone() == (login,)

    _, out, _ = await pam("install", "--db-url", url(project), "--webhook-url", hook, "--json")
    assert json.loads(out) == {"applied": [], "environment": {}}

    _, out, _ = await pam("install", "--db-url", url(project), "--renew", "--json")
    renewed = json.loads(out)["environment"]
    assert renewed["PAM_DATABASE_URL"] != first["environment"]["PAM_DATABASE_URL"]
    with pytest.raises(psycopg.OperationalError):
        await psycopg.AsyncConnection.connect(first["environment"]["PAM_DATABASE_URL"])

    status, out, _ = await pam("upgrade", "--db-url", url(project), "--json")
    assert (status, json.loads(out)) == (0, {"applied": [], "environment": {}})


async def test_uninstall_asks_first_and_an_absent_database_is_said_in_a_sentence(project: Database) -> None:
    await pam("install", "--db-url", url(project))

    status, _, errors = await pam("uninstall", "--db-url", url(project))
    assert (status, "--yes" in errors) == (1, True)
    assert await project.owner("select 1 from pam.runs limit 1") == []

    status, _, _ = await pam("uninstall", "--db-url", url(project), "--yes")
    assert status == 0
    assert (await project.owner("select to_regnamespace('pam') as pam"))[0]["pam"] is None

    status, _, errors = await pam("install", "--db-url", "postgresql://postgres:wrong@127.0.0.1:1/postgres")
    assert status == 1
    assert errors.startswith("pam: the database does not answer")
    assert "Traceback" not in errors


@pytest.mark.skipif(shutil.which("npm") is None, reason="the Supabase CLI comes from npm, and there is no npm here")
async def test_the_supabase_cli_applies_the_same_migrations_and_install_adopts_them(
    project: Database, tmp_path: Path
) -> None:
    npm = ["npm", "install", "--silent", "--no-save", "--prefix", str(tmp_path), f"supabase@{CLI_VERSION}"]
    await asyncio.to_thread(subprocess.run, npm, check=True, capture_output=True, timeout=100)
    cli = tmp_path / "node_modules" / ".bin" / "supabase"

    async def supabase(*arguments: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            [str(cli), *arguments, f"--remote={url(project)}?sslmode=disable"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    pushed = await supabase("db", "push", "--yes")
    assert f"Apply {len(installation.read_migrations())} migrations" in pushed
    assert "up to date" in await supabase("db", "push", "--yes")
    assert "No issues found" in await supabase("db", "advisors")

    assert await installation.install(project.owner_dsn) == []
    adopted = await project.owner("select version from pam_private.migrations order by version")
    assert [row["version"] for row in adopted] == [m.version for m in installation.read_migrations()]


async def test_the_owners_address_is_read_from_the_env_file_too(project: Database, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"PAM_OWNER_DATABASE_URL='{url(project)}'\n")

    for command in ("install", "upgrade", "uninstall"):
        words = (command, "--json", *(["--yes"] if command == "uninstall" else []))
        status, _, errors = await pam(*words, cwd=tmp_path)
        assert status == 0, errors
    assert (await project.owner("select to_regnamespace('pam') as pam"))[0]["pam"] is None

    (tmp_path / ".env").unlink()
    for command in ("install", "upgrade", "uninstall", "operator"):
        status, _, errors = await pam(command, cwd=tmp_path)
        assert (status, "PAM_OWNER_DATABASE_URL" in errors, "Traceback" in errors) == (2, True, False), errors
    (tmp_path / ".env").write_text("what is this\n")
    status, _, errors = await pam("operator", cwd=tmp_path)
    assert (status, errors) == (1, f"pam: {tmp_path}/.env:1: expected NAME=value\n")
