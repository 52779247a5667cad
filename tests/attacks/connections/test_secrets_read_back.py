"""A secret that was put in, asked for at every door, of every object, error and log.

Each test is another mechanism, and says what was tried and what stopped it.
"""

import base64
import copy
import json
import logging
import pickle
import traceback
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from infra.local.facts import StackFacts
from tests.support.canary import CANARY, holds_canary, refusal
from tests.support.strongroom import HOST, Strongroom, room_ids, room_terms
from tests.support.token_endpoint import answer
from workers.kernel.envelope import DataKey
from workers.kernel.errors import PamError
from workers.kernel.ledger import connections as ledger
from workers.kernel.vault import DepositUnusable, Secret
from workers.outbound.oauth import FetchedToken, TokenAnswer


async def used(room: Strongroom) -> None:
    """A canary in every kind of connection, used once each."""
    await room.add("bearer", CANARY)
    await room.add("basic", CANARY, kind="basic", settings={"username": "client"})
    await room.add("key", CANARY, kind="api_key", settings={"query": "key"})
    await room.add("machine", CANARY, kind="oauth2_client_credentials")
    await room.add("drive", CANARY, kind="oauth2_refresh", client_secret=CANARY)
    for name in ("bearer", "basic", "key", "machine", "drive"):
        assert (await room.inject(name)).secrets


@pytest.mark.parametrize("role", ["owner", "admin", "developer", "viewer"])
async def test_no_member_selects_a_sealed_secret(room: Strongroom, role: str) -> None:
    await room.add("billing", CANARY)
    member = await room.bench.database.new_member(room.bench.org_id, role)
    for statement in (
        "select * from pam_private.connection_secrets",
        "select * from pam_private.sealing_keys",
        "select pam_private.sealed_connection(c, null) from pam.connections c",
        "select s from pam.connections c, pam_private.connection_secrets s",
        "select pam_worker.sweep_connections('x')",
        "select pam_worker.sealing_key()",
    ):
        async with room.bench.database.person(member) as asking:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await asking.execute(statement.encode())


async def test_what_members_may_read_has_no_column_for_a_secret(room: Strongroom) -> None:
    await used(room)
    async with room.bench.database.person(room.bench.user_id) as asking:
        rows = await (await asking.execute("select c::text as told, c.* from pam.connections c")).fetchall()
    assert len(rows) == 5
    assert not any(holds_canary(str(row)) or any(isinstance(v, bytes) for v in row.values()) for row in rows)


async def test_no_verb_gives_back_what_it_was_given(room: Strongroom) -> None:
    answers = [await room.add("billing", CANARY), await room.rotate("billing", f"{CANARY}2")]
    answers += [await room.add("billing", CANARY), await room.rotate("billing", CANARY, version=9)]
    answers += [await room.remove("billing")]
    assert ["refused" in told for told in answers] == [False, False, True, True, False]
    assert not holds_canary(json.dumps(answers))


async def test_a_plain_secret_is_refused_at_the_door_and_kept_nowhere(room: Strongroom) -> None:
    """Who forgets to seal must not find the secret stored, audited or repeated in the refusal."""
    for plain in (CANARY, CANARY * 20, base64.b64encode(CANARY.encode() * 20).decode(), None, "", "x" * 50_000):
        told = await room.add("billing", "x", deposit=plain)
        assert told["refused"]["code"] == "invalid", told
        assert not holds_canary(json.dumps(told))
    assert not holds_canary(await everything(room))


async def everything(room: Strongroom) -> str:
    """Every row of every table of PAM, as text; sealed bytes as hexadecimal."""
    database = room.bench.database
    tables = await database.admin(
        "select c.oid::regclass::text as name from pg_class c where c.relkind = 'r'"
        " and c.relnamespace::regnamespace::text like 'pam%'"
    )
    told = [await database.admin(f"select t::text as row from {table['name']} t") for table in tables]
    return "\n".join(str(row["row"]) for rows in told for row in rows)


async def test_no_table_of_pam_holds_it_in_any_shape(room: Strongroom) -> None:
    await used(room)
    await room.vault.sweep()
    whole = await everything(room)
    assert "api.example.com" in whole, "the rows were read"
    assert not holds_canary(whole)


async def test_the_databases_own_log_never_saw_it(room: Strongroom, stack: StackFacts) -> None:
    """With every statement and parameter logged: what reaches Postgres is sealed already."""
    name = str((await room.bench.database.admin("select current_database() as name"))[0]["name"])
    await room.bench.database.admin(f"alter database {name} set log_statement = 'all'")
    there = await room.beside()
    await there.add("billing", CANARY)
    await there.inject("billing")
    await there.rotate("billing", CANARY)
    await room.bench.database.admin(f"alter database {name} reset log_statement")
    log = (Path(stack.state) / "logs" / "postgres.log").read_bytes()
    assert b"add_connection" in log, "the statements are in the log"
    assert not holds_canary(log)


