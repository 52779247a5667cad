"""A key management service on loopback, real boto3 in front of it: moto's server in a thread of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.core.exceptions import JsonRESTError
from moto.kms.models import KmsBackend
from moto.server import ThreadedMotoServer

from workers.kernel.kms import KmsKeyRing


@dataclass(frozen=True)
class KeyService:
    """KMS as the worker meets it, and an operator's own hands on it."""

    operator: Any

    def new_key(self) -> str:
        """A new key's ARN."""
        return str(self.operator.create_key()["KeyMetadata"]["Arn"])

    def disable(self, arn: str) -> None:
        """Switch a key off."""
        self.operator.disable_key(KeyId=arn.rpartition("/")[2])

    def ring(self, *key_ids: str) -> KmsKeyRing:
        """The worker's ring over these keys; it connects by itself, as in production."""
        return KmsKeyRing(key_ids=key_ids)


@contextmanager
def key_service() -> Iterator[KeyService]:
    """Start it, and let boto3 find it and nothing else."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        for act in ("encrypt", "decrypt"):
            patch.setattr(KmsBackend, act, _minding_disabled_keys(getattr(KmsBackend, act)))
        try:
            yield KeyService(boto3.client("kms"))
        finally:
            server.stop()


def _minding_disabled_keys(act: Any) -> Any:
    """What KMS does and moto forgets: a disabled key does nothing (API reference, DisabledException)."""

    def minded(backend: Any, *args: Any, **arguments: Any) -> Any:
        if (key_id := arguments.get("key_id")) and not backend.keys[backend.any_id_to_key_id(key_id)].enabled:
            raise JsonRESTError("DisabledException", f"{key_id} is disabled.")
        return act(backend, *args, **arguments)

    return minded
