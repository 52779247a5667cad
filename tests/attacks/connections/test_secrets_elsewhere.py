"""Somebody else's secret, and a secret for another host: asked for under every name.

Each test is another mechanism, and says what was tried and what stopped it.
"""

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.database.world import connect
from tests.support.canary import CANARY, refusal
from tests.support.strongroom import HOST, Strongroom, room_ids, room_terms
from workers.kernel.errors import AccessRevoked, FenceLost, Refused
from workers.kernel.ledger import connections as ledger
from workers.kernel.ledger import tool_calls
from workers.kernel.ledger.hold import Hold
from workers.kernel.ledger.tool_calls import CallStatus

# Use somebody else's


async def test_another_organisations_connection_is_as_absent_as_one_that_never_was(room: Strongroom) -> None:
    other = await room.elsewhere()
    await other.add("theirs", CANARY)
    told = [await refusal(room.inject(name)) for name in ("theirs", "never", "THEIRS", "theirs\0"[:6], "%", "")]
    assert set(told) == {told[0]}
    assert told[0][0] == "not_found"
    assert [row["is_allowed"] for row in await room.audits("connection.use")] == [False] * 6
    assert await other.audits("connection.use") == []


async def test_no_verb_takes_the_id_of_another_organisations_connection(room: Strongroom) -> None:
    other = await room.elsewhere()
    await other.add("theirs", CANARY, kind="oauth2_client_credentials")
    await other.inject("theirs")
    theirs, lease, before = other.terms["theirs"], uuid4(), await other.secrets("theirs")
    with pytest.raises(Refused, match="rotated or removed"):
        await ledger.lease_token(room.bench.hold, theirs, lease)
    with pytest.raises(Refused, match="rotated"):
        await ledger.keep_token(room.bench.hold, theirs, lease, b"x", seconds=60, sealed=b"x", key_id="x")
    assert await ledger.drop_token(room.bench.hold, theirs.id, before["token_number"]) is False
    await ledger.yield_token(room.bench.hold, theirs, lease)
    assert await other.secrets("theirs") == before


async def test_a_connection_needs_a_call_of_this_run_that_has_begun(room: Strongroom) -> None:
    await room.add("billing", CANARY)
    other, beside = await room.elsewhere(), await room.beside()
    planned = (await room.bench.planned("redis_get", {"key": "a"})).id
    ended = await room.bench.planned("redis_get", {"key": "a"})
    await tool_calls.begin(room.bench.hold, ended)
    await tool_calls.finish(room.bench.hold, ended, CallStatus.SUCCEEDED, "done", [])
    for call in (uuid4(), planned, ended.id, await other.call(), await beside.call()):
        code, told = await refusal(room.inject("billing", call=call))
        assert (code, told) == ("invalid", "A connection is used within a tool call that has begun, and by no other.")


@pytest.mark.parametrize("role", ["viewer", "developer"])
async def test_who_may_not_decide_neither_adds_nor_rotates_nor_removes(room: Strongroom, role: str) -> None:
    await room.add("billing", CANARY)
    member = await room.bench.database.new_member(room.bench.org_id, role)
    for told in (
        await room.add("more", "x", by=member), await room.rotate("billing", "x", by=member),
        await room.remove("billing", by=member),
    ):  # fmt: skip
        assert told["refused"]["code"] == "forbidden"
    for act in ("add", "rotate", "remove"):
        *_, last = await room.audits(f"connection.{act}")
        assert (last["is_allowed"], last["actor_id"]) == (False, member)
    assert (await room.inject("billing")).secrets == (CANARY,)


async def test_a_stranger_and_nobody_learn_not_even_that_it_is_there(room: Strongroom) -> None:
    await room.add("billing", CANARY)
    stranger = await room.bench.database.new_person()
    told = [await room.rotate("billing", "x", by=stranger), await room.remove("billing", by=stranger)]
    told += [await room.add("mine", "x", by=stranger)]
    there = room.bench.org_id
    assert {answer["refused"]["code"] for answer in told} == {"not_found"}
    told += [await room.rpc(stranger, "remove_connection", org_id=uuid4(), name="billing")]
    assert told[1] == told[3], "a foreign organisation and an absent one answer alike"
    async with room.bench.database.person(stranger) as asking:
        assert await (await asking.execute("select 1 from pam.connections")).fetchall() == []
    async with room.bench.database.person(None, role="anon") as asking:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await asking.execute("select pam.remove_connection(%s, 'billing')", [there])


