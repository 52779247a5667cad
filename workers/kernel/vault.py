"""The vault: opens connections' secrets, and seals anew what was deposited or lies under an older key."""

import asyncio
import json
from typing import Any, Self
from uuid import uuid4

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workers.kernel import deposit
from workers.kernel.envelope import Envelope, KeyAway, SealBroken, key_id_of
from workers.kernel.errors import PamError
from workers.kernel.ledger import connections
from workers.kernel.ledger.connections import ConnectionKind, ConnectionTerms, SealedConnection, SealingKey
from workers.kernel.worker_gateway import WorkerGateway

PURPOSE = "connection"
_MAX_CHARACTERS = 16_384

log = structlog.get_logger()


class DepositUnusable(PamError):
    """A deposit opens to nothing that can be used; the message says what to do, and holds nothing of it."""


class Secret(BaseModel):
    """What a connection keeps: a key, token, password, client secret or refresh token. It shows itself to nobody."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secret: str = Field(repr=False, min_length=1, max_length=_MAX_CHARACTERS)
    client_secret: str | None = Field(default=None, repr=False, min_length=1, max_length=_MAX_CHARACTERS)

    def __str__(self) -> str:
        return "Secret()"

    @model_validator(mode="after")
    def _one_line(self) -> Self:
        for value in filter(None, (self.secret, self.client_secret)):
            if not value.isprintable() or value != value.strip():
                raise ValueError("a secret is one line without control characters, and no blank at its ends")
        return self

    def fault_as(self, kind: ConnectionKind) -> str | None:
        """Why it is no secret of this kind, or None."""
        if self.client_secret is not None and kind is not ConnectionKind.OAUTH2_REFRESH:
            return "only oauth2_refresh has a client secret beside its secret"
        if kind is not ConnectionKind.BASIC and not self.secret.isascii():
            return f"a secret of the kind {kind.value} holds ASCII characters only"
        return None

    def to_deposit(self, terms: ConnectionTerms) -> bytes:
        """The text of a deposit: the secret, and for what it is given."""
        return json.dumps({**terms.told(), **self.model_dump(exclude_none=True)}).encode()

    def to_bytes(self) -> bytes:
        """As it is sealed."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """As it was sealed. Raises DepositUnusable."""
        return cls._checked(text, cls.model_validate_json)

    @classmethod
    def _checked(cls, value: Any, validate: Any) -> Self:
        try:
            checked: Self = validate(value)
        except ValidationError:  # its message and its context hold what was given
            raise DepositUnusable("what was sealed is no secret of the expected form: rotate the connection") from None
        return checked

    @classmethod
    def deposited(cls, text: bytes, terms: ConnectionTerms) -> Self:
        """What a deposit holds, if it was made for exactly this connection. Raises DepositUnusable."""
        whole = _Deposited._checked(text, _Deposited.model_validate_json)
        if whole.told() != terms.told():
            raise DepositUnusable("the secret was sealed for another connection, host or version: rotate it")
        secret = cls(secret=whole.secret, client_secret=whole.client_secret)
        if fault := secret.fault_as(terms.kind):
            raise DepositUnusable(f"{fault}: rotate the connection")
        return secret


class _Deposited(ConnectionTerms, Secret):
    """A secret and the terms under which it was given, as a browser seals them."""


class Vault:
    """Everything here needs the key ring; without one no connection opens."""

    def __init__(self, *, gateway: WorkerGateway, envelope: Envelope) -> None:
        self._gateway = gateway
        self.envelope = envelope

    async def secret_of(self, found: SealedConnection) -> Secret:
        """Open a connection; a deposit is sealed anew on the way. Raises SealBroken, DepositUnusable, or KeyAway."""
        if found.sealed is None:
            return await self._settled(found)
        return await self.opened(found.sealed, found)

    async def opened(self, sealed: bytes, terms: ConnectionTerms) -> Secret:
        """A secret that lies under the key ring. Raises SealBroken, or KeyAway."""
        return Secret.from_bytes(await self.envelope.open(sealed, context=terms.context(PURPOSE)))

    async def sweep(self) -> int:
        """Put a public key out if none is, and seal anew what waits for it; answers how many. Raises KeyAway."""
        key_id = await self.envelope.ring.key_id()
        await self._publish(key_id)
        sealed = 0
        for found in await connections.sweep(self._gateway, key_id=key_id):
            try:
                sealed += await self._swept(found)
            except (SealBroken, DepositUnusable, KeyAway) as error:
                log.warning("connection not sealed", connection=str(found.id), reason=str(error))
        return sealed

    async def _swept(self, found: SealedConnection) -> bool:
        if found.sealed is None:
            await self._settled(found)
            return True
        secret = await self.opened(found.sealed, found)
        return await self._seal(found, secret)

    async def _settled(self, found: SealedConnection) -> Secret:
        try:
            secret = await self._deposited(found)
        except DepositUnusable as fault:
            await connections.settle_fault(self._gateway, found, str(fault))
            raise
        await self._seal(found, secret)
        return secret

    async def _seal(self, found: SealedConnection, secret: Secret) -> bool:
        sealed = await self.envelope.seal(secret.to_bytes(), context=found.context(PURPOSE))
        return await connections.settle(self._gateway, found, sealed=sealed, key_id=key_id_of(sealed))

    async def _deposited(self, found: SealedConnection) -> Secret:
        key = found.deposit_key
        if found.deposit is None or key is None:
            raise DepositUnusable("the key that the secret was sealed to is gone: rotate the connection")
        if not await self.envelope.ring.opens(key_id_of(key.private_sealed)):
            raise KeyAway("this worker does not hold the key of the public key that is out: give all workers the same")
        private = await self.envelope.open(key.private_sealed, context=_place(key.id))
        try:
            text = await asyncio.to_thread(deposit.open_deposit, found.deposit, private_key=private)
        except SealBroken as error:
            raise DepositUnusable(f"{error}: rotate the connection") from None
        return Secret.deposited(text, found)

    async def _publish(self, key_id: str) -> None:
        out = await SealingKey.current(self._gateway)
        if out and (out.key_id == key_id or not await self.envelope.ring.opens(out.key_id)):
            return
        made = SealingKey(id=uuid4(), key_id=key_id)
        public, private = await asyncio.to_thread(deposit.new_keys)
        sealed = await self.envelope.seal(private, context=_place(made.id))
        is_first = await connections.publish_sealing_key(
            self._gateway, made, public_key=public, private_sealed=sealed, replaces=out.id if out else None
        )
        if is_first:
            log.info("sealing key published", id=str(made.id), key_id=key_id)


def _place(key_id: Any) -> dict[str, str]:
    return {"purpose": "sealing key", "id": str(key_id)}
