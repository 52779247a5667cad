"""OAuth 2, attacked by the token endpoint, by its answers, and by workers who fetch at the same moment.

Each test is another mechanism, and says what was tried and what stopped it.
"""

import asyncio
import gzip
import json
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import pytest

from tests.support.strongroom import HOST, Strongroom
from tests.support.token_endpoint import Asked, TokenEndpoint, answer, token
from workers.kernel.envelope import key_id_of
from workers.kernel.errors import Refused, Unavailable
from workers.kernel.ledger import connections as ledger
from workers.kernel.ledger.connections import Token
from workers.outbound import connections, oauth

CANARY = "canary-2be1c07d94f35a68"


async def refusal(work: Awaitable[Any]) -> str:
    """The sentence with which a token is not given; never the endpoint's words."""
    with pytest.raises((Refused, Unavailable)) as caught:
        await work
    assert CANARY not in f"{caught.value!r}{caught.value.__cause__!r}"
    return str(caught.value)


async def machine(room: Strongroom, says: bytes) -> str:
    """What a call is told when the token endpoint says this; nothing of it may be kept."""
    room.endpoint.says = lambda asked: says
    await room.add("crm", CANARY, kind="oauth2_client_credentials")
    told = await refusal(room.inject("crm"))
    row = await room.secrets("crm")
    assert (row["token_sealed"], row["lease"]) == (None, None)
    *_, last = await room.audits("connection.use")
    assert last["is_allowed"] is False
    return told


# The endpoint and its answers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_carries_the_client_secret_nowhere(room: Strongroom, status: int) -> None:
    async with TokenEndpoint.open() as elsewhere:
        told = await machine(room, answer(status, location=elsewhere.url))
        assert told == f"The token endpoint of crm refused ({status}): an admin checks and rotates it."
        assert elsewhere.asked == []


async def test_a_redirect_on_the_endpoints_own_host_is_not_followed(room: Strongroom) -> None:
    told = await machine(room, answer(307, location="/echo"))
    assert told == "The token endpoint of crm refused (307): an admin checks and rotates it."
    assert [asked.path for asked in room.endpoint.asked] == ["/token"]


async def test_a_body_without_end_is_not_read_to_its_end(room: Strongroom) -> None:
    body = json.dumps({"access_token": "x", "token_type": "bearer", "pad": "x" * 5_000_000})
    assert await machine(room, answer(200, body)) == "The token endpoint answered more than 64 KiB."


async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(room: Strongroom) -> None:
    packed = gzip.compress(json.dumps({"access_token": "x", "token_type": "bearer", "pad": "x" * 9_000_000}).encode())
    assert len(packed) < 65_536
    assert "more than 64 KiB" in await machine(room, answer(200, packed, content_encoding="gzip"))


@pytest.mark.parametrize("status", [400, 401, 403, 418])
async def test_an_error_that_echoes_the_secret_is_not_repeated(room: Strongroom, status: int) -> None:
    body = {"error": CANARY, "error_description": f"unknown client secret {CANARY}", "error_uri": f"https://a/{CANARY}"}
    assert f"refused ({status})" in await machine(room, answer(status, json.dumps(body)))


async def test_only_words_of_the_standard_are_passed_on(room: Strongroom) -> None:
    told = await machine(room, answer(400, json.dumps({"error": "invalid_grant", "error_description": CANARY})))
    assert told == "The token endpoint of crm refused (400, invalid_grant): an admin checks and rotates it."


@pytest.mark.parametrize(
    "kind", ["mac", "Basic", "bearer ", "Bearer\r\nx: y", "", None, ["bearer"], 1, {"a": "bearer"}]
)
async def test_a_forged_type_is_no_bearer_token(room: Strongroom, kind: Any) -> None:
    assert "gave no bearer token" in await machine(room, token(token_type=kind))