async def test_the_run_of_a_removed_member_gets_nothing(room: Strongroom) -> None:
    await room.add("billing", CANARY)
    call = await room.call()
    for change in (
        "update pam.members set role = 'viewer' where user_id = %s",
        "delete from pam.members where user_id = %s",
    ):
        await room.bench.database.admin(change, room.bench.user_id)
        with pytest.raises(AccessRevoked):
            await room.inject("billing", call=call)


async def test_a_worker_that_lost_the_run_gets_nothing(room: Strongroom) -> None:
    await room.add("billing", CANARY)
    call, held = await room.call(), room.bench.hold
    for fence in (held.fence - 1, held.fence + 1):
        with pytest.raises(FenceLost):
            await room.connections.injected(Hold(held.gateway, held.run_id, fence), call, "billing", HOST)


async def test_an_expired_connection_is_refused_from_that_moment_on(room: Strongroom) -> None:
    await room.add("billing", CANARY, expires_at="2099-01-01")
    await room.inject("billing")
    await room.bench.database.admin(
        "update pam.connections set expires_at = now() where id = %s", room.terms["billing"].id
    )
    assert (await refusal(room.inject("billing")))[0] == "expired"
    assert (await room.add("late", "x", expires_at="2020-01-01"))["refused"]["code"] == "invalid"


# Take it to another host


@pytest.mark.parametrize("host", [
    "evil.example.net", "api.example.com.evil.net", "evil-api.example.com", "example.com", "x.api.example.com",
    "api.example.com.", "API.example.com", "api.example.com:443", "api.example.com:8443", "api.example.com@evil.net",
    "evil.net#api.example.com", "api.example.com/", "*", "%", "", "{api.example.com}", "api.example.com, evil.net",
    "api\u3002example\u3002com", "аpi.example.com", "127.0.0.1", "api.example.com\n", " api.example.com",
])  # fmt: skip
async def test_a_host_that_only_looks_like_the_bound_one_gets_nothing(room: Strongroom, host: str) -> None:
    await room.add("billing", CANARY)
    code, told = await refusal(room.inject("billing", host))
    assert (code, told) == (
        "forbidden",
        "The connection billing is bound to api.example.com and is given to no other host.",
    )
    *_, last = await room.audits("connection.use")
    assert (last["is_allowed"], last["subject"]["code"]) == (False, "forbidden")


async def test_a_redirect_to_another_host_asks_again_and_gets_nothing(room: Strongroom) -> None:
    """The outbound client asks anew for each host of a redirect, within the same call."""
    await room.add("billing", CANARY, hosts=("api.example.com", "files.example.com:8443"))
    call = await room.call()
    for host in ("api.example.com", "files.example.com:8443"):
        assert (await room.inject("billing", host, call=call)).secrets == (CANARY,)
    for host in ("evil.example.net", "files.example.com", "api.example.com:8443"):
        assert (await refusal(room.inject("billing", host, call=call)))[0] == "forbidden"


