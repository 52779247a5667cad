"""Connections: credentials of third parties. What is secret is sealed in every record here."""

import base64
import hashlib
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from workers.kernel.ledger.hold import Hold

if TYPE_CHECKING:
    from workers.kernel.worker_gateway import WorkerGateway

Base64 = Annotated[bytes, BeforeValidator(base64.b64decode)]


class ConnectionKind(StrEnum):
    """How a connection shows itself to its hosts."""

    API_KEY = "api_key"
    BASIC = "basic"
    BEARER = "bearer"
    OAUTH2_CLIENT_CREDENTIALS = "oauth2_client_credentials"
    OAUTH2_REFRESH = "oauth2_refresh"
    AWS_ACCESS_KEY = "aws_access_key"


class ConnectionTerms(BaseModel):
    """For what a secret was given. It opens under these terms and no others."""

    model_config = ConfigDict(frozen=True)

    org_id: UUID
    id: UUID
    name: str
    kind: ConnectionKind
    hosts: tuple[str, ...]
    settings: dict[str, Any]
    version: int

    @property
    def leads_to_logs(self) -> bool:
        """Whether it is for log_search alone: what may read logs may often do more, so no other tool gets it."""
        return self.kind is ConnectionKind.AWS_ACCESS_KEY or "project_ref" in self.settings

    def told(self) -> dict[str, Any]:
        """The terms as a deposit says them beside its secret."""
        return ConnectionTerms.model_dump(self, mode="json", include=set(ConnectionTerms.model_fields))

    def context(self, purpose: str) -> dict[str, str]:
        """What a sealing under these terms is bound to; a key service may log it, so it holds no settings."""
        digest = hashlib.sha256(json.dumps(self.told(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        return {"purpose": purpose, "org_id": str(self.org_id), "connection": str(self.id), "terms": digest}


class DepositKey(BaseModel):
    """The sealing key that a deposit names, its private half sealed."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    private_sealed: Base64 = Field(repr=False)


class SealedConnection(ConnectionTerms):
    """A connection as a worker gets it: sealed under the key ring, or still as it was deposited."""

    sealed: Base64 | None = Field(default=None, repr=False)
    deposit: Base64 | None = Field(default=None, repr=False)
    deposit_key: DepositKey | None = None


class Token(BaseModel):
    """An access token's place: a live one, the turn to fetch one with the newest secret, or neither: wait."""

    model_config = ConfigDict(frozen=True)

    token: Base64 | None = Field(default=None, repr=False)
    number: int = 0
    leased: bool = False
    sealed: Base64 | None = Field(default=None, repr=False)
    wait: bool = False


class SealingKey(BaseModel):
    """Which public key is out, and under which key of a ring its private half lies."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    key_id: str

    @classmethod
    async def current(cls, gateway: "WorkerGateway") -> Self | None:
        """The key that is out, or None."""
        answer = await gateway.call("sealing_key")
        return cls.model_validate(answer) if answer else None


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


async def open_for(hold: Hold, call_id: UUID, name: str, host: str) -> SealedConnection:
    """A connection for one begun call and one host; audited. Raises Refused."""
    return SealedConnection.model_validate(await hold.call("open_connection", call=call_id, name=name, host=host))


async def read_terms(hold: Hold, name: str) -> ConnectionTerms:
    """What every member may see of a connection. Raises Refused(not_found)."""
    return ConnectionTerms.model_validate(await hold.call("connection_terms", name=name))


async def note_fault(hold: Hold, call_id: UUID, terms: ConnectionTerms, code: str) -> None:
    """Audit that what was opened could not be used."""
    await hold.call("note_connection_fault", call=call_id, connection=terms.id, code=code)


async def lease_token(hold: Hold, terms: ConnectionTerms, lease: UUID) -> Token:
    """A live token, or the turn to fetch one. Raises Refused(conflict)."""
    return Token.model_validate(await hold.call("lease_token", connection=terms.id, version=terms.version, lease=lease))


async def keep_token(
    hold: Hold,
    terms: ConnectionTerms,
    lease: UUID,
    token: bytes,
    *,
    seconds: int,
    sealed: bytes | None,
    key_id: str | None,
) -> int:
    """Keep a token, and a changed refresh token with it, both sealed; answers its number. Raises Refused(conflict).

    The turn is the fence: it is kept although the run has ended meanwhile.
    """
    answer = await hold.gateway.call(
        "keep_token",
        run_id=hold.run_id,
        connection=terms.id,
        version=terms.version,
        lease=lease,
        token=_text(token),
        seconds=seconds,
        sealed=_text(sealed),
        key_id=key_id,
    )
    return int(answer["number"])


async def yield_token(hold: Hold, terms: ConnectionTerms, lease: UUID) -> None:
    """Give the turn back."""
    await hold.gateway.call("yield_token", run_id=hold.run_id, connection=terms.id, lease=lease)


async def drop_token(hold: Hold, connection: UUID, number: int) -> bool:
    """Forget a token, unless a newer one is there."""
    return bool(await hold.call("drop_token", connection=connection, number=number))


async def publish_sealing_key(
    gateway: "WorkerGateway", key: SealingKey, *, public_key: bytes, private_sealed: bytes, replaces: UUID | None
) -> bool:
    """Put out a public key; False when another worker was first."""
    return bool(
        await gateway.call(
            "publish_sealing_key", id=key.id, public_key=_text(public_key), private_sealed=_text(private_sealed),
            key_id=key.key_id, replaces=replaces,
        )
    )  # fmt: skip


async def sweep(gateway: "WorkerGateway", *, key_id: str, max_connections: int = 50) -> list[SealedConnection]:
    """What waits to be sealed under this key of the ring."""
    rows = await gateway.call("sweep_connections", key_id=key_id, max_connections=max_connections)
    return [SealedConnection.model_validate(row) for row in rows]


async def settle(gateway: "WorkerGateway", was: SealedConnection, *, sealed: bytes, key_id: str) -> bool:
    """Put newly sealed bytes in the place of the old ones; False when those are gone."""
    return await _settle(gateway, was, sealed=_text(sealed), key_id=key_id)


async def settle_fault(gateway: "WorkerGateway", was: SealedConnection, fault: str) -> bool:
    """Say in the connection why its deposit cannot be used."""
    return await _settle(gateway, was, fault=fault)


async def _settle(gateway: "WorkerGateway", was: SealedConnection, **change: str | None) -> bool:
    digest = hashlib.sha256(was.deposit or was.sealed or b"").hexdigest()
    return bool(await gateway.call("settle_connection", org_id=was.org_id, id=was.id, was=digest, **change))