@pytest.mark.parametrize(
    "value", ["", "a b", "a\r\nx-admin: yes", "a\0", "tøken", "x" * 16_385, None, 5, ["a"], {"a": 1}, True]
)
async def test_what_cannot_stand_in_a_header_is_no_token(room: Strongroom, value: Any) -> None:
    assert "answered what is no token" in await machine(room, token(access_token=value))


@pytest.mark.parametrize("seconds", [0, -1, "0", "soon", True, [], "-5", "٣٦٠٠"])
async def test_a_token_that_has_ended_already_is_not_kept(room: Strongroom, seconds: Any) -> None:
    assert "has expired already" in await machine(room, token(expires_in=seconds))


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "1e400", "99999999999999999999", "86401"])
async def test_no_token_is_kept_for_longer_than_a_day(room: Strongroom, seconds: str) -> None:
    body = f'{{"access_token": "at", "token_type": "bearer", "expires_in": {seconds}}}'
    room.endpoint.says = lambda asked: answer(200, body)
    await room.add("crm", CANARY, kind="oauth2_client_credentials")
    if seconds == "NaN":
        assert "has expired already" in await refusal(room.inject("crm"))
        return
    await room.inject("crm")
    (row,) = await room.bench.database.admin(
        "select token_expires_at < now() + interval '24 h 1 s' as soon from pam_private.connection_secrets"
        " where connection_id = %s",
        room.terms["crm"].id,
    )
    assert row["soon"]


@pytest.mark.parametrize(
    "body", ["", "no json", "[" * 50_000, '{"access_token": "a"', '["bearer"]', '"at"', "null", b"\xff\xfe", b"\0"],
    ids=range(9),
)  # fmt: skip
async def test_what_is_no_json_object_is_no_token(room: Strongroom, body: bytes | str) -> None:
    assert "gave no bearer token" in await machine(room, answer(200, body))


async def test_a_success_of_another_status_is_none(room: Strongroom) -> None:
    assert "refused (201)" in await machine(room, token(201))


async def test_an_endpoint_that_never_answers_gives_the_turn_back(
    room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "FETCH_SECONDS", 0.1)
    room.endpoint.held.clear()
    told = await machine(room, token())
    assert "did not answer within" in told
    room.endpoint.held.set()
    room.endpoint.says = lambda asked: token()
    assert (await room.inject("crm")).secrets == ("at-1",)


async def test_an_endpoint_that_hangs_up_is_an_outage_and_no_refusal(room: Strongroom) -> None:
    assert "did not answer" in await machine(room, b"")


async def test_a_machines_client_secret_is_not_replaced_by_what_the_endpoint_sends(room: Strongroom) -> None:
    """A refresh token where none was asked for (RFC 6749, 4.4.3) must not take the client secret's place."""
    room.endpoint.says = lambda asked: token(refresh_token="planted", expires_in=1)
    await room.add("crm", CANARY, kind="oauth2_client_credentials")
    before = (await room.inject("crm"), (await room.secrets("crm"))["sealed"])
    assert (await room.inject("crm"), (await room.secrets("crm"))["sealed"]) == before
    place, lease = await leased(room, "crm")
    with pytest.raises(Refused, match="try again"):
        await ledger.keep_token(
            room.bench.hold, room.terms["crm"], lease, b"t", seconds=9, sealed=place.sealed, key_id="local-1"
        )
    assert (await room.secrets("crm"))["sealed"] == before[1]


# Several at once


async def leased(room: Strongroom, name: str) -> tuple[Token, Any]:
    """The turn to fetch a token, and its id."""
    lease = uuid4()
    return await ledger.lease_token(room.bench.hold, room.terms[name], lease), lease


def changing(asked: Asked) -> bytes:
    """A provider that takes a refresh token once and gives another."""
    given = asked.form["refresh_token"]
    return token(access_token=f"for-{given}", refresh_token=f"{given}+", expires_in=3600)


