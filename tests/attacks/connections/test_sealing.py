"""Sealed bytes, attacked by whoever can write the database, the key file or the wire: moved, changed, mixed, replayed.

Each test is another mechanism. Nothing opens but what was sealed, in its own place, under its own terms and version.
"""

import base64
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.database.world import connect
from tests.support.strongroom import HOST, Strongroom, assert_broken, settled
from workers.kernel import deposit
from workers.kernel.envelope import DataKey, Envelope, KeyAway, KeyRing, SealBroken, _parts, key_id_of
from workers.kernel.errors import Refused
from workers.kernel.key_file import LocalKeyRing
from workers.kernel.ledger import connections as ledger

PLACE = {"org_id": "5f0c", "connection": "a1", "purpose": "connection"}


# The form


async def test_no_bit_of_it_can_be_changed(envelope: Envelope) -> None:
    sealed = await envelope.seal(b"plain", context=PLACE)
    for at in sorted({*range(0, len(sealed), 7), *range(12), *range(len(sealed) - 40, len(sealed))}):
        for bit in (0x01, 0x80):
            changed = bytearray(sealed)
            changed[at] ^= bit
            with pytest.raises((SealBroken, KeyAway)):  # KeyAway: a service's word for a wrapped key it does not know
                await envelope.open(bytes(changed), context=PLACE)
    assert await envelope.open(sealed, context=PLACE) == b"plain"


async def test_nothing_of_it_can_be_cut_off_or_added(envelope: Envelope) -> None:
    sealed = await envelope.seal(b"plain", context=PLACE)
    for cut in [*(sealed[:n] for n in range(0, len(sealed), 11)), sealed[:-1], sealed[1:], sealed + b"\0", sealed * 2]:
        with pytest.raises(SealBroken):
            await envelope.open(cut, context=PLACE)


@pytest.mark.parametrize("context", [
    {**PLACE, "org_id": "6a11"}, {**PLACE, "connection": "a2"}, {**PLACE, "purpose": "access token"},
    {k: v for k, v in PLACE.items() if k != "org_id"}, {**PLACE, "more": ""}, {**PLACE, "org_id": "5f0c\0"},
    {"org_id": '5f0c","connection":"a1', "purpose": "connection"},
], ids=range(7))  # fmt: skip
async def test_it_opens_in_no_other_place(envelope: Envelope, context: dict[str, str]) -> None:
    sealed = await envelope.seal(b"plain", context=PLACE)
    with pytest.raises((SealBroken, KeyAway)):
        await envelope.open(sealed, context=context)
    await envelope.open(sealed, context=PLACE)
    with pytest.raises((SealBroken, KeyAway)):
        await envelope.open(sealed, context=context)  # nor while its data key is remembered


async def test_another_version_is_not_guessed_at(envelope: Envelope) -> None:
    sealed = await envelope.seal(b"plain", context=PLACE)
    for version in (0, 2, 255):
        with pytest.raises(SealBroken, match="upgrade the worker"):
            await envelope.open(sealed[:4] + bytes([version]) + sealed[5:], context=PLACE)


async def test_an_older_key_cannot_be_named_in_the_place_of_the_newer(key_file: Path) -> None:
    envelope = Envelope(ring=LocalKeyRing(file=key_file))
    old = key_id_of(await envelope.seal(b"x", context=PLACE))
    new = LocalKeyRing.add_key(key_file)
    sealed = await envelope.seal(b"plain", context=PLACE)
    assert len(old) == len(new)
    for name in (old, "local-000000000000", "\u00e9" * 9):
        with pytest.raises(SealBroken):
            await envelope.open(sealed.replace(new.encode(), name.encode()[: len(new)]), context=PLACE)


async def test_the_form_holds_by_itself_where_a_ring_looks_at_nothing() -> None:
    """A ring that unwraps whatever it is given: the key id, lengths and wrapped key are authenticated all the same."""

    class Trusting:
        """Wraps by doing nothing."""

        async def make(self, context: Any) -> DataKey:
            return DataKey("key-1", b"k" * 32, b"k" * 32 + b"padding")

        async def unwrap(self, key_id: str, wrapped: bytes, context: Any) -> bytes:
            return wrapped[:32]

    trusting: KeyRing = Trusting()  # type: ignore[assignment]
    envelope = Envelope(ring=trusting)
    sealed = await envelope.seal(b"plain", context=PLACE)
    assert await envelope.open(sealed, context=PLACE) == b"plain"
    for odd in (sealed.replace(b"key-1", b"key-2"), sealed.replace(b"padding", b"peddled")):
        with pytest.raises(SealBroken):
            await envelope.open(odd, context=PLACE)
    with pytest.raises(SealBroken):
        await envelope.open(sealed, context={**PLACE, "org_id": "6a11"})