LOGS = "logs.eu-central-1.amazonaws.com"
GROUP = {"access_key_id": "AKIACANARY0000000000", "region": "eu-central-1", "log_group": "/app"}
ODD_TERMS: dict[str, dict[str, Any]] = {
    "no host": {"hosts": []},
    "a wildcard": {"hosts": ["*.example.com"]},
    "a scheme": {"hosts": ["https://api.example.com"]},
    "a path": {"hosts": ["api.example.com/v1"]},
    "capitals": {"hosts": ["API.example.com"]},
    "a null host": {"hosts": [None]},
    "an empty label": {"hosts": ["api..example.com"]},
    "the default port": {"hosts": ["api.example.com:443"]},
    "a line end": {"hosts": ["api.example.com\nevil.net"]},
    "a host list too long": {"hosts": [f"h{n}.example.com" for n in range(21)]},
    "an unknown kind": {"kind": "ssh"},
    "an unknown setting": {"settings": {"also_send_to": "evil.net"}},
    "the Host header": {"kind": "api_key", "settings": {"header": "Host"}},
    "a header that frames": {"kind": "api_key", "settings": {"header": "transfer-encoding"}},
    "a header that splits": {"kind": "api_key", "settings": {"header": "X-Key: a\r\nX-More"}},
    "a prefix that splits": {"kind": "api_key", "settings": {"header": "X-Key", "prefix": "a\r\nb: "}},
    "a parameter that adds one": {"kind": "api_key", "settings": {"query": "key&admin"}},
    "both header and query": {"kind": "api_key", "settings": {"header": "X-Key", "query": "key"}},
    "a user name with a colon": {"kind": "basic", "settings": {"username": "a:b"}},
    "a token_url without TLS": {"kind": "oauth2_refresh", "settings": {"client_id": "c", "token_url": "http://a.net/"}},
    "a token_url with a user": {"kind": "oauth2_refresh", "settings": {"client_id": "c", "token_url": "https://a@b.net/"}},
    "a token_url with a fragment": {"kind": "oauth2_refresh", "settings": {"client_id": "c", "token_url": "https://b.net/#a"}},
    "a loopback look-alike": {"kind": "oauth2_refresh", "settings": {"client_id": "c", "token_url": "http://localhost.evil.net/"}},
    "a scope that is no word": {
        "kind": "oauth2_refresh", "settings": {"client_id": "c", "token_url": "https://b.net/", "scopes": ["a b"]},
    },
    "logs of another host": {"settings": {"project_ref": "a" * 20}, "hosts": ["evil.net"]},
    "logs of one host more": {"settings": {"project_ref": "a" * 20}, "hosts": ["api.supabase.com", "evil.net"]},
    "logs of no project": {"settings": {"project_ref": "../../v1/organizations"}, "hosts": ["api.supabase.com"]},
    "logs at an address": {"kind": "aws_access_key", "settings": {**GROUP, "endpoint_url": "http://evil.net"}, "hosts": [LOGS]},
    "logs in no region": {"kind": "aws_access_key", "settings": {**GROUP, "region": "evil.net#"}, "hosts": ["logs.evil.net"]},
    "logs of no group": {"kind": "aws_access_key", "settings": {**GROUP, "log_group": "a' | b"}, "hosts": [LOGS]},
    "AWS keys for another host": {"kind": "aws_access_key", "settings": GROUP, "hosts": ["api.example.com"]},
    "settings that are a list": {"settings": ["header"]},
    "a name with a blank": {"name": "two words"},
    "a name in another alphabet": {"name": "bіlling"},
}  # fmt: skip


@pytest.mark.parametrize("what", ODD_TERMS)
async def test_terms_that_would_widen_where_it_goes_are_refused(room: Strongroom, what: str) -> None:
    sealed = await room.sealed({}, secret=CANARY)
    told = await connect(
        room.bench.database, room.bench.user_id, room.bench.org_id, **{"deposit": sealed, **ODD_TERMS[what]}
    )
    assert told["refused"]["code"] == "invalid", told
    assert await room.bench.database.admin("select 1 from pam.connections where org_id = %s", room.bench.org_id) == []


async def test_a_secret_with_a_line_end_adds_no_header(room: Strongroom) -> None:
    for n, odd in enumerate((f"{CANARY}\r\nx-admin: yes", f"{CANARY}\0", f"{CANARY}\u2028x", f" {CANARY}", "", "käy")):
        sealed = await room.sealed(room_terms(room, f"odd{n}"), secret=odd)
        await room.add(f"odd{n}", "x", deposit=sealed, id=room_ids[f"odd{n}"])
        code, told = await refusal(room.inject(f"odd{n}"))
        assert (code, "rotate the connection" in told) == ("unusable", True), told


async def test_two_hundred_connections_are_the_most_also_at_once(room: Strongroom) -> None:
    database = room.bench.database
    await room.add("first", CANARY)
    await database.admin(
        "insert into pam.connections (org_id, id, name, kind, hosts, settings, created_by)"
        " select org_id, gen_random_uuid(), 'c' || n, kind, hosts, settings, created_by"
        " from pam.connections, generate_series(1, 198) n where org_id = %s",
        room.bench.org_id,
    )
    terms, sealed = room_terms(room, "last"), await room.sealed({}, secret="x")
    async with database.person(room.bench.user_id) as asking:
        answer = await asking.execute(
            "select pam.add_connection(%s, %s, 'last', 'bearer', array[%s], '{}', %s) as told",
            [room.bench.org_id, terms["id"], HOST, sealed],
        )
        assert "refused" not in (await answer.fetchall())[0]["told"]
        beside = asyncio.create_task(room.add("late", "x"))  # counts before the other has committed, or waits for it
        async with asyncio.timeout(10):
            while not beside.done() and not await database.admin(
                "select 1 from pg_locks where not granted and database is not null"
            ):
                await asyncio.sleep(0.02)
    assert (await beside)["refused"]["code"] == "limit"
