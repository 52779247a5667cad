"""`connections add | list | rotate | remove | rekey`: credentials, sealed here before they are sent anywhere."""

import asyncio
import base64
import getpass
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from infra.cli.person import CommandFailed, Person
from infra.cli.plain_text import shown
from infra.cli.setting import Place, place
from workers.kernel import deposit
from workers.kernel.key_file import LocalKeyRing
from workers.kernel.ledger.connections import ConnectionKind, ConnectionTerms
from workers.kernel.vault import Secret

_ASKED = {
    ConnectionKind.API_KEY: "Key",
    ConnectionKind.BASIC: "Password",
    ConnectionKind.BEARER: "Token",
    ConnectionKind.OAUTH2_CLIENT_CREDENTIALS: "Client secret",
    ConnectionKind.OAUTH2_REFRESH: "Refresh token",
    ConnectionKind.AWS_ACCESS_KEY: "Secret access key",
}
_COLUMNS = "org_id,id,name,kind,hosts,settings,version,fault,created_at,rotated_at,last_used_at,expires_at"
_PATIENCE_SECONDS = 20.0


def known_kind(word: str) -> ConnectionKind:
    """Raises CommandFailed with the kinds that there are."""
    try:
        return ConnectionKind(word)
    except ValueError:
        raise CommandFailed(f"--kind is one of {', '.join(kind.value for kind in ConnectionKind)}") from None


def hosts_of(hosts: list[str] | None, settings: dict[str, Any]) -> list[str]:
    """The hosts that were named, or the one that the settings lead to. Raises CommandFailed."""
    if hosts:
        return hosts
    if "project_ref" in settings:
        return ["api.supabase.com"]
    if "region" in settings:
        return [f"logs.{settings['region']}.amazonaws.com"]
    raise CommandFailed("name the host that the secret is given to: --host api.example.com")


def read_secret(kind: ConnectionKind | None, *, with_client_secret: bool) -> Secret:
    """The secret from a prompt, or one line of stdin; a client secret beside it is the second. Raises CommandFailed."""
    words = [
        _ASKED.get(kind, "New secret") if kind else "New secret",
        *(["Client secret"] if with_client_secret else []),
    ]
    if sys.stdin.isatty():
        given = [getpass.getpass(f"{word} (not shown): ") for word in words]
    else:
        given = [sys.stdin.readline().rstrip("\r\n") for _ in words]
    if not all(given):
        raise CommandFailed("no secret was given: type it at the prompt, or pipe it in (pam … < file)")
    try:
        secret = Secret(secret=given[0], client_secret=given[1] if with_client_secret else None)
    except ValidationError:  # it would show what was typed
        raise CommandFailed("a secret is one line without control characters, and no blank at its ends") from None
    if kind and (fault := secret.fault_as(kind)):
        raise CommandFailed(fault)
    return secret


async def add_connection(
    env: dict[str, str],
    name: str,
    *,
    kind: ConnectionKind,
    hosts: list[str],
    settings: dict[str, Any],
    secret: Secret,
    expires_at: str | None,
    console: Console,
) -> dict[str, Any]:
    """Seal a secret for exactly this connection, and add it. Raises CommandFailed."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        terms = ConnectionTerms(
            org_id=UUID(await where.organization(person)), id=uuid4(), name=name, kind=kind, hosts=tuple(hosts),
            settings=settings, version=1,
        )  # fmt: skip
        told = terms.told()
        added = await person.call(
            "add_connection", org_id=told["org_id"], id=told["id"], name=name, kind=kind.value, hosts=hosts,
            settings=settings, deposit=await _sealed(where, person, terms, secret), expires_at=expires_at,
        )  # fmt: skip
    console.print(f"{name} is there, bound to {', '.join(hosts)}. Nobody reads its secret back.")
    return added


async def list_connections(env: dict[str, str], *, console: Console) -> list[dict[str, Any]]:
    """The organisation's connections, without their secrets."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        rows = [row async for row in person.select_all("connections", _COLUMNS, by="name", org_id=org_id)]
    table = Table("connection", "kind", "hosts", "version", "last used", "expires", "fault", box=None)
    for row in rows:
        table.add_row(
            row["name"],
            row["kind"],
            ", ".join(row["hosts"]),
            str(row["version"]),
            str(row["last_used_at"] or "never")[:16],
            str(row["expires_at"] or "never")[:16],
            shown(row["fault"] or ""),
        )
    console.print(table if rows else "There is no connection yet: `pam connections add NAME --kind … --host …`.")
    return rows


async def rotate_connection(
    env: dict[str, str], name: str, *, secret: Secret, expires_at: str | None, console: Console
) -> dict[str, Any]:
    """Put the next secret in the place of the last, for the same hosts and settings. Raises CommandFailed."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        rows = await person.select("connections", _COLUMNS, org_id=org_id, name=name)
        if not rows:
            raise CommandFailed(f"there is no connection {name}: `pam connections list` shows them")
        terms = ConnectionTerms.model_validate({**rows[0], "version": rows[0]["version"] + 1})
        if fault := secret.fault_as(terms.kind):
            raise CommandFailed(fault)
        rotated = await person.call(
            "rotate_connection", org_id=org_id, name=name, version=terms.version,
            deposit=await _sealed(where, person, terms, secret), expires_at=expires_at,
        )  # fmt: skip
    console.print(f"{name} has its secret number {terms.version}. The one before it is gone.")
    return rotated


async def remove_connection(env: dict[str, str], name: str, *, console: Console) -> dict[str, Any]:
    """Take a connection and its secret away. Raises CommandFailed."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        removed = await person.call("remove_connection", org_id=await where.organization(person), name=name)
    console.print(f"{name} is removed. Revoke its secret where it came from, too.")
    return removed


async def rekey(env: dict[str, str], *, console: Console) -> dict[str, Any]:
    """A new key for the embedded stack; its workers seal everything anew under it. Raises CommandFailed."""
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        if where.stack is None:
            raise CommandFailed(
                "a hosted project's key is in KMS: name the new one first in PAM_KMS_KEY_ID and the old one behind it,"
                " and start the workers again; they seal everything anew"
            )
        added = await asyncio.to_thread(LocalKeyRing.add_key, Path(where.stack.key_file))
    console.print(f"The key {added} seals from now on; running workers seal what there is anew within a minute.")
    return {"key_id": added}


async def _sealed(where: Place, person: Person, terms: ConnectionTerms, secret: Secret) -> str:
    """The deposit, base64: from here on no process reads the secret but a worker."""
    key = await _sealing_key(where, person)
    try:
        sealed = deposit.seal(
            secret.to_deposit(terms), key_id=UUID(key["id"]), public_key=base64.b64decode(key["public_key"])
        )
    except ValueError as error:
        raise CommandFailed(f"the secret was not sealed: {error}") from None
    return base64.b64encode(sealed).decode()


async def _sealing_key(where: Place, person: Person) -> dict[str, Any]:
    """The key that is out; the workers of a stack that has just started put one out within seconds."""
    deadline = asyncio.get_running_loop().time() + (_PATIENCE_SECONDS if where.stack else 0)
    while True:
        try:
            return await person.call("sealing_key")
        except CommandFailed:
            if asyncio.get_running_loop().time() >= deadline:
                raise
            await asyncio.sleep(0.2)