async def test_two_workers_never_send_one_refresh_token_twice(room: Strongroom) -> None:
    """Reuse makes a provider revoke the whole grant."""
    room.endpoint.says = changing
    await room.add("drive", "r", kind="oauth2_refresh")
    await room.inject("drive")
    await room.put("drive", token_sealed=None)
    workers = [room, await room.beside(), await room.beside()]
    for where in workers:
        where.vault.envelope.forget()
    calls = [(where, await where.call()) for where in workers]
    room.endpoint.held.clear()
    room.endpoint.arrived.clear()
    waiting = [asyncio.create_task(where.inject("drive", call=call)) for where, call in calls]
    await asyncio.wait_for(room.endpoint.arrived.wait(), 10)
    room.endpoint.held.set()
    await asyncio.gather(*waiting)
    assert [asked.form["refresh_token"] for asked in room.endpoint.asked] == ["r", "r+"]


async def test_a_worker_that_opened_early_sends_the_newest_refresh_token(room: Strongroom) -> None:
    room.endpoint.says = changing
    await room.add("drive", "r", kind="oauth2_refresh")
    await room.vault.sweep()
    early = await ledger.open_for(room.bench.hold, await room.call(), "drive", HOST)
    await (await room.beside()).inject("drive")
    await room.put("drive", token_sealed=None)
    assert (await room.connections._token(room.vault, room.bench.hold, early))[0] == "for-r+"


