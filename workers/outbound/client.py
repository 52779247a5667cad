"""The guarded client: allow-list first, then the network's own guard, then the secret, then the bytes.

Retries live here and nowhere above: safe methods, what was never sent, and what the other side asks to be repeated.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from uuid import UUID

from workers.kernel.errors import Refused, Unavailable
from workers.outbound.answer import Answer
from workers.outbound.breaker import Breaker
from workers.outbound.credentials import Injection
from workers.outbound.exchange import exchange
from workers.outbound.failures import CredentialAway, OutboundFailed, OutboundRefused
from workers.outbound.limits import OutboundLimits
from workers.outbound.network import GuardedNetwork
from workers.outbound.redaction import Redaction
from workers.outbound.redirect import next_step, without_names
from workers.outbound.request import Request, check
from workers.outbound.target import Target, parsed

Admits = Callable[[str, int], Awaitable[bool]]
Injects = Callable[[str], Awaitable[Injection]]

_FAILING = (500, 502, 503, 504)
_COME_BACK = (429, 503)
_PASSING = (429, 502, 503, 504)
_LEAST_SECONDS = 0.05  # an attempt needs; a loop's timer may also ring a little before its time


@dataclass
class _Journey:
    """One call with its redirects and repeats. The secret goes to `home` alone, until the way leads elsewhere."""

    org_id: UUID
    admits: Admits
    inject: Injects | None
    home: Target
    deadline: float
    attempts: int = 0
    secrets: list[str] = field(default_factory=list)

    @property
    def redaction(self) -> Redaction:
        return Redaction(self.secrets)

    async def injection(self, target: Target) -> Injection:
        if self.inject is None:
            return Injection()
        try:
            injection = await self.inject(target.authority)
        except Unavailable as error:
            raise CredentialAway(f"The connection could not be opened: {error}.") from None
        self.secrets += [one for one in injection.secrets if one not in self.secrets]
        return injection


class Outbound:
    """Sends requests for organisations. Keeps no cookie, no connection and no answer between two of them."""

    def __init__(self, *, network: GuardedNetwork, breaker: Breaker | None, limits: OutboundLimits) -> None:
        self._network = network
        self._breaker = breaker
        self._limits = limits

    async def send(self, request: Request, *, org_id: UUID, admits: Admits, inject: Injects | None = None) -> Answer:
        """The answer, whatever its status, without secrets.

        admits: whether the organisation allows a host and port. inject: a connection's secrets for an authority.
        Raises OutboundRefused, or OutboundFailed when there is no answer.
        """
        check(request)
        began = time.monotonic()
        deadline = asyncio.get_running_loop().time() + self._limits.total_seconds
        journey = _Journey(org_id, admits, inject, parsed(request.url), deadline)
        try:
            answer = await self._travel(journey, request)
        except Refused as error:
            raise OutboundRefused(error.code, journey.redaction.text(str(error))) from None
        except OutboundFailed as error:
            told = journey.redaction.text(str(error))
            raise OutboundFailed(told, was_sent=error.was_sent, may_repeat=error.may_repeat) from None
        seconds = round(time.monotonic() - began, 3)
        return replace(answer.redacted(journey.redaction), attempts=journey.attempts, seconds=seconds)

    async def _travel(self, journey: _Journey, first: Request) -> Answer:
        """Redirects, each with every check again. What took effect before one is told, whatever comes of it."""
        request, target = first, journey.home
        answer: Answer | None = None
        try:
            for _ in range(self._limits.max_redirects + 1):
                answer = await self._hop(journey, request, target)
                step = next_step(answer, request)
                if step is None:
                    return replace(answer, is_redirected=request is not first)
                request, target = step
                if target.origin != journey.home.origin:
                    journey.inject = None  # for good: a foreign host must not choose what is asked with the secret
                if journey.redaction.text(target.url) != target.url:
                    raise OutboundRefused("redirect", "It carries a secret of the connection in its URL.")
            raise OutboundRefused("redirect", f"There were more than {self._limits.max_redirects} one after another.")
        except (Refused, OutboundFailed) as error:
            is_lost = isinstance(error, OutboundFailed) and error.was_sent and not request.is_safe
            if answer is None or is_lost:
                raise
            told = f"The redirect of {journey.home.authority} was not followed: {without_names(error)}"
            if not first.is_safe:
                return replace(answer, note=told, is_redirected=True)
            if isinstance(error, Refused):
                raise OutboundRefused(error.code, told) from None
            raise OutboundFailed(told, was_sent=error.was_sent) from None

    async def _hop(self, journey: _Journey, request: Request, target: Target) -> Answer:
        """One URL: may it be asked, is its host left alone, and then what it answers."""
        self._network.check(target)
        try:
            is_allowed = await journey.admits(target.host, target.port)
        except Unavailable as error:
            raise OutboundFailed(f"The list of hosts could not be read: {error}.", was_sent=False) from None
        if not is_allowed:
            raise OutboundRefused(
                "host",
                f"{target.authority} is not on the organisation's list of hosts: "
                f"an admin adds it with `pam hosts allow {target.authority}`.",
            )
        if self._breaker is None:
            return await self._attempts(journey, request, target)
        if pause := await self._breaker.enter(journey.org_id, target.authority):
            raise OutboundFailed(
                f"{target.authority} failed several times in a row and is left alone for {pause:.0f} s.",
                was_sent=False,
            )
        try:
            answer = await self._attempts(journey, request, target)
        except CredentialAway:
            raise  # says nothing of the host, which was not asked
        except OutboundFailed:
            await self._breaker.failed(journey.org_id, target.authority)
            raise
        is_failing = answer.status in _FAILING
        await (self._breaker.failed if is_failing else self._breaker.succeeded)(journey.org_id, target.authority)
        return answer

    async def _attempts(self, journey: _Journey, request: Request, target: Target) -> Answer:
        for number in range(1, self._limits.attempts + 1):
            journey.attempts += 1
            try:
                answer = await self._once(journey, request, target)
            except OutboundFailed as error:
                may_repeat = error.may_repeat and (request.is_safe or not error.was_sent)
                pause = self._backoff(number) if may_repeat else None
                if not self._has_turn(journey, number, pause):
                    raise
            else:
                pause = self._asked_pause(answer, request, number)
                if not self._has_turn(journey, number, pause):
                    return answer
            await asyncio.sleep(pause or 0)
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, journey: _Journey, request: Request, target: Target) -> Answer:
        """A connection of its own; the secret is asked for once everything else is decided."""
        limits = self._limits
        try:
            async with asyncio.timeout_at(journey.deadline), asyncio.timeout(limits.connect_seconds):
                route = await self._network.find(target.host, target.port)
            async with asyncio.timeout_at(journey.deadline):
                injection = await journey.injection(target)
                stream = await self._network.open(target, route, seconds=limits.connect_seconds)
        except TimeoutError:
            raise OutboundFailed(f"{target.authority} could not be reached in time.", was_sent=False) from None
        try:
            return await exchange(stream, target, request, injection, deadline=journey.deadline, limits=limits)
        finally:
            await stream.aclose()

    def _has_turn(self, journey: _Journey, number: int, pause: float | None) -> bool:
        if pause is None or number >= self._limits.attempts:
            return False
        return asyncio.get_running_loop().time() + pause + _LEAST_SECONDS < journey.deadline

    def _backoff(self, number: int) -> float:
        pause = self._limits.backoff_seconds * float(2 ** (number - 1))
        return pause * random.uniform(0.5, 1)  # noqa: S311 - no secret

    def _asked_pause(self, answer: Answer, request: Request, number: int) -> float | None:
        """The seconds until the other side wants to be asked again; None when its answer stands.

        429 says that nothing was done (RFC 6585, 4); a 503 may be a gateway's, in front of a server that did it.
        """
        is_asked = answer.status in _COME_BACK if request.is_safe else answer.status == 429
        told = retry_after(answer.header("retry-after")) if is_asked else None
        if told is not None:
            return told if told <= self._limits.longest_pause_seconds else None
        return self._backoff(number) if request.is_safe and answer.status in _PASSING else None


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, a number or a date (RFC 9110, 10.2.3); None for anything else."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
