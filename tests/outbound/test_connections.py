"""A connection from the browser's deposit to the header of a request: every kind, rotation, OAuth 2, new keys."""

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest

from infra.local.facts import StackFacts
from tests.support.database import Template
from tests.support.strongroom import HOST, Strongroom
from tests.support.token_endpoint import Asked, answer, token
from workers.kernel.envelope import key_id_of
from workers.kernel.errors import Refused, Unavailable
from workers.kernel.key_file import LocalKeyRing
from workers.kernel.ledger.connections import ConnectionKind
from workers.outbound.connections import Connections


@pytest.fixture(scope="module")
async def first_room(
    template: Template, stack: StackFacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Strongroom]:
    async with Strongroom.in_a_database(template, stack, tmp_path_factory.mktemp("keys")) as room:
        yield room


@pytest.fixture
async def room(first_room: Strongroom) -> Strongroom:
    first_room.endpoint.reset()
    return await first_room.elsewhere()


def header(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


SHOWN = {
    "a bearer token": ("bearer", {}, {"authorization": "Bearer s3cret"}, {}),
    "a key in a header": ("api_key", {"header": "X-Api-Key"}, {"x-api-key": "s3cret"}, {}),
    "a key with a prefix": (
        "api_key", {"header": "Authorization", "prefix": "Token "}, {"authorization": "Token s3cret"}, {},
    ),
    "a key in the query": ("api_key", {"query": "api_key"}, {}, {"api_key": "s3cret"}),
    "a user and a password": ("basic", {"username": "åsa"}, {"authorization": header("åsa:s3cret")}, {}),
}  # fmt: skip


async def test_the_database_and_python_know_the_same_kinds(room: Strongroom) -> None:
    rows = await room.bench.database.admin("select unnest(enum_range(null::pam.connection_kind))::text as word")
    assert [row["word"] for row in rows] == [kind.value for kind in ConnectionKind]


@pytest.mark.parametrize("what", [name for name in SHOWN if name != "a user and a password"])
async def test_a_secret_goes_where_its_connection_says(room: Strongroom, what: str) -> None:
    kind, settings, headers, query = SHOWN[what]
    assert (await room.add("billing", "s3cret", kind=kind, settings=settings))["version"] == 1
    for _ in range(2):  # from the deposit, and as it was sealed anew
        shown = await room.inject("billing")
        assert (shown.headers, shown.query) == (headers, query)
        assert "s3cret" in shown.secrets


async def test_a_user_and_a_password_become_one_header(room: Strongroom) -> None:
    await room.add("billing", "pässword with blanks", kind="basic", settings={"username": "me"})
    shown = await room.inject("billing")
    assert shown.headers == {"authorization": header("me:pässword with blanks")}
    assert set(shown.secrets) == {"pässword with blanks", shown.headers["authorization"].removeprefix("Basic ")}


async def test_a_deposit_is_sealed_anew_by_the_sweep_and_by_the_first_use(room: Strongroom) -> None:
    await room.add("one", "s1")
    await room.add("two", "s2")
    assert (await room.secrets("one"))["sealed"] is None
    await room.inject("one")
    settled = await room.secrets("one")
    assert (settled["deposit"], settled["key_id"]) == (None, key_id_of(settled["sealed"]))
    assert await room.vault.sweep() == 1
    assert (await room.secrets("two"))["deposit"] is None
    assert await room.vault.sweep() == 0
    assert [(await room.inject(name)).secrets for name in ("one", "two")] == [("s1",), ("s2",)]
    assert [row["is_allowed"] for row in await room.audits("connection.seal")] == [True, True]


async def test_members_see_what_there_is_and_when_it_was_used(room: Strongroom) -> None:
    await room.add("billing", "s3cret", expires_at="2099-01-01")
    viewer = await room.bench.database.new_member(room.bench.org_id, "viewer")
    look = "select name, kind, hosts, version, last_used_at, expires_at from pam.connections"
    async with room.bench.database.person(viewer) as asking:
        (row,) = await (await asking.execute(look)).fetchall()
        assert (row["name"], row["hosts"], row["last_used_at"]) == ("billing", [HOST], None)
    await room.inject("billing")
    async with room.bench.database.person(viewer) as asking:
        (row,) = await (await asking.execute(look)).fetchall()
        assert row["last_used_at"] is not None
    (used,) = await room.audits("connection.use")
    assert (used["is_allowed"], used["subject"]["connection"], used["subject"]["host"]) == (True, "billing", HOST)


async def test_a_rotated_secret_is_the_only_one_at_once(room: Strongroom) -> None:
    await room.add("billing", "old")
    await room.inject("billing")
    assert (await room.rotate("billing", "new"))["version"] == 2
    assert (await room.inject("billing")).secrets == ("new",)
    assert (await room.rotate("billing", "newer"))["version"] == 3
    assert (await (await room.beside()).inject("billing")).secrets == ("newer",)
    assert (await room.remove("billing"))["removed"] == "billing"
    with pytest.raises(Refused, match="no connection of this name"):
        await room.inject("billing")


async def test_a_new_key_of_the_ring_seals_everything_anew(room: Strongroom) -> None:
    database = room.bench.database
    await room.add("one", "s1")
    await room.add("two", "s2")
    await room.inject("one")
    assert room.key_file is not None
    before = await room.rpc(None, "sealing_key")
    added = LocalKeyRing.add_key(room.key_file)
    assert await room.vault.sweep() >= 2
    assert {(await room.secrets(name))["key_id"] for name in ("one", "two")} == {added}
    assert (await room.rpc(None, "sealing_key"))["id"] != before["id"]
    assert await database.admin("select 1 from pam_private.sealing_keys where id = %s", before["id"]) == [], (
        "no deposit needs the old one"
    )
    room.vault.envelope.forget()
    assert [(await room.inject(name)).secrets for name in ("one", "two")] == [("s1",), ("s2",)]


async def test_a_worker_without_keys_says_which_setting_is_missing(room: Strongroom) -> None:
    await room.add("billing", "s3cret")
    bare = Connections(vault=None, post=room.post)
    with pytest.raises(Refused, match="PAM_KMS_KEY_ID or PAM_KEY_FILE"):
        await bare.injected(room.bench.hold, await room.call(), "billing", HOST)


async def test_client_credentials_fetch_one_token_and_keep_it(room: Strongroom) -> None:
    await room.add(
        "crm", "c:s/cret", kind="oauth2_client_credentials",
        settings={"token_url": room.endpoint.url, "client_id": "me&co", "scopes": ["read", "write"], "audience": "crm"},
    )  # fmt: skip
    for where in (room, room, await room.beside()):
        shown = await where.inject("crm")
        assert (shown.headers, shown.secrets) == ({"authorization": "Bearer at-1"}, ("at-1",))
    (asked,) = room.endpoint.asked
    assert asked.form == {"grant_type": "client_credentials", "scope": "read write", "audience": "crm"}
    assert asked.headers["authorization"] == header("me%26co:c%3As%2Fcret")
    (fetched,) = await room.audits("connection.token")
    assert fetched["is_allowed"]


async def test_a_client_may_show_itself_in_the_body(room: Strongroom) -> None:
    settings = {"token_url": room.endpoint.url, "client_id": "me", "client_auth": "body"}
    await room.add("crm", "s3cret", kind="oauth2_client_credentials", settings=settings)
    await room.inject("crm")
    (asked,) = room.endpoint.asked
    assert asked.form == {"grant_type": "client_credentials", "client_id": "me", "client_secret": "s3cret"}
    assert "authorization" not in asked.headers


async def test_a_token_is_fetched_anew_thirty_seconds_before_it_ends(room: Strongroom) -> None:
    room.endpoint.says = lambda asked: token(access_token=f"at-{len(room.endpoint.asked)}", expires_in=31)
    await room.add("crm", "s3cret", kind="oauth2_client_credentials")
    assert (await room.inject("crm")).secrets == ("at-1",)
    assert (await room.inject("crm")).secrets == ("at-1",)
    await room.bench.database.admin(
        "update pam_private.connection_secrets set token_expires_at = clock_timestamp() + interval '29 s'"
        " where connection_id = %s",
        room.terms["crm"].id,
    )
    assert (await room.inject("crm")).secrets == ("at-2",)


async def test_a_token_that_is_refused_is_fetched_anew_once_a_call(room: Strongroom) -> None:
    room.endpoint.says = lambda asked: token(access_token=f"at-{len(room.endpoint.asked)}")
    await room.add("crm", "s3cret", kind="oauth2_client_credentials")
    other, call, hold = await room.beside(), await room.call(), room.bench.hold
    await room.inject("crm", call=call)
    other_call = await other.call()
    await other.inject("crm", call=other_call)
    assert await room.connections.invalidate(hold, call, "crm") is True
    assert (await room.inject("crm", call=call)).secrets == ("at-2",)
    assert await room.connections.invalidate(hold, call, "crm") is False, "a host that says no twice means it"
    # The other worker's 401 is of the old token: the new one stays.
    assert await other.connections.invalidate(other.bench.hold, other_call, "crm") is True
    assert (await other.inject("crm", call=other_call)).secrets == ("at-2",)
    assert len(room.endpoint.asked) == 2
    assert await room.connections.invalidate(hold, await room.call(), "crm") is False, "nothing was given to this call"


async def test_a_refresh_token_that_changes_is_kept(room: Strongroom) -> None:
    def says(asked: Asked) -> bytes:
        given = asked.form["refresh_token"]
        return token(access_token=f"for-{given}", refresh_token=f"{given}+", expires_in=1)

    room.endpoint.says = says
    await room.add("drive", "r", kind="oauth2_refresh", client_secret="cs")
    assert [(await where.inject("drive")).secrets[0] for where in (room, await room.beside(), room)] == [
        "for-r", "for-r+", "for-r++",
    ]  # fmt: skip
    assert all(asked.headers["authorization"] == header("client:cs") for asked in room.endpoint.asked)
    assert (await room.rotate("drive", "fresh"))["version"] == 2
    assert (await room.inject("drive")).secrets == ("for-fresh",)
    assert room.endpoint.asked[-1].form["client_id"] == "client", "a public client names itself in the body"


async def test_twenty_calls_of_four_workers_fetch_one_token(room: Strongroom) -> None:
    await room.add("crm", "s3cret", kind="oauth2_client_credentials")
    workers = [room, *[await room.beside() for _ in range(3)]]
    calls = [(where, await where.call()) for where in workers for _ in range(5)]
    room.endpoint.held.clear()
    waiting = [asyncio.create_task(where.inject("crm", call=call)) for where, call in calls]
    await asyncio.wait_for(room.endpoint.arrived.wait(), 10)
    room.endpoint.held.set()
    assert {shown.secrets for shown in await asyncio.gather(*waiting)} == {("at-1",)}
    assert len(room.endpoint.asked) == 1


async def test_an_endpoint_that_is_away_gives_the_turn_back(room: Strongroom) -> None:
    await room.add("crm", "s3cret", kind="oauth2_client_credentials")
    room.endpoint.says = lambda asked: answer(503, "busy")
    with pytest.raises(Unavailable, match="answered 503"):
        await room.inject("crm")
    room.endpoint.says = lambda asked: token()
    assert (await (await room.beside()).inject("crm")).secrets == ("at-1",)
    assert [row["subject"].get("code") for row in await room.audits("connection.use")] == [None, "unavailable", None]
