"""`pam connections …` on a real stack: sealed on this side, opened by its workers, and read back by nobody."""

import asyncio
import sys

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.cli.command import Ended, Pam

CANARY = "canary-5d0c7a13b9e24f86"


async def told(pam: Pam, *words: str, given: str = "") -> Ended:
    """`pam connections …` with something on stdin."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.cli", "connections", *words),
        cwd=pam.cwd,
        env=pam.environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(given.encode()), 60)
    assert CANARY not in out.decode() + errors.decode()
    assert "Traceback" not in errors.decode(), errors.decode()
    return Ended(process.returncode or 0, out.decode(), errors.decode())


async def sealed_within_a_minute(pam: Pam, name: str, key_id: str | None = None) -> None:
    """Wait until a worker has sealed the connection's secret, under this key if one is named."""
    assert pam.facts is not None
    async with (
        await psycopg.AsyncConnection.connect(pam.facts.admin_dsn, autocommit=True, row_factory=dict_row) as looking,
        asyncio.timeout(60),
    ):
        while True:
            (row,) = await (
                await looking.execute(
                    "select c.fault, s.key_id from pam_private.connection_secrets s"
                    " join pam.connections c on c.id = s.connection_id where c.name = %s",
                    [name],
                )
            ).fetchall()
            assert row["fault"] is None
            if row["key_id"] is not None and key_id in (None, row["key_id"]):
                return
            await asyncio.sleep(0.1)


async def test_a_connection_from_the_terminal_to_the_workers_vault_and_away(pam: Pam) -> None:
    added = await told(
        pam, "add", "crm", "--kind", "oauth2_client_credentials", "--host", "api.example.com", "--token-url",
        "https://auth.example.com/token", "--client-id", "pam", "--scope", "read", "--scope", "write", "--json",
        given=f"{CANARY}\n",
    )  # fmt: skip
    assert added.status == 0, added.stderr
    assert added.json()["name"] == "crm"
    (row,) = (await told(pam, "list", "--json")).json()
    assert (row["hosts"], row["settings"]["scopes"], row["last_used_at"]) == (
        ["api.example.com"],
        ["read", "write"],
        None,
    )
    await sealed_within_a_minute(pam, "crm")

    rotated = await told(pam, "rotate", "crm", "--expires", "2099-01-01", "--json", given=CANARY)
    assert (rotated.status, rotated.json()["version"]) == (0, 2), rotated.stderr
    await sealed_within_a_minute(pam, "crm")
    rekeyed = await told(pam, "rekey", "--json")
    await sealed_within_a_minute(pam, "crm", rekeyed.json()["key_id"])

    assert "crm" in (await told(pam, "list")).stdout
    assert (await told(pam, "remove", "crm", "--json")).json() == {"removed": "crm"}
    assert (await told(pam, "list", "--json")).json() == []
    assert "There is no connection yet" in (await told(pam, "list")).stdout


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (("add", "a", "--kind", "ssh", "--host", "a.example.com"), CANARY, "--kind is one of api_key, basic"),
        (("add", "a", "--kind", "bearer", "--host", "a.example.com"), "", "no secret was given"),
        (("add", "a", "--kind", "bearer", "--host", "a.example.com"), f"{CANARY}\x07", "one line without control"),
        (("add", "a", "--kind", "bearer", "--host", "a.example.com"), f"{CANARY}é", "holds ASCII characters only"),
        (("add", "a", "--kind", "bearer", "--host", "*.example.com"), CANARY, "A host is a name in small letters"),
        (("add", "a", "--kind", "api_key", "--host", "a.example.com"), CANARY, "name one of the two"),
        (
            ("add", "A b", "--kind", "bearer", "--host", "a.example.com"),
            CANARY,
            "A connection's name is a small letter",
        ),
        (("rotate", "never"), CANARY, "there is no connection never"),
        (("remove", "never"), "", "There is no such connection."),
    ],
)
async def test_what_is_wrong_is_said_in_a_sentence(pam: Pam, words: tuple[str, ...], given: str, said: str) -> None:
    ended = await told(pam, *words, given=given)
    assert (ended.status, ended.stdout) == (1, "")
    assert said in ended.stderr.replace("\n", " ")


async def test_no_option_takes_a_secret(pam: Pam) -> None:
    for command in ("add", "rotate"):
        shown = (await told(pam, command, "--help")).stdout
        assert not {"--secret", "--password", "--token", "--key"} & set(shown.split()), shown
