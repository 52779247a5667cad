"""What `doctor` looks at in a hosted project: its address, logins, storage and keys, and what only its owner sees."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from infra.cli.finding import Finding
from workers.kernel.errors import PamError
from workers.kernel.key_file import LocalKeyRing

_PULSE = """
select pam_private.is_operator_alive(),
       (select extract(epoch from clock_timestamp() - p.seen_at)::int from pam_private.operator_pulse p)"""


async def look_at_project(env: dict[str, str]) -> list[Finding]:
    """What a hosted project and its workers must have."""
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
    found += [_storage(env), await _key(env)]
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


def _storage(env: dict[str, str]) -> Finding:
    """Where file versions go: the same rule by which a worker starts, or does not."""
    bucket, folder = (env.get(name, "").strip() for name in ("PAM_FILES_BUCKET", "PAM_FILES_FOLDER"))
    name = "file storage"
    if bucket:
        return Finding(name, True, f"the S3 bucket {bucket}" + ("; PAM_FILES_FOLDER is not used" if folder else ""))
    if folder and (_kms_keys(env) or env.get("PAM_KEY_FILE", "").strip()):
        return Finding(name, True, f"the folder {folder}, sealed")
    if folder:
        mend = "set PAM_KEY_FILE, too, or keep files in a bucket: PAM_FILES_BUCKET. No worker starts like this"
        return Finding(name, False, f"the folder {folder}, and no key that seals it", mend)
    mend = "set PAM_FILES_BUCKET: the README says what its workers need on AWS. No worker starts without"
    return Finding(name, False, "neither PAM_FILES_BUCKET nor PAM_FILES_FOLDER is set", mend)


async def _key(env: dict[str, str]) -> Finding:
    """What seals connections and files. A worker starts without, but not with two."""
    keys, file, name = _kms_keys(env), env.get("PAM_KEY_FILE", "").strip(), "sealing key"
    if keys and file:
        mend = "keep the one that seals your connections. No worker starts with both"
        return Finding(name, False, "PAM_KMS_KEY_ID and PAM_KEY_FILE are both set", mend)
    if keys:
        older = f", and for what was sealed before {', '.join(keys[1:])}" if keys[1:] else ""
        return Finding(name, True, f"{keys[0]} of AWS KMS{older}")
    if not file:
        return Finding(name, True, "none: connections are refused, and S3 encrypts with its own keys (SSE-S3)")
    try:
        await LocalKeyRing(file=Path(file)).key_id()
    except PamError as error:
        return Finding(name, False, str(error), "PAM_KEY_FILE names a file that lies where workers run, theirs alone")
    return Finding(name, True, f"the key file {file}")


def _kms_keys(env: dict[str, str]) -> list[str]:
    return [key for key in map(str.strip, env.get("PAM_KMS_KEY_ID", "").split(",")) if key]


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
            "the login fails: `pam install --renew` makes new passwords, for all three logins; through a pooler the "
            "user is login.project",
        )
    is_right = bool(row) and str(row[0]) == login  # type: ignore[index]
    return Finding(
        name, is_right, f"signs in as {row[0] if row else '?'}", f"it must be the login {login}, not another"
    )


async def _project(dsn: str) -> list[Finding]:
    """What only the owner can see: roles, pg_net, the webhook, the operator."""
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
            if found[0].is_well:
                found.append(await _operator(connection))
    except psycopg.Error as error:
        found.append(Finding("owner's connection", False, type(error).__name__, "check PAM_OWNER_DATABASE_URL"))
    return found


async def _operator(connection: psycopg.AsyncConnection[Any]) -> Finding:
    """Whether an operator works on this database. A project may do without; one that fell silent is missed."""
    try:
        row = await (await connection.execute(_PULSE)).fetchone()
    except psycopg.Error as error:
        return Finding("operator", False, type(error).__name__, "bring what is installed up to date: `pam upgrade`")
    is_alive, silent_seconds = row if row else (False, None)
    if silent_seconds is None:
        return Finding("operator", True, "none was ever here: an approved change is exported as a migration file")
    seen = f"last heard of {timedelta(seconds=silent_seconds)} ago (h:mm:ss)"
    return Finding(
        "operator", is_alive, seen, "start it again: `pam operator`; until then approved changes are only exported"
    )
