"""A key ring in AWS KMS: the wrapping key never leaves it. The one file that knows boto3's KMS."""

import asyncio
import logging
from typing import Any

from workers.kernel.envelope import Context, DataKey, KeyAway, SealBroken
from workers.kernel.errors import SettingMissing

_BROKEN = ("InvalidCiphertextException", "IncorrectKeyException")
# At debug these write request and answer into the log, a plain data key among them.
_TALKATIVE = ("boto3", "botocore", "urllib3")


class KmsKeyRing:
    """`key_ids`: ids, ARNs or aliases; the first wraps, all unwrap, no other key of the account does."""

    def __init__(self, *, key_ids: tuple[str, ...]) -> None:
        if not key_ids:
            raise SettingMissing("PAM_KMS_KEY_ID names no key: give an id, an ARN or an alias of AWS KMS")
        self._names = key_ids
        self._client: Any = None
        self._arns: tuple[str, ...] = ()
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"KmsKeyRing({self._names!r})"

    async def key_id(self) -> str:
        """The ARN of the key that wraps."""
        return (await self._known())[0]

    async def opens(self, key_id: str) -> bool:
        """Whether this is the ARN of one of the keys."""
        return key_id in await self._known()

    async def make(self, context: Context) -> DataKey:
        """KMS makes and wraps a data key, bound to this encryption context. Raises KeyAway."""
        arn = await self.key_id()
        made = await self._ask("generate_data_key", KeyId=arn, KeySpec="AES_256", EncryptionContext=dict(context))
        return DataKey(arn, made["Plaintext"], made["CiphertextBlob"])

    async def unwrap(self, key_id: str, wrapped: bytes, context: Context) -> bytes:
        """KMS unwraps it, for the same encryption context alone. Raises SealBroken, or KeyAway."""
        if key_id not in await self._known():
            raise SealBroken("this was sealed under a key that PAM_KMS_KEY_ID does not name")
        opened = await self._ask("decrypt", KeyId=key_id, CiphertextBlob=wrapped, EncryptionContext=dict(context))
        return bytes(opened["Plaintext"])

    async def _known(self) -> tuple[str, ...]:
        """The ARNs, asked once: an alias may point elsewhere tomorrow, what was sealed names the key itself."""
        if not self._arns:
            async with self._opening:
                if not self._arns:
                    found = [await self._ask("describe_key", KeyId=name) for name in self._names]
                    self._arns = tuple(str(answer["KeyMetadata"]["Arn"]) for answer in found)
        return self._arns

    async def _ask(self, act: str, **arguments: Any) -> dict[str, Any]:
        # The one place where this blocking library goes to a thread.
        return await asyncio.to_thread(self._blocking, act, arguments)

    def _blocking(self, act: str, arguments: dict[str, Any]) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if self._client is None:
                self._client = _connect()
            answer: dict[str, Any] = getattr(self._client, act)(**arguments)
            return answer
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in _BROKEN:
                raise SealBroken("the data key was changed, or belongs to another place") from None
            raise KeyAway(
                f"KMS refused {act} on {self._names[0]} ({code}): is the key enabled, and may the worker use it?"
            ) from None
        except BotoCoreError as error:
            raise KeyAway(f"KMS does not answer ({type(error).__name__}): are region and credentials set?") from None


def _connect() -> Any:
    """A client with short patience: a call waits for it, and retries live with whoever calls."""
    import boto3
    from botocore.config import Config

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    patience = Config(connect_timeout=3, read_timeout=5, retries={"max_attempts": 2, "mode": "standard"})
    return boto3.client("kms", config=patience)
