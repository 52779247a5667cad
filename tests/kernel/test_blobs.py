"""Blobs: the same promises from a folder and from S3, and what is said when a place does not answer or was tampered with."""

import asyncio
import base64
import hashlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from workers.kernel.blobs import BlobAbsent, BlobBroken, Blobs, FolderBlobs, place_of
from workers.kernel.envelope import Envelope
from workers.kernel.errors import Unavailable
from workers.kernel.key_file import LocalKeyRing
from workers.kernel.s3_blobs import S3Blobs

BUCKET, REGION = "pam-files", "eu-central-1"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def in_folder(folder: Path) -> FolderBlobs:
    LocalKeyRing.make_file(folder / "keys.json")
    return FolderBlobs(folder=folder / "files", envelope=Envelope(ring=LocalKeyRing(file=folder / "keys.json")))


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """S3 on loopback, met by the real client: a bucket, and an operator's own hands on it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        aws(patch, f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield client
    server.stop()


def aws(patch: pytest.MonkeyPatch, url: str) -> None:
    """Let boto3 find this address and nothing else."""
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        patch.setenv(name, value)


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, s3: Any) -> Blobs:
    """Both places: whatever holds for one holds for the other."""
    return in_folder(tmp_path) if request.param == "folder" else S3Blobs(bucket=BUCKET, kms_key_id=None)


@pytest.mark.parametrize("content", [b"", b"one", bytes(range(256)) * 5000], ids=["nothing", "little", "binary"])
async def test_what_was_put_comes_back_by_its_digest(blobs: Blobs, content: bytes) -> None:
    org = uuid4()
    await blobs.put(org, digest(content), content)
    await blobs.put(org, digest(content), content)
    assert await blobs.get(org, digest(content)) == content


async def test_the_same_put_by_many_at_once_is_one(blobs: Blobs) -> None:
    org, content = uuid4(), b"same" * 1000
    await asyncio.gather(*(blobs.put(org, digest(content), content) for _ in range(8)))
    assert await blobs.get(org, digest(content)) == content


async def test_another_organisations_blob_is_absent_and_so_is_what_nobody_put(blobs: Blobs) -> None:
    org, other, content = uuid4(), uuid4(), b"secret"
    await blobs.put(org, digest(content), content)
    said = []
    for asked, sha256 in ((other, digest(content)), (other, digest(b"nobody's"))):
        with pytest.raises(BlobAbsent) as absent:
            await blobs.get(asked, sha256)
        said.append(str(absent.value).replace(sha256[:12], ""))
    assert said[0] == said[1], "whether another has the bytes cannot be told"


async def test_bytes_under_a_foreign_digest_are_refused_on_their_way_in(blobs: Blobs) -> None:
    org = uuid4()
    with pytest.raises(BlobBroken, match="have another digest"):
        await blobs.put(org, digest(b"good"), b"evil")
    with pytest.raises(BlobAbsent):
        await blobs.get(org, digest(b"good"))


@pytest.mark.parametrize(
    "sha256",
    ["", "../" * 10, "A" * 64, "0" * 63, "0" * 65, f"{'0' * 60}/../", f"{'0' * 63}\n", "0" * 63 + "\0", "０" * 64],
)
async def test_what_is_no_digest_names_no_place(blobs: Blobs, sha256: str) -> None:
    with pytest.raises(BlobBroken, match="no sha256 digest"):
        await blobs.get(uuid4(), sha256)
    with pytest.raises(BlobBroken, match="no sha256 digest"):
        await blobs.put(uuid4(), sha256, b"")
    with pytest.raises(ValueError, match="badly formed"):
        place_of("../x", digest(b""))  # type: ignore[arg-type]


async def test_in_the_folder_nothing_can_be_read_and_everything_is_its_owners_alone(tmp_path: Path) -> None:
    blobs, org, content = in_folder(tmp_path), uuid4(), b"the word is heron" * 10
    await blobs.put(org, digest(content), content)
    [file] = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
    assert file.relative_to(tmp_path / "files").as_posix() == f"org/{org}/{digest(content)}"
    assert b"heron" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    folders = [path for path in (tmp_path / "files").rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


async def test_a_blob_that_was_moved_to_another_place_does_not_open(tmp_path: Path) -> None:
    blobs, org, other, content = in_folder(tmp_path), uuid4(), uuid4(), b"ours"
    await blobs.put(org, digest(content), content)
    await blobs.put(other, digest(b"theirs"), b"theirs")
    ours, theirs = (tmp_path / "files" / place_of(*at) for at in ((org, digest(content)), (other, digest(b"theirs"))))
    (theirs.parent / digest(content)).write_bytes(ours.read_bytes())
    with pytest.raises(BlobBroken, match="belongs to another place"):
        await blobs.get(other, digest(content))
    theirs.write_bytes(ours.read_bytes())
    with pytest.raises(BlobBroken, match="belongs to another place"):
        await blobs.get(other, digest(b"theirs"))


async def test_a_damaged_blob_is_told_and_put_anew(tmp_path: Path) -> None:
    blobs, org, content = in_folder(tmp_path), uuid4(), b"whole"
    await blobs.put(org, digest(content), content)
    file = tmp_path / "files" / place_of(org, digest(content))
    sealed = file.read_bytes()
    for damage in (b"", sealed[:-1], sealed[:40], b"plain text", sealed[:-1] + bytes([sealed[-1] ^ 1])):
        file.write_bytes(damage)
        with pytest.raises(BlobBroken):
            await blobs.get(org, digest(content))
    await blobs.put(org, digest(content), content)
    assert await blobs.get(org, digest(content)) == content


async def test_a_link_in_a_blobs_place_is_neither_read_nor_followed(tmp_path: Path) -> None:
    blobs, org, content = in_folder(tmp_path), uuid4(), b"mine"
    await blobs.put(org, digest(b"first"), b"first")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    place = tmp_path / "files" / place_of(org, digest(content))
    place.symlink_to(victim)
    with pytest.raises(BlobBroken, match="no file of PAM's"):
        await blobs.get(org, digest(content))
    await blobs.put(org, digest(content), content)
    assert (victim.read_text(), place.is_symlink()) == ("untouched", False)
    assert await blobs.get(org, digest(content)) == content


async def test_a_link_in_the_place_of_an_organisations_folder_takes_nothing(tmp_path: Path) -> None:
    blobs, org, outside = in_folder(tmp_path), uuid4(), tmp_path / "outside"
    await blobs.put(uuid4(), digest(b""), b"")
    outside.mkdir()
    (tmp_path / "files" / "org" / str(org)).symlink_to(outside, target_is_directory=True)
    with pytest.raises(Unavailable, match="a link stands where a folder should"):
        await blobs.put(org, digest(b"x"), b"x")
    assert list(outside.iterdir()) == []


async def test_a_folder_that_takes_nothing_is_told_and_leaves_no_half(tmp_path: Path) -> None:
    blobs, org = in_folder(tmp_path), uuid4()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "org").write_text("a file stands here")
    with pytest.raises(Unavailable, match="the folder of files takes nothing"):
        await blobs.put(org, digest(b"x"), b"x")
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["org"]


async def test_without_its_keys_the_folder_says_what_to_do(tmp_path: Path) -> None:
    blobs, org = in_folder(tmp_path), uuid4()
    await blobs.put(org, digest(b"x"), b"x")
    os.rename(tmp_path / "keys.json", tmp_path / "kept.json")
    again = FolderBlobs(folder=tmp_path / "files", envelope=Envelope(ring=LocalKeyRing(file=tmp_path / "keys.json")))
    with pytest.raises(Unavailable, match=r"key file .* cannot be read"):
        await again.get(org, digest(b"x"))
    LocalKeyRing.make_file(tmp_path / "keys.json")
    with pytest.raises(BlobBroken, match="holds no key"):
        await again.get(org, digest(b"x"))


async def test_in_s3_every_object_is_encrypted_and_bound_to_its_organisation(s3: Any) -> None:
    key = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
    org, content = uuid4(), b"at rest"
    await S3Blobs(bucket=BUCKET, kms_key_id=key).put(org, digest(content), content)
    head = s3.head_object(Bucket=BUCKET, Key=f"org/{org}/{digest(content)}")
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)
    plain = uuid4()
    await S3Blobs(bucket=BUCKET, kms_key_id=None).put(plain, digest(content), content)
    head = s3.head_object(Bucket=BUCKET, Key=f"org/{plain}/{digest(content)}")
    assert head["ServerSideEncryption"] == "AES256"


async def test_what_somebody_else_put_in_a_blobs_place_is_neither_believed_nor_overwritten(s3: Any) -> None:
    blobs, org, content = S3Blobs(bucket=BUCKET, kms_key_id=None), uuid4(), b"good"
    s3.put_object(Bucket=BUCKET, Key=place_of(org, digest(content)), Body=b"evil", ChecksumAlgorithm="SHA256")
    with pytest.raises(BlobBroken, match="holds something else"):
        await blobs.put(org, digest(content), content)
    with pytest.raises(BlobBroken, match="have another digest"):
        await blobs.get(org, digest(content))


async def test_a_bucket_that_is_not_there_is_named_with_its_setting(s3: Any) -> None:
    blobs = S3Blobs(bucket="pam-nowhere", kms_key_id=None)
    for act in (blobs.put(uuid4(), digest(b"x"), b"x"), blobs.get(uuid4(), digest(b"x"))):
        with pytest.raises(Unavailable, match="no bucket pam-nowhere: PAM_FILES_BUCKET"):
            await act


@asynccontextmanager
async def speaking(answer: bytes, patch: pytest.MonkeyPatch) -> AsyncIterator[list[bytes]]:
    """A server that says this to everything, where moto cannot be brought to; what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if b"100-continue" in asked[-1].lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        aws(patch, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield asked
    finally:
        server.close()


def error(status: str, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>arn:aws:iam::1:user/x may not</Message></Error>".encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param(error("403 Forbidden", "AccessDenied"), "needs s3:GetObject and s3:PutObject", id="no permission"),
        pytest.param(error("503 Slow Down", "SlowDown"), "asks for patience", id="throttled"),
        pytest.param(error("400 Bad Request", "KMS.DisabledException"), "refused get_object", id="the key is off"),
        pytest.param(error("400 Bad Request", "Odd"), r"refused get_object in pam-files \(Odd\)", id="something else"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", "S3 does not answer", id="a body cut off"),
        pytest.param(b"what?\r\n\r\n", "S3 does not answer", id="no HTTP"),
        pytest.param(b"", "S3 does not answer", id="silence"),
    ],
)
async def test_what_s3_does_not_give_is_said_in_a_sentence_without_its_words(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, told: str
) -> None:
    async with speaking(answer, monkeypatch) as asked:
        with pytest.raises(Unavailable, match=told) as failed:
            await S3Blobs(bucket=BUCKET, kms_key_id=None).get(uuid4(), digest(b"x"))
    assert 1 <= len(asked) <= 3
    assert "arn:" not in str(failed.value)


async def test_a_whole_body_that_is_another_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", monkeypatch):
        with pytest.raises(BlobBroken, match="have another digest"):
            await S3Blobs(bucket=BUCKET, kms_key_id=None).get(uuid4(), digest(b"good"))


async def test_nobody_there_and_no_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        aws(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(Unavailable, match="EndpointConnectionError"):
            await S3Blobs(bucket=BUCKET, kms_key_id=None).get(uuid4(), digest(b"x"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers credentials
    with pytest.raises(Unavailable, match=r"NoCredentialsError.*are region and credentials set"):
        await S3Blobs(bucket=BUCKET, kms_key_id=None).get(uuid4(), digest(b"x"))


async def test_the_put_names_its_condition_its_checksum_and_its_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    org = UUID("11111111-1111-1111-1111-111111111111")
    async with speaking(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", monkeypatch) as asked:
        await S3Blobs(bucket=BUCKET, kms_key_id="alias/pam").put(org, digest(b"x"), b"x")
    head, *lines = asked[0].decode().splitlines()
    told = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert head.startswith("PUT ")
    assert head.split()[1].endswith(f"org/{org}/{digest(b'x')}")
    assert told["if-none-match"] == "*"
    assert told["x-amz-checksum-sha256"] == base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    assert told["x-amz-server-side-encryption"] == "aws:kms"
    assert told["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/pam"
    context = json.loads(base64.b64decode(told["x-amz-server-side-encryption-context"]))
    assert context == {"org": str(org), "sha256": digest(b"x")}