async def test_no_log_at_debug_holds_it(
    room: Strongroom, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as told:
        await used(room)
        await room.add("odd", CANARY, deposit=await room.sealed({"any": "thing"}, secret=CANARY))
        await refusal(room.inject("odd"))
        room.endpoint.says = lambda asked: answer(400, json.dumps({"error": CANARY, **asked.form}))
        await room.add("refusing", CANARY, kind="oauth2_client_credentials")
        await refusal(room.inject("refusing"))
    assert any(record.name.startswith("httpcore") for record in caplog.records), "debug logs were written"
    assert [one for one in told if one["event"] == "connection not opened"]
    output = capfd.readouterr()
    assert not holds_canary("".join((caplog.text, json.dumps(told, default=repr), output.out, output.err)))


async def test_no_object_shows_it(room: Strongroom) -> None:
    await room.add("billing", CANARY)
    secret = Secret(secret=CANARY, client_secret=CANARY)
    found = await ledger.open_for(room.bench.hold, await room.call(), "billing", HOST)
    key = DataKey("k", CANARY.encode(), CANARY.encode())
    shown = [
        secret, found, await room.inject("billing"), FetchedToken(CANARY, 1, CANARY), TokenAnswer(200, CANARY.encode()),
        key, room.vault, room.vault.envelope, room.vault.envelope.ring, room.connections,
    ]  # fmt: skip
    for one in shown:
        assert not holds_canary(f"{one!r} {one} {[one]} {{one}} {one:}"), type(one)
    assert not holds_canary(repr(copy.copy(secret)))


async def test_no_traceback_and_no_chained_error_holds_it(room: Strongroom) -> None:
    """Parsers put what they could not read into their errors: none of those is passed on."""
    broken: list[Exception] = []

    async def caught(work: Awaitable[Any]) -> None:
        with pytest.raises(PamError) as error:
            await work
        broken.append(error.value)

    for n, odd in enumerate(({"secret": CANARY, "more": CANARY}, {"secret": [CANARY]}, {"secret": f"{CANARY}\n"})):
        sealed = await room.sealed({**room_terms(room, f"odd{n}")}, **odd)
        await room.add(f"odd{n}", "x", deposit=sealed, id=room_ids[f"odd{n}"])
        await caught(room.inject(f"odd{n}"))
    for n, said in enumerate((f'{{"access_token": "{CANARY}', json.dumps({"error": CANARY}), f'["{CANARY}"]')):
        status = 400 if n == 1 else 200
        room.endpoint.says = lambda asked, status=status, said=said: answer(status, said)  # type: ignore[misc]
        await room.add(f"m{n}", CANARY, kind="oauth2_client_credentials")
        await caught(room.inject(f"m{n}"))
    with pytest.raises(DepositUnusable) as unusable:
        Secret.from_bytes(json.dumps({"secret": 5, "x": CANARY}).encode())
    broken.append(unusable.value)
    for error in broken:
        seen: BaseException | None = error
        while seen is not None:
            assert not holds_canary(f"{seen!r}{seen.args}{vars(seen)}")
            assert seen.__suppress_context__ or seen.__context__ is None, "a reporter of errors walks the whole chain"
            seen = seen.__cause__
        assert not holds_canary("".join(traceback.format_exception(error)))


async def test_a_models_own_sql_reaches_neither_sealed_bytes_nor_verbs(room: Strongroom) -> None:
    await room.add("billing", CANARY)
    for sql in (
        "select * from pam_private.connection_secrets",
        "select deposit from pam_private . connection_secrets",
        "select pam_worker.sweep_connections('x')",
        "select * from pam.connections",
        "select query_to_xml('select * from pam_private.connection_secrets', true, true, '')",
    ):
        status, told = await room.bench.use("database_query", sql=sql)
        assert status in ("failed", "refused"), (sql, told)
        assert not holds_canary(told)


async def test_the_workers_login_reads_no_table_but_what_verbs_give(room: Strongroom) -> None:
    async with await psycopg.AsyncConnection.connect(room.bench.database.worker_dsn, autocommit=True) as login:
        for table in ("pam.connections", "pam_private.connection_secrets", "pam_private.sealing_keys"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await login.execute(f"select * from {table}".encode())


async def test_equal_secrets_seal_to_nothing_that_is_equal(room: Strongroom) -> None:
    """Who sees sealed bytes must not learn that two connections share a password."""
    for name in ("one", "two"):
        await room.add(name, CANARY)
    deposits = [(await room.secrets(name))["deposit"] for name in ("one", "two")]
    await room.vault.sweep()
    sealed = [(await room.secrets(name))["sealed"] for name in ("one", "two")]
    for left, right in (deposits, sealed):
        tails = {left[i : i + 16] for i in range(len(left) - 400, len(left) - 16)}
        assert not any(right[i : i + 16] in tails for i in range(len(right) - 100, len(right) - 16))


async def test_what_is_pickled_or_deep_copied_still_shows_nothing(room: Strongroom) -> None:
    await room.add("billing", CANARY)
    with pytest.raises(TypeError):
        pickle.dumps(room.connections)
    assert not holds_canary(repr(copy.deepcopy(await room.inject("billing"))))
