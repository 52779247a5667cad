"""Connections: an organisation's credentials, opened for one call and one host, and shown to that host alone."""

import asyncio
import base64
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import structlog

from workers.kernel.envelope import KeyAway, SealBroken
from workers.kernel.errors import PamError, Refused, Unavailable
from workers.kernel.ledger import connections
from workers.kernel.ledger.connections import ConnectionKind, ConnectionTerms, SealedConnection, Token
from workers.kernel.ledger.hold import Hold
from workers.kernel.vault import PURPOSE as SECRET
from workers.kernel.vault import DepositUnusable, Secret, Vault
from workers.outbound import oauth
from workers.outbound.credentials import Injection
from workers.outbound.oauth import FETCH_SECONDS, FetchedToken, TokenPost

WAIT_SECONDS = 45.0
POLL_SECONDS = 0.2
_PURPOSE = "access token"
_MAX_SERVED = 1_024
_OAUTH = (ConnectionKind.OAUTH2_CLIENT_CREDENTIALS, ConnectionKind.OAUTH2_REFRESH)

log = structlog.get_logger()


@dataclass(frozen=True)
class _Served:
    """Which token a call was given, and whether it was one in the place of another."""

    connection: UUID
    number: int
    is_second: bool


class Connections:
    """Implements Credentials. `vault` is None where the worker was given no key: then every connection is refused."""

    def __init__(self, *, vault: Vault | None, post: TokenPost) -> None:
        self._vault = vault
        self._post = post
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()
        self._fetching: set[asyncio.Task[tuple[str, int]]] = set()
        self._served: OrderedDict[tuple[UUID, str], _Served] = OrderedDict()

    def __repr__(self) -> str:
        return "Connections()"

    async def injected(self, hold: Hold, call_id: UUID, name: str, host: str) -> Injection:
        """What the connection adds to a request of this call to this host. Raises Refused, or Unavailable."""
        async with self._found(hold, call_id, name, host) as (vault, found):
            if found.leads_to_logs:
                raise Refused("forbidden", f"The connection {name} leads to logs: log_search uses it, no other tool.")
            secret = await vault.secret_of(found)
            if found.kind not in _OAUTH:
                return _shown(found, secret)
            token, number = await self._token(vault, hold, found)
        before = self._served.get((call_id, name))
        self._served[call_id, name] = _Served(found.id, number, is_second=before is not None and before.is_second)
        while len(self._served) > _MAX_SERVED:
            self._served.popitem(last=False)
        return Injection({"authorization": f"Bearer {token}"}, secrets=(token,))

    async def opened_for_logs(self, hold: Hold, call_id: UUID, name: str) -> tuple[ConnectionTerms, str]:
        """Where a connection leads that leads to logs, and its secret. Raises Refused."""
        host = (await connections.read_terms(hold, name)).hosts[0]
        async with self._found(hold, call_id, name, host) as (vault, found):
            if not found.leads_to_logs:
                raise Refused("forbidden", f"The connection {name} leads to no logs: an admin adds one that does.")
            return found, (await vault.secret_of(found)).secret

    @asynccontextmanager
    async def _found(
        self, hold: Hold, call_id: UUID, name: str, host: str
    ) -> AsyncIterator[tuple[Vault, SealedConnection]]:
        """A connection for this call and host; what goes wrong with it within is audited and said in one sentence."""
        if self._vault is None:
            raise Refused(
                "unconfigured",
                "This worker holds no key for connections: whoever runs it sets PAM_KMS_KEY_ID or PAM_KEY_FILE.",
            )
        found = await connections.open_for(hold, call_id, name, host)
        try:
            yield self._vault, found
        except (SealBroken, DepositUnusable, KeyAway) as error:
            log.warning("connection not opened", connection=str(found.id), reason=str(error))
            await connections.note_fault(hold, call_id, found, "key_away" if isinstance(error, KeyAway) else "broken")
            raise _said(found, error) from None
        except (Refused, Unavailable) as error:
            await connections.note_fault(hold, call_id, found, getattr(error, "code", "unavailable"))
            raise

    async def close(self) -> None:
        """Wait for tokens that are being fetched: a refresh token that was changed meanwhile exists only here."""
        if self._fetching:
            await asyncio.wait(self._fetching, timeout=FETCH_SECONDS + 5)

    async def invalidate(self, hold: Hold, call_id: UUID, name: str) -> bool:
        """The host answered 401 to what `injected` gave this call: whether asking it anew may help, once a call."""
        served = self._served.get((call_id, name))
        if served is None or served.is_second:
            return False
        self._served[call_id, name] = replace(served, is_second=True)
        await connections.drop_token(hold, served.connection, served.number)
        return True

    async def _token(self, vault: Vault, hold: Hold, found: SealedConnection) -> tuple[str, int]:
        """An access token that lives for 30 s at least, and its number. One worker fetches it, the others wait."""
        lease = uuid4()
        turn = self._turns.setdefault(found.id, asyncio.Lock())
        try:
            async with asyncio.timeout(WAIT_SECONDS), turn:
                while True:
                    place = await connections.lease_token(hold, found, lease)
                    if place.leased:
                        return await self._unbroken(vault, hold, found, place, lease)
                    if place.token is not None:
                        try:
                            text = await vault.envelope.open(place.token, context=found.context(_PURPOSE))
                            return text.decode(), place.number
                        except SealBroken:
                            await connections.drop_token(hold, found.id, place.number)
                    else:
                        await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise Unavailable(f"no token of {found.name} came within {WAIT_SECONDS:.0f} s: try again later") from None

    async def _unbroken(
        self, vault: Vault, hold: Hold, found: SealedConnection, place: Token, lease: UUID
    ) -> tuple[str, int]:
        """Fetch in a task of its own: a call that is cancelled meanwhile must not lose a changed refresh token."""
        task = asyncio.create_task(self._fetched(vault, hold, found, place, lease))
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)
        return await asyncio.shield(task)

    async def _fetched(
        self, vault: Vault, hold: Hold, found: SealedConnection, place: Token, lease: UUID
    ) -> tuple[str, int]:
        try:
            async with asyncio.timeout(FETCH_SECONDS):  # all of it, so that it ends before the turn does
                # Opened anew under the turn: another worker may have changed the refresh token since.
                secret = await vault.opened(place.sealed or b"", found)
                # The data keys are there before the request is sent: afterwards nothing but the ledger may fail.
                for_token = await vault.envelope.sealer(context=found.context(_PURPOSE))
                for_secret = await vault.envelope.sealer(context=found.context(SECRET))
                fetched = await oauth.fetch(self._post, found, secret)
        except TimeoutError:
            await connections.yield_token(hold, found, lease)
            raise Unavailable(
                f"the token endpoint of {found.name} did not answer within {FETCH_SECONDS:.0f} s"
            ) from None
        except PamError:
            await connections.yield_token(hold, found, lease)
            raise
        changed = _changed(found, secret, fetched)
        sealed = for_secret.seal(changed.to_bytes()) if changed else None
        kept = for_token.seal(fetched.access_token.encode())
        key_id = for_secret.key_id if sealed else None
        for pause in (0.5, 2.0, None):
            try:
                number = await connections.keep_token(
                    hold, found, lease, kept, seconds=fetched.seconds, sealed=sealed, key_id=key_id
                )
                break
            except Unavailable:  # the database restarts; the refresh token that was changed exists only here
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        return fetched.access_token, number