async def test_a_data_key_of_another_sealing_does_not_fit(envelope: Envelope) -> None:
    """Who can write both takes the wrapped key of a sealing whose plaintext they know."""
    known, wanted = [await envelope.seal(text, context=PLACE) for text in (b"known", b"wanted")]
    for sealed in (known, wanted):
        await envelope.open(sealed, context=PLACE)
    (_, _, known_at), (_, _, wanted_at) = _parts(known), _parts(wanted)
    for mixed in (known[:known_at] + wanted[wanted_at:], wanted[:wanted_at] + known[known_at:]):
        with pytest.raises(SealBroken):
            await envelope.open(mixed, context=PLACE)


async def test_no_data_key_and_no_nonce_is_used_twice(key_file: Path) -> None:
    ring = LocalKeyRing(file=key_file)
    made: list[DataKey] = []

    class Watched:
        """The ring, and every data key it made."""

        async def make(self, context: Any) -> DataKey:
            made.append(await ring.make(context))
            return made[-1]

        def __getattr__(self, name: str) -> Any:
            return getattr(ring, name)

    watched: KeyRing = Watched()  # type: ignore[assignment]
    envelope = Envelope(ring=watched)
    sealed = [await envelope.seal(b"same", context=PLACE) for _ in range(300)]
    nonces = {one[_parts(one)[2] : _parts(one)[2] + 12] for one in sealed}
    assert len({key.plain for key in made}) == len({key.wrapped[:12] for key in made}) == len(nonces) == 300
    sealer = await envelope.sealer(context=PLACE)
    sealer.seal(b"one")
    with pytest.raises(ValueError, match="one of its own"):
        sealer.seal(b"two")


async def test_a_context_of_nothing_or_of_numbers_is_no_context(envelope: Envelope) -> None:
    for context in ({}, {"org_id": 5}, {5: "org_id"}, {"org_id": None}):
        with pytest.raises(Exception, match=r"context|Parameter validation failed"):
            await envelope.seal(b"x", context=context)  # type: ignore[arg-type]


# Rows that are moved, under the eyes of a database that believes them


async def test_a_row_copied_into_another_organisation_does_not_open(room: Strongroom) -> None:
    thief = await room.elsewhere()
    await settled(room, "billing")
    await settled(thief, "billing")
    stolen = await room.secrets("billing")
    await thief.put("billing", sealed=stolen["sealed"], key_id=stolen["key_id"])
    await assert_broken(thief, "billing")


async def test_a_row_copied_with_its_ids_does_not_open(room: Strongroom) -> None:
    """The thief's connection takes the victim's id, name, hosts and version: only the organisation differs."""
    thief = await room.elsewhere()
    await settled(room, "billing")
    await settled(thief, "billing")
    stolen = await room.secrets("billing")
    await thief.remove("billing")
    await thief.bench.database.admin(
        "insert into pam.connections (org_id, id, name, kind, hosts, settings, created_by)"
        " select %s, c.id, c.name, c.kind, c.hosts, c.settings, c.created_by from pam.connections c where c.id = %s",
        thief.bench.org_id, room.terms["billing"].id,
    )  # fmt: skip
    await thief.bench.database.admin(
        "insert into pam_private.connection_secrets (org_id, connection_id, sealed, key_id) values (%s, %s, %s, %s)",
        thief.bench.org_id, stolen["connection_id"], stolen["sealed"], stolen["key_id"],
    )  # fmt: skip
    await assert_broken(thief, "billing")


async def test_two_secrets_of_one_organisation_cannot_change_places(room: Strongroom) -> None:
    await settled(room, "staging", "live")
    staging, live = await room.secrets("staging"), await room.secrets("live")
    await room.put("staging", sealed=live["sealed"])
    await room.put("live", sealed=staging["sealed"])
    for name in ("staging", "live"):
        await assert_broken(room, name)


