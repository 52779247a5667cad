"""The network: a name is resolved once, every answer is judged, and one of those answers is connected to."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import certifi
import httpcore

from workers.outbound import addresses
from workers.outbound.failures import OutboundFailed, OutboundRefused
from workers.outbound.target import LOOPBACK, Target

Resolver = Callable[[str, int], Awaitable[list[str]]]
_TRIED_ADDRESSES = 3


async def system_resolver(host: str, port: int) -> list[str]:
    """Every address that the system knows for a name. Raises OSError."""
    rows = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


def public_trust() -> ssl.SSLContext:
    """The certificates that browsers trust, whatever the environment says."""
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.minimum_version = ssl.TLSVersion.TLSv1_2
    trust.load_verify_locations(certifi.where())
    trust.set_alpn_protocols(["http/1.1"])
    return trust


@dataclass(frozen=True)
class Route:
    """Addresses of a host that were all found fit to connect to."""

    host: str
    port: int
    addresses: tuple[str, ...]


class GuardedNetwork:
    """Connects to public addresses alone; with `may_reach_loopback`, and by the name localhost, to this machine.

    It stands where httpcore has its pool: `connector`, httpcore's own backend, opens the socket, and is given an
    address, never a name. No proxy, no environment and no earlier connection has a say.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        connector: httpcore.AsyncNetworkBackend,
        trust: ssl.SSLContext,
        may_reach_loopback: bool,
    ) -> None:
        self._resolver = resolver
        self._connector = connector
        self._trust = trust
        self._may_reach_loopback = may_reach_loopback

    def check(self, target: Target) -> None:
        """Raises OutboundRefused when its scheme or name is not for this worker."""
        if target.host == LOOPBACK and not self._may_reach_loopback:
            raise OutboundRefused("address", "localhost is the worker's own machine: it is not reached.")
        if target.scheme != "https" and target.host != LOOPBACK:
            raise OutboundRefused("url", "Only https:// is spoken with the world.")

    async def find(self, host: str, port: int) -> Route:
        """The addresses of a host, asked for once. Raises OutboundRefused if any of them is not public."""
        try:
            answers = await self._resolver(host, port)
        except (OSError, UnicodeError):
            answers = []
        if not answers:
            raise OutboundFailed(f"The name {host} leads to no address: check its spelling.", was_sent=False)
        is_fit = addresses.is_loopback if host == LOOPBACK and self._may_reach_loopback else addresses.is_public
        if not all(is_fit(address) for address in answers):
            raise OutboundRefused("address", f"{host} leads into a network that is not public: it is not reached.")
        return Route(host, port, tuple(answers[:_TRIED_ADDRESSES]))

    async def open(self, target: Target, route: Route, *, seconds: float) -> httpcore.AsyncNetworkStream:
        """A connection over a route, under TLS unless it ends on this machine."""
        stream = await self._dial(route, seconds)
        if target.scheme != "https":
            return stream
        try:
            return await stream.start_tls(self._trust, server_hostname=target.host, timeout=seconds)
        except httpcore.ConnectTimeout:
            await stream.aclose()
            raise OutboundFailed(f"{target.authority} could not be reached in time.", was_sent=False) from None
        except (httpcore.ConnectError, ssl.SSLError, OSError) as error:
            await stream.aclose()
            raise OutboundFailed(
                f"{target.authority} does not prove who it is: its certificate was not accepted.",
                was_sent=False,
                may_repeat=False,
            ) from error
        except BaseException:
            await stream.aclose()
            raise

    async def _dial(self, route: Route, seconds: float) -> httpcore.AsyncNetworkStream:
        for address in route.addresses:
            try:
                stream = await self._connector.connect_tcp(address, route.port, timeout=seconds)
            except (httpcore.ConnectError, httpcore.ConnectTimeout, OSError):
                continue
            peer = stream.get_extra_info("server_addr")
            if not peer or not addresses.are_equal(str(peer[0]), address) or peer[1] != route.port:
                await stream.aclose()
                raise OutboundRefused("address", f"{route.host} was answered by another address: the line is cut.")
            return stream
        raise OutboundFailed(f"{route.host} could not be reached.", was_sent=False)