def _changed(found: SealedConnection, secret: Secret, fetched: FetchedToken) -> Secret | None:
    """The secret with the refresh token that took the place of the last (RFC 6749, 6), or None."""
    if found.kind is not ConnectionKind.OAUTH2_REFRESH or fetched.refresh_token in (None, secret.secret):
        return None
    return Secret(secret=str(fetched.refresh_token), client_secret=secret.client_secret)


def _shown(found: SealedConnection, secret: Secret) -> Injection:
    """A secret that is shown as it is, where the connection says."""
    settings, value = found.settings, secret.secret
    match found.kind:
        case ConnectionKind.BASIC:
            pair = base64.b64encode(f"{settings['username']}:{value}".encode()).decode()
            return Injection({"authorization": f"Basic {pair}"}, secrets=(value, pair))
        case ConnectionKind.API_KEY:
            whole = f"{settings.get('prefix', '')}{value}"
            if "query" in settings:
                return Injection(query={settings["query"]: whole}, secrets=(value,))
            return Injection({settings["header"].lower(): whole}, secrets=(value,))
        case ConnectionKind.BEARER:
            return Injection({"authorization": f"Bearer {value}"}, secrets=(value,))
        case _:
            raise Refused("unusable", f"The connection {found.name} is of a kind that is shown to no host.")


def _said(found: SealedConnection, error: PamError) -> Refused:
    """What the model reads: which connection, and who can help."""
    match error:
        case KeyAway():
            why = "the key that seals it does not answer; whoever runs PAM must look at it"
        case DepositUnusable():
            why = str(error)
        case _:
            why = "its secret does not open any more; an admin rotates it"
    return Refused("unusable", f"The connection {found.name} cannot be used: {why}.")