@pytest.mark.parametrize(("column", "value"), [
    ("name", "shipping"), ("hosts", [HOST, "evil.example.net"]),
    ("kind", "oauth2_client_credentials"), ("version", 7),
])  # fmt: skip
async def test_terms_that_are_changed_in_the_row_open_nothing(room: Strongroom, column: str, value: Any) -> None:
    await settled(room, "billing")
    cast = {"kind": "::pam.connection_kind", "hosts": "::text[]"}.get(column, "")
    await room.bench.database.admin(
        f"update pam.connections set {column} = %s{cast} where id = %s", value, room.terms["billing"].id
    )
    await assert_broken(room, value if column == "name" else "billing")
    assert room.endpoint.asked == []


async def test_a_token_endpoint_that_is_changed_in_the_row_is_never_asked(room: Strongroom) -> None:
    """The client secret would go to whom the row names by now."""
    settings = {"token_url": "http://127.0.0.1:9/token", "client_id": "client"}
    await room.add("crm", "s3cret", kind="oauth2_client_credentials", settings=settings)
    await room.vault.sweep()
    await room.bench.database.admin(
        "update pam.connections set settings = jsonb_set(settings, '{token_url}', to_jsonb(%s::text)) where id = %s",
        room.endpoint.url,
        room.terms["crm"].id,
    )
    await assert_broken(room, "crm")
    assert room.endpoint.asked == []


async def test_an_old_secret_put_back_after_a_rotation_does_not_open(room: Strongroom) -> None:
    await settled(room, "billing")
    old = await room.secrets("billing")
    await room.rotate("billing", "new")
    await room.inject("billing")
    await room.put("billing", sealed=old["sealed"], key_id=old["key_id"])
    await assert_broken(room, "billing")


async def test_a_kept_token_is_no_secret_and_a_secret_is_no_token(room: Strongroom) -> None:
    await room.add("crm", "s3cret", kind="oauth2_client_credentials")
    await room.inject("crm")
    row = await room.secrets("crm")
    await room.put("crm", token_sealed=row["sealed"])
    assert (await room.inject("crm")).secrets == ("at-1",)
    assert len(room.endpoint.asked) == 2, "what was no token was dropped, and one fetched"
    await room.put("crm", sealed=row["token_sealed"], token_sealed=None)
    await assert_broken(room, "crm")


# Deposits


async def test_a_deposit_is_of_no_use_in_another_organisation(room: Strongroom) -> None:
    """Who saw it on its way adds it to an organisation of their own, with the same id, name and hosts."""
    thief = await room.elsewhere()
    await room.add("billing", "s3cret")
    seen = await room.secrets("billing")
    stolen = base64.b64encode(seen["deposit"]).decode()
    assert "refused" not in await thief.add("billing", "x", deposit=stolen, id=room.terms["billing"].id)
    with pytest.raises(Refused, match="sealed for another connection, host or version"):
        await thief.inject("billing")
    assert (await room.inject("billing")).secrets == ("s3cret",)


async def test_a_deposit_is_of_no_use_for_another_host(room: Strongroom) -> None:
    await room.add("billing", "s3cret")
    deposited = base64.b64encode((await room.secrets("billing"))["deposit"]).decode()
    terms = room.terms["billing"]
    await room.remove("billing")
    await connect(
        room.bench.database, room.bench.user_id, room.bench.org_id,
        id=terms.id, name="billing", hosts=["evil.example.net"], deposit=deposited,
    )  # fmt: skip
    with pytest.raises(Refused, match="sealed for another connection, host or version"):
        await room.inject("billing", "evil.example.net")


async def test_an_old_deposit_does_not_come_back_by_rotation(room: Strongroom) -> None:
    await room.add("billing", "leaked")
    first = base64.b64encode((await room.secrets("billing"))["deposit"]).decode()
    await room.rotate("billing", "new")
    assert (await room.inject("billing")).secrets == ("new",)
    assert "refused" not in await room.rotate("billing", "x", deposit=first)
    with pytest.raises(Refused, match="sealed for another connection, host or version"):
        await room.inject("billing")


