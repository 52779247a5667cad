"""The keys themselves: files that others may touch, keys that are disabled, foreign or only half rolled out.

Each test is another mechanism. Nothing opens but what was sealed, in its own place, under its own terms and version.
"""

import base64
import logging
import os
from pathlib import Path

import pytest

from infra.local.facts import StackFacts
from tests.kernel.keys import KeyService
from tests.support.bench import Bench
from tests.support.database import Database, Template
from tests.support.strongroom import Strongroom, settled
from workers.kernel.envelope import Envelope, KeyAway, SealBroken
from workers.kernel.errors import Refused
from workers.kernel.key_file import LocalKeyRing

PLACE = {"org_id": "5f0c", "connection": "a1", "purpose": "connection"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o601, 0o610])
async def test_a_key_file_that_others_may_touch_is_refused(key_file: Path, mode: int) -> None:
    ring = LocalKeyRing(file=key_file)
    await ring.key_id()
    key_file.chmod(mode)
    with pytest.raises(KeyAway, match="is not its owner's alone: chmod 600"):
        await ring.key_id()


async def test_a_key_file_that_is_a_link_or_no_file_is_refused(key_file: Path, tmp_path: Path) -> None:
    link, folder = tmp_path / "link.json", tmp_path / "folder"
    link.symlink_to(key_file)
    folder.mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for odd in (link, folder, tmp_path / "pipe", tmp_path / "absent.json", Path("/dev/null")):
        with pytest.raises(KeyAway):
            await LocalKeyRing(file=odd).key_id()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_key_file_of_somebody_else_is_refused(key_file: Path) -> None:
    os.chown(key_file, 65534, -1)
    with pytest.raises(KeyAway, match="let the worker's user own it"):
        await LocalKeyRing(file=key_file).key_id()


async def test_a_disabled_key_of_kms_opens_nothing_and_loses_nothing(
    template: Template, stack: StackFacts, kms: KeyService, database: Database
) -> None:
    arn = kms.new_key()
    async with Bench.open(database, stack) as bench, Strongroom.open(bench, ring=kms.ring(arn)) as room:
        await room.add("settled", "s1")
        assert (await room.inject("settled")).secrets == ("s1",)
        await room.add("deposited", "s2")
        kms.disable(arn)
        room.vault.envelope.forget()
        for name in ("settled", "deposited"):
            with pytest.raises(Refused, match="the key that seals it does not answer; whoever runs PAM"):
                await room.inject(name)
        assert [row["subject"].get("code") for row in await room.audits("connection.use")][-4:] == [
            None, "key_away", None, "key_away",
        ]  # fmt: skip
        kms.operator.enable_key(KeyId=arn.rpartition("/")[2])
        assert [(await room.inject(name)).secrets for name in ("settled", "deposited")] == [("s1",), ("s2",)]


async def test_a_key_of_kms_that_the_settings_do_not_name_is_never_asked(kms: KeyService) -> None:
    """A row sealed under an attacker's key, which the worker's account happens to be allowed to use."""
    ours, theirs = kms.ring(kms.new_key()), kms.ring(kms.new_key())
    planted = await Envelope(ring=theirs).seal(b"planted", context=PLACE)
    with pytest.raises(SealBroken, match="PAM_KMS_KEY_ID does not name"):
        await Envelope(ring=ours).open(planted, context=PLACE)


async def test_workers_with_older_keys_leave_alone_what_they_cannot_open(room: Strongroom, tmp_path: Path) -> None:
    """In a deployment some hold the new key and some do not: they must not undo each other's work."""
    await settled(room, "billing")
    await room.add("waiting", "s2")
    file = tmp_path / "other.json"
    LocalKeyRing.make_file(file)
    stranger = Envelope(ring=LocalKeyRing(file=file))
    before = (await room.secrets("billing"), await room.secrets("waiting"), await room.rpc(None, "sealing_key"))
    kept, room.vault.envelope = room.vault.envelope, stranger
    assert await room.vault.sweep() == 0
    with pytest.raises(Refused, match="the key that seals it does not answer"):
        await room.inject("waiting")
    room.vault.envelope = kept
    assert (await room.secrets("billing"), await room.secrets("waiting"), await room.rpc(None, "sealing_key")) == before
    assert (await room.inject("waiting")).secrets == ("s2",)


async def test_no_data_key_of_kms_gets_into_a_debug_log(kms: KeyService, caplog: pytest.LogCaptureFixture) -> None:
    """boto3 at debug writes every answer of KMS down, plain data keys among them."""
    ring = kms.ring(kms.new_key())
    logging.getLogger("botocore").setLevel(logging.NOTSET)
    caplog.set_level(logging.DEBUG)
    kms.new_key()
    assert "Response body" in caplog.text, "boto3 would tell everything"
    await ring.key_id()
    caplog.clear()
    made = await ring.make(PLACE)
    assert await ring.unwrap(made.key_id, made.wrapped, PLACE) == made.plain
    said = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("moto"))
    assert base64.b64encode(made.plain).decode() not in said
    assert repr(made.plain) not in said
    assert not [record for record in caplog.records if record.name.startswith("botocore")]
