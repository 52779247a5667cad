"""A vault with its key file, people who put secrets into it as a browser does, and calls that take them out."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpcore
import pytest
from psycopg.types.json import Jsonb

from infra.local.facts import StackFacts
from tests.database.world import connect
from tests.support.bench import Bench
from tests.support.database import Template
from tests.support.token_endpoint import TokenEndpoint
from workers.kernel import deposit
from workers.kernel.envelope import Envelope, KeyRing
from workers.kernel.errors import Refused
from workers.kernel.key_file import LocalKeyRing
from workers.kernel.ledger import tool_calls
from workers.kernel.ledger.connections import ConnectionTerms
from workers.kernel.vault import Vault
from workers.outbound.client import Outbound
from workers.outbound.connections import Connections
from workers.outbound.credentials import Injection
from workers.outbound.network import GuardedNetwork, public_trust, system_resolver
from workers.outbound.oauth import TokenPost, post_through, token_limits

HOST = "api.example.com"
_BROKEN = "The connection {} cannot be used: its secret does not open any more; an admin rotates it."


@dataclass
class Strongroom:
    """One run of a person in an organisation, and what it can reach of its connections."""

    bench: Bench
    vault: Vault
    connections: Connections
    endpoint: TokenEndpoint
    post: TokenPost
    key_file: Path | None
    terms: dict[str, ConnectionTerms] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, bench: Bench, *, key_file: Path | None = None, ring: KeyRing | None = None
    ) -> AsyncIterator["Strongroom"]:
        """Publish a sealing key under the ring (a key file's, unless another is given)."""
        if key_file is not None:
            LocalKeyRing.make_file(key_file)
            ring = LocalKeyRing(file=key_file)
        assert ring is not None
        vault = Vault(gateway=bench.hold.gateway, envelope=Envelope(ring=ring))
        await vault.sweep()
        network = GuardedNetwork(
            resolver=system_resolver, connector=httpcore.AnyIOBackend(), trust=public_trust(), may_reach_loopback=True
        )
        post = post_through(Outbound(network=network, breaker=None, limits=token_limits()))
        async with TokenEndpoint.open() as endpoint:
            yield cls(bench, vault, Connections(vault=vault, post=post), endpoint, post, key_file)

    @classmethod
    @asynccontextmanager
    async def in_a_database(cls, template: Template, facts: StackFacts, folder: Path) -> AsyncIterator["Strongroom"]:
        """A database of a module's own with a vault over it, its keys in a file of the folder."""
        async with (
            template.clone() as cloned,
            Bench.open(cloned, facts) as bench,
            cls.open(bench, key_file=folder / "keys.json") as room,
        ):
            yield room

    async def elsewhere(self) -> "Strongroom":
        """Another person's organisation, over the same keys."""
        return self._with(await self.bench.elsewhere())

    async def beside(self) -> "Strongroom":
        """Another run of the same organisation in another worker: nothing is remembered there."""
        there = self._with(await self.bench.beside())
        there.terms = self.terms
        return there

    def _with(self, bench: Bench) -> "Strongroom":
        vault = Vault(gateway=bench.hold.gateway, envelope=Envelope(ring=self.vault.envelope.ring))
        return Strongroom(
            bench, vault, Connections(vault=vault, post=self.post), self.endpoint, self.post, self.key_file
        )

    async def sealed(self, terms: dict[str, Any], *, person: UUID | None = None, **secret: Any) -> str:
        """A deposit, sealed to the key that is out by now."""
        key = await self.bench.database.rpc(person or self.bench.user_id, "sealing_key")
        text = json.dumps({**terms, **secret}, default=str).encode()
        sealed = deposit.seal(text, key_id=UUID(key["id"]), public_key=base64.b64decode(key["public_key"]))
        return base64.b64encode(sealed).decode()

    async def add(
        self, name: str, secret: str, *, kind: str = "bearer", hosts: tuple[str, ...] = (HOST,), by: UUID | None = None,
        settings: dict[str, Any] | None = None, client_secret: str | None = None, **other: Any,
    ) -> Any:  # fmt: skip
        """Add a connection as a browser does; answers what the verb answers."""
        if kind.startswith("oauth2") and settings is None:
            settings = {"token_url": self.endpoint.url, "client_id": "client"}
        terms = ConnectionTerms.model_validate(
            {"org_id": self.bench.org_id, "id": uuid4(), "name": name, "kind": kind, "hosts": hosts,
             "settings": settings or {}, "version": 1}
        )  # fmt: skip
        told: dict[str, Any] = {"secret": secret} | ({"client_secret": client_secret} if client_secret else {})
        sealed = await self.sealed(terms.told(), **told)
        self.terms[name] = terms
        given: dict[str, Any] = {
            "id": terms.id, "name": name, "kind": kind, "hosts": list(hosts), "settings": terms.settings, "deposit": sealed
        }  # fmt: skip
        return await connect(self.bench.database, by or self.bench.user_id, self.bench.org_id, **{**given, **other})

    async def rotate(self, name: str, secret: str, *, by: UUID | None = None, **other: Any) -> Any:
        """Rotate a connection as a browser does."""
        terms = self.terms[name].model_copy(update={"version": self.terms[name].version + 1})
        given = {"name": name, "version": terms.version, "deposit": await self.sealed(terms.told(), secret=secret)}
        answer = await self.rpc(by, "rotate_connection", org_id=self.bench.org_id, **{**given, **other})
        if "refused" not in answer:
            self.terms[name] = terms
        return answer

    async def remove(self, name: str, *, by: UUID | None = None) -> Any:
        """Remove a connection."""
        return await self.rpc(by, "remove_connection", org_id=self.bench.org_id, name=name)

    async def rpc(self, person: UUID | None, verb: str, **arguments: Any) -> Any:
        """A function of schema pam as a person, the run's own unless another is named."""
        return await self.bench.database.rpc(person or self.bench.user_id, verb, **arguments)

    async def call(self) -> UUID:
        """A tool call that has begun."""
        planned = await self.bench.planned("redis_get", {"key": "a"})
        await tool_calls.begin(self.bench.hold, planned)
        return planned.id

    async def inject(self, name: str, host: str = HOST, *, call: UUID | None = None) -> Injection:
        """What a call gets of a connection for a host."""
        return await self.connections.injected(self.bench.hold, call or await self.call(), name, host)

    async def secrets(self, name: str) -> dict[str, Any]:
        """The row of sealed bytes, as the superuser sees it."""
        (row,) = await self.bench.database.admin(
            "select * from pam_private.connection_secrets where connection_id = %s", self.terms[name].id
        )
        return row

    async def put(self, name: str, **columns: Any) -> None:
        """Change the row of sealed bytes behind everybody's back."""
        for column, value in columns.items():
            await self.bench.database.admin(
                f"update pam_private.connection_secrets set {column} = %s where connection_id = %s",
                Jsonb(value) if isinstance(value, dict) else value,
                self.terms[name].id,
            )

    async def audits(self, action: str) -> list[dict[str, Any]]:
        """The organisation's audit rows of an action, in order."""
        return await self.bench.database.admin(
            "select is_allowed, actor_id, subject from pam.audit where org_id = %s and action = %s order by id",
            self.bench.org_id,
            action,
        )


async def settled(room: Strongroom, *names: str) -> None:
    """Connections whose secrets lie under the ring."""
    for name in names:
        await room.add(name, f"secret of {name}")
        await room.inject(name)
    room.vault.envelope.forget()


async def assert_broken(room: Strongroom, name: str) -> None:
    """A connection whose secret does not open is refused in its sentence, and the audit says so."""
    with pytest.raises(Refused) as caught:
        await room.inject(name)
    assert str(caught.value) == _BROKEN.format(name)
    *_, opened, failed = await room.audits("connection.use")
    assert (opened["is_allowed"], failed["is_allowed"], failed["subject"]["code"]) == (True, False, "broken")


room_ids: dict[str, Any] = {}


def room_terms(room: Strongroom, name: str) -> dict[str, Any]:
    """What a deposit says of a bearer connection of this name, whose id is kept for the row."""
    room_ids[name] = uuid4()
    return {
        "org_id": str(room.bench.org_id), "id": str(room_ids[name]), "name": name, "kind": "bearer", "hosts": [HOST],
        "settings": {}, "version": 1,
    }  # fmt: skip