async def test_a_damaged_deposit_is_told_to_people_and_keeps_no_other_waiting(room: Strongroom) -> None:
    for name in ("broken", "foreign", "sound"):
        await room.add(name, f"secret of {name}")
    sealed = bytearray((await room.secrets("broken"))["deposit"])
    sealed[-1] ^= 1
    await room.put("broken", deposit=bytes(sealed))
    public, _ = deposit.new_keys()
    key = UUID((await room.rpc(None, "sealing_key"))["id"])
    await room.put("foreign", deposit=deposit.seal(b"{}", key_id=key, public_key=public))
    await room.vault.sweep()
    rows = await room.bench.database.admin(
        "select name, fault from pam.connections where org_id = %s order by name", room.bench.org_id
    )
    told = "the secret does not open: it was sealed to another key, or damaged: rotate the connection"
    assert {row["name"]: row["fault"] for row in rows} == {"broken": told, "foreign": told, "sound": None}
    assert (await room.secrets("sound"))["deposit"] is None
    due = await ledger.sweep(room.bench.hold.gateway, key_id=await room.vault.envelope.ring.key_id())
    assert not [found.name for found in due if found.org_id == room.bench.org_id], "it is not tried for ever"
    await room.rotate("broken", "new")
    assert (await room.inject("broken")).secrets == ("new",)


async def test_a_deposit_to_a_key_that_is_not_out_is_refused_at_the_door(room: Strongroom) -> None:
    public, _ = deposit.new_keys()
    foreign = deposit.seal(b"{}", key_id=uuid4(), public_key=public)
    told = await room.add("billing", "x", deposit=base64.b64encode(foreign).decode())
    assert "sealed to a key that was replaced" in told["refused"]["message"]
    key = UUID((await room.rpc(None, "sealing_key"))["id"])
    for sealed in (b"PAMe\x01" + key.bytes + bytes(500), b"PAMd\x02" + key.bytes + bytes(500), b"PAMd\x01" + key.bytes):
        told = await room.add("billing", "x", deposit=base64.b64encode(sealed + bytes(60)).decode())
        assert told["refused"]["code"] == "invalid"


async def test_deposits_open_in_one_way_only() -> None:
    """Bits, cuts, another key: one sentence for all, so that answers teach nothing about the padding."""
    (public, private), (_, other), key = deposit.new_keys(), deposit.new_keys(), uuid4()
    sealed = deposit.seal(b"secret", key_id=key, public_key=public)
    assert deposit.open_deposit(sealed, private_key=private) == b"secret"
    said = set()
    changed = [
        sealed[:n] + bytes([sealed[n] ^ 1]) + sealed[n + 1 :] for n in (5, 20, 21, 200, 404, 405, 417, len(sealed) - 1)
    ]
    for odd in (*changed, sealed[:-1], sealed + b"\0"):
        with pytest.raises(SealBroken) as caught:
            deposit.open_deposit(odd, private_key=private)
        said.add(str(caught.value))
    with pytest.raises(SealBroken) as caught:
        deposit.open_deposit(sealed, private_key=other)
    assert said | {str(caught.value)} == {"the secret does not open: it was sealed to another key, or damaged"}


async def test_a_private_half_moved_to_another_public_key_does_not_open(room: Strongroom) -> None:
    """Who can write the table publishes a key of their own under the row of the real one's private half."""
    database = room.bench.database
    await room.add("billing", "s3cret")
    before = (await room.rpc(None, "sealing_key"))["id"]
    (kept,) = await database.admin("select private_sealed from pam_private.sealing_keys where id = %s", before)
    moved = await room.vault.envelope.seal(b"x", context={"purpose": "sealing key", "id": str(uuid4())})
    await database.admin("update pam_private.sealing_keys set private_sealed = %s where id = %s", moved, before)
    with pytest.raises(Refused, match="does not open any more"):
        await room.inject("billing")
    assert (
        await room.bench.database.admin("select fault from pam.connections where id = %s", room.terms["billing"].id)
    )[0]["fault"] is None, "the deposit is not to blame"
    await database.admin(
        "update pam_private.sealing_keys set private_sealed = %s where id = %s", kept["private_sealed"], before
    )
    room.vault.envelope.forget()
    assert (await room.inject("billing")).secrets == ("s3cret",)
