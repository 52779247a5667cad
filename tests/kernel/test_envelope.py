"""What is sealed opens again, under a key file and under KMS, before and after their keys are rotated."""

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.keys import KeyService, key_service
from workers.kernel.envelope import Envelope, KeyAway, SealBroken, key_id_of
from workers.kernel.key_file import LocalKeyRing

PLACE = {"org_id": "5f0c", "connection": "a1", "purpose": "connection"}


@pytest.fixture(scope="module")
def kms() -> Iterator[KeyService]:
    with key_service() as service:
        yield service


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.json"
    LocalKeyRing.make_file(file)
    return file


@pytest.fixture(params=["file", "KMS"])
def envelope(request: pytest.FixtureRequest, key_file: Path, kms: KeyService) -> Envelope:
    return Envelope(ring=LocalKeyRing(file=key_file) if request.param == "file" else kms.ring(kms.new_key()))


@pytest.mark.parametrize("plaintext", [b"", b"x", b"\0" * 17, "key ✓".encode(), b"z" * 2_000_000], ids=len)
async def test_what_is_sealed_opens_in_its_own_place(envelope: Envelope, plaintext: bytes) -> None:
    sealed = await envelope.seal(plaintext, context=PLACE)
    assert await envelope.open(sealed, context=dict(reversed(PLACE.items()))) == plaintext
    assert key_id_of(sealed) == await envelope.ring.key_id()
    envelope.forget()
    assert await envelope.open(sealed, context=PLACE) == plaintext, "also without what is remembered"
    assert len(plaintext) < 2 or plaintext not in sealed


async def test_a_file_of_keys_is_made_once_and_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "below" / "keys.json"
    await asyncio.gather(*(asyncio.to_thread(LocalKeyRing.make_file, file) for _ in range(20)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file], "no half of it is left"
    before = file.read_bytes()
    LocalKeyRing.make_file(file)
    monkeypatch.setattr(Path, "exists", lambda path: False)  # it came between the look and the writing
    LocalKeyRing.make_file(file)
    assert file.read_bytes() == before


async def test_a_new_key_of_the_file_seals_at_once_and_the_old_one_still_opens(key_file: Path) -> None:
    running = Envelope(ring=LocalKeyRing(file=key_file))
    old = await running.seal(b"old", context=PLACE)
    added = LocalKeyRing.add_key(key_file)
    new = await running.seal(b"new", context=PLACE)
    assert (key_id_of(new), key_id_of(old) != added) == (added, True)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    running.forget()
    assert [await running.open(sealed, context=PLACE) for sealed in (old, new)] == [b"old", b"new"]


async def test_a_moved_alias_of_kms_leaves_what_was_sealed_readable(kms: KeyService) -> None:
    first, second = kms.new_key(), kms.new_key()
    kms.operator.create_alias(AliasName="alias/pam", TargetKeyId=first)
    old = await Envelope(ring=kms.ring("alias/pam")).seal(b"old", context=PLACE)
    kms.operator.update_alias(AliasName="alias/pam", TargetKeyId=second)
    now = Envelope(ring=kms.ring("alias/pam", first))
    assert (await now.ring.key_id(), await now.ring.opens(first)) == (second, True)
    assert await now.open(old, context=PLACE) == b"old"
    assert key_id_of(await now.seal(b"new", context=PLACE)) == second


async def test_unwrapped_keys_are_remembered_for_a_while_and_only_so_many(kms: KeyService) -> None:
    arn, now = kms.new_key(), [0.0]
    envelope = Envelope(ring=kms.ring(arn), cache_seconds=60, cache_keys=2, clock=lambda: now[0])
    sealed = [await envelope.seal(b"x", context={**PLACE, "row": str(n)}) for n in range(3)]
    for n in range(3):
        await envelope.open(sealed[n], context={**PLACE, "row": str(n)})
    kms.disable(arn)
    assert await envelope.open(sealed[2], context={**PLACE, "row": "2"}) == b"x", "remembered"
    with pytest.raises(KeyAway, match="is the key enabled"):
        await envelope.open(sealed[0], context={**PLACE, "row": "0"})  # the oldest of three, where two are kept
    now[0] = 60
    with pytest.raises(KeyAway):
        await envelope.open(sealed[2], context={**PLACE, "row": "2"})


async def test_a_ring_that_does_not_answer_is_named(kms: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyAway, match=r"KMS refused describe_key on alias/none \(NotFoundException\)"):
        await kms.ring("alias/none").key_id()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(KeyAway, match="KMS does not answer"):
        await kms.ring("alias/none").key_id()


@pytest.mark.parametrize(
    "damage", ["", "{}", '{"current": "a", "keys": {}}', '{"current": "a", "keys": {"a": "c2hvcnQ="}}']
)
async def test_a_damaged_file_of_keys_is_named(key_file: Path, damage: str) -> None:
    key_file.write_text(damage)
    with pytest.raises(KeyAway, match=r"keys\.json is damaged"):
        await LocalKeyRing(file=key_file).key_id()


async def test_a_key_that_is_gone_from_the_file_is_named(tmp_path: Path, key_file: Path) -> None:
    sealed = await Envelope(ring=LocalKeyRing(file=key_file)).seal(b"x", context=PLACE)
    other = tmp_path / "other.json"
    LocalKeyRing.make_file(other)
    with pytest.raises(SealBroken, match="holds no key 'local-"):
        await Envelope(ring=LocalKeyRing(file=other)).open(sealed, context=PLACE)
