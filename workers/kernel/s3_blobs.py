"""Blobs in S3, encrypted there under KMS (or the bucket's own key). The one file that knows boto3's S3."""

import asyncio
import base64
import json
import logging
from typing import Any
from uuid import UUID

from workers.kernel.blobs import BlobAbsent, BlobBroken, checked, place_of
from workers.kernel.errors import Unavailable

_ABSENT = ("NoSuchKey", "404")
_ALREADY = ("PreconditionFailed", "412")
_BUSY = ("SlowDown", "503", "ServiceUnavailable", "RequestLimitExceeded", "Throttling", "ThrottlingException", "429")
_DENIED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "KMS.DisabledException")
# At debug these write whole requests into the log.
_TALKATIVE = ("boto3", "botocore", "urllib3", "s3transfer")


class S3Blobs:
    """A bucket. `kms_key_id`: the KMS key that encrypts at rest, bound to organisation and digest; else SSE-S3."""

    def __init__(self, *, bucket: str, kms_key_id: str | None) -> None:
        self._bucket = bucket
        self._kms_key_id = kms_key_id
        self._client: Any = None

    def __repr__(self) -> str:
        return f"S3Blobs({self._bucket!r})"

    async def put(self, org_id: UUID, sha256: str, content: bytes) -> None:
        """S3 checks the digest on arrival, and keeps the first where two put the same."""
        place = place_of(org_id, sha256)
        await asyncio.to_thread(checked, sha256, content)
        digest = base64.b64encode(bytes.fromhex(sha256)).decode()
        asked = {"Key": place, "Body": content, "IfNoneMatch": "*", "ChecksumSHA256": digest}
        try:
            await self._ask("put_object", **asked, **self._encryption(org_id, sha256))
        except _AlreadyThere:
            try:
                await self.get(org_id, sha256)
            except BlobBroken:
                why = f"the bucket {self._bucket} holds something else under {sha256[:12]}…: who else writes there?"
                raise BlobBroken(why) from None

    async def get(self, org_id: UUID, sha256: str) -> bytes:
        """Read and check; a body that was cut off is told as such."""
        answer = await self._ask("get_object", Key=place_of(org_id, sha256))
        return await asyncio.to_thread(checked, sha256, answer["Body"])

    def _encryption(self, org_id: UUID, sha256: str) -> dict[str, Any]:
        if self._kms_key_id is None:
            return {"ServerSideEncryption": "AES256"}
        context = json.dumps({"org": str(org_id), "sha256": sha256}, sort_keys=True)
        return {
            "ServerSideEncryption": "aws:kms",
            "SSEKMSKeyId": self._kms_key_id,
            "SSEKMSEncryptionContext": base64.b64encode(context.encode()).decode(),
            "BucketKeyEnabled": False,  # one bucket key would stand for all organisations
        }

    async def _ask(self, act: str, **arguments: Any) -> dict[str, Any]:
        # The one place where this blocking library goes to a thread.
        return await asyncio.to_thread(self._blocking, act, arguments)

    def _blocking(self, act: str, arguments: dict[str, Any]) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._client is None:
                self._client = _connect()
            answer: dict[str, Any] = getattr(self._client, act)(Bucket=self._bucket, **arguments)
            if act == "get_object":
                answer["Body"] = answer["Body"].read()
            return answer
        except ClientError as error:
            raise self._translated(act, str(error.response.get("Error", {}).get("Code", "unknown"))) from None
        except BotoCoreError as error:
            raise Unavailable(f"S3 does not answer ({type(error).__name__}): are region and credentials set?") from None

    def _translated(self, act: str, code: str) -> Exception:
        """S3's word for it in ours; nothing of a request gets into the message."""
        if code in _ALREADY:
            return _AlreadyThere()
        if code in _ABSENT:
            return BlobAbsent(f"the bucket {self._bucket} has no such blob")
        if code == "NoSuchBucket":
            return Unavailable(f"there is no bucket {self._bucket}: PAM_FILES_BUCKET names where files are kept")
        if code in _DENIED:
            return Unavailable(
                f"S3 refused {act} in {self._bucket} ({code}): it needs s3:GetObject and s3:PutObject below org/"
            )
        if code in _BUSY:
            return Unavailable(f"S3 asks for patience ({code}): it is tried again")
        return Unavailable(f"S3 refused {act} in {self._bucket} ({code})")


class _AlreadyThere(Exception):
    """Somebody put it before."""


def _connect() -> Any:
    """A client with short patience; botocore itself tries a busy S3 once more."""
    import boto3
    from botocore.config import Config

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    patience = Config(connect_timeout=3, read_timeout=20, retries={"max_attempts": 2, "mode": "standard"})
    return boto3.client("s3", config=patience)