async def test_a_call_that_is_cancelled_does_not_lose_the_changed_refresh_token(room: Strongroom) -> None:
    room.endpoint.says = changing
    await room.add("drive", "r", kind="oauth2_refresh")
    room.endpoint.held.clear()
    call = asyncio.create_task(room.inject("drive", call=await room.call()))
    await asyncio.wait_for(room.endpoint.arrived.wait(), 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    closing = asyncio.create_task(room.connections.close())  # a worker that leaves waits for it
    await asyncio.sleep(0.05)
    assert not closing.done()
    room.endpoint.held.set()
    await asyncio.wait_for(closing, 10)
    assert (await (await room.beside()).inject("drive")).secrets == ("for-r",)
    await room.put("drive", token_sealed=None)
    assert (await (await room.beside()).inject("drive")).secrets == ("for-r+",)


async def test_a_run_that_ends_meanwhile_does_not_lose_the_changed_refresh_token(room: Strongroom) -> None:
    room.endpoint.says = changing
    await room.add("drive", "r", kind="oauth2_refresh")
    other, call = await room.beside(), await room.call()
    room.endpoint.held.clear()
    fetching = asyncio.create_task(room.inject("drive", call=call))
    await asyncio.wait_for(room.endpoint.arrived.wait(), 10)
    await room.bench.database.admin(
        "update pam_private.run_heads set fence = fence + 1 where run_id = %s", room.bench.hold.run_id
    )
    await room.bench.database.admin(
        "delete from pam.members where user_id = %s and org_id = %s", room.bench.user_id, room.bench.org_id
    )
    room.endpoint.held.set()
    await fetching
    await room.bench.database.admin(
        "insert into pam.members (org_id, user_id, role) values (%s, %s, 'owner')",
        room.bench.org_id,
        room.bench.user_id,
    )
    await room.put("drive", token_sealed=None)
    assert (await other.inject("drive")).secrets == ("for-r+",)


async def test_a_connection_rotated_meanwhile_keeps_nothing_of_the_old_account(room: Strongroom) -> None:
    room.endpoint.says = changing
    await room.add("drive", "old", kind="oauth2_refresh")
    room.endpoint.held.clear()
    fetching = asyncio.create_task(room.inject("drive", call=await room.call()))
    await asyncio.wait_for(room.endpoint.arrived.wait(), 10)
    await room.rotate("drive", "new")
    room.endpoint.held.set()
    assert "try again" in await refusal(fetching)
    assert (await room.inject("drive")).secrets == ("for-new",)
    assert [row["is_allowed"] for row in await room.audits("connection.token")] == [False, True]


async def test_a_rotated_connection_leaves_no_token_of_the_old_account(room: Strongroom) -> None:
    await room.add("crm", CANARY, kind="oauth2_client_credentials")
    await room.inject("crm")
    assert (await room.secrets("crm"))["token_sealed"] is not None
    await room.rotate("crm", "new")
    row = await room.secrets("crm")
    assert (row["token_sealed"], row["sealed"], row["key_id"]) == (None, None, None)


async def test_a_worker_that_slept_through_its_turn_overwrites_nothing(room: Strongroom) -> None:
    room.endpoint.says = changing
    await room.add("drive", "r", kind="oauth2_refresh")
    await room.vault.sweep()
    _, slept = await leased(room, "drive")
    await room.put("drive", lease_until="2020-01-01")
    assert (await (await room.beside()).inject("drive")).secrets == ("for-r",)
    before = await room.secrets("drive")
    for lease in (slept, uuid4()):
        with pytest.raises(Refused, match="fetched by another worker"):
            await ledger.keep_token(
                room.bench.hold, room.terms["drive"], lease, b"t", seconds=9, sealed=b"old", key_id="local-1"
            )
    await ledger.yield_token(room.bench.hold, room.terms["drive"], slept)
    assert await room.secrets("drive") == before


async def test_a_turn_is_given_to_one_and_again_only_when_it_is_over(room: Strongroom) -> None:
    await room.add("crm", CANARY, kind="oauth2_client_credentials")
    await room.vault.sweep()
    first, lease = await leased(room, "crm")
    assert first.leased
    assert first.sealed is not None
    assert key_id_of(first.sealed) == (await room.secrets("crm"))["key_id"]
    assert (await leased(room, "crm"))[0].wait
    await ledger.yield_token(room.bench.hold, room.terms["crm"], uuid4())
    assert (await leased(room, "crm"))[0].wait, "who has not the turn cannot give it back"
    await ledger.yield_token(room.bench.hold, room.terms["crm"], lease)
    assert (await leased(room, "crm"))[0].leased


async def test_no_turn_and_no_token_is_taken_for_a_version_that_is_gone(room: Strongroom) -> None:
    await room.add("crm", CANARY, kind="oauth2_client_credentials")
    await room.vault.sweep()
    _, lease = await leased(room, "crm")
    for version in (0, 2):
        gone = room.terms["crm"].model_copy(update={"version": version})
        with pytest.raises(Refused, match="rotated or removed"):
            await ledger.lease_token(room.bench.hold, gone, uuid4())
        with pytest.raises(Refused, match="rotated"):
            await ledger.keep_token(room.bench.hold, gone, lease, b"t", seconds=9, sealed=None, key_id=None)


async def test_who_waits_for_anothers_token_does_not_wait_for_ever(
    room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "WAIT_SECONDS", 0.3)
    await room.add("crm", CANARY, kind="oauth2_client_credentials")
    await room.vault.sweep()
    assert (await leased(room, "crm"))[0].leased
    assert "no token of crm came within" in await refusal(room.inject("crm"))
    assert room.endpoint.asked == []


async def test_the_form_is_encoded_so_that_a_secret_adds_no_field(room: Strongroom) -> None:
    settings = {"token_url": room.endpoint.url, "client_id": "a&grant_type=password", "client_auth": "body"}
    await room.add("crm", "x&scope=admin", kind="oauth2_client_credentials", settings=settings)
    await room.inject("crm")
    (asked,) = room.endpoint.asked
    assert asked.form == {
        "grant_type": "client_credentials", "client_id": "a&grant_type=password", "client_secret": "x&scope=admin",
    }  # fmt: skip


def test_the_limits_leave_room_for_one_another() -> None:
    """A fetch ends before its turn does, and who waits waits longer than one turn."""
    assert connections.FETCH_SECONDS < 30 < connections.WAIT_SECONDS
    assert oauth.MAX_SECONDS <= 86_400
