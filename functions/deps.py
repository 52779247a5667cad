"""The only composition of the API: what a handler's signature asks for is made here, from the settings."""

from dataclasses import dataclass
from typing import Annotated

import httpx
from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import Field

from functions.caller import Caller, CallerCheck, KeyRing
from functions.settings import ApiSettings
from workers.kernel import caller_gateway
from workers.kernel.caller_gateway import CallerGateway
from workers.kernel.errors import SignedOut


@dataclass(frozen=True)
class House:
    """What lives as long as the process."""

    settings: ApiSettings
    http: httpx.AsyncClient
    callers: CallerCheck

    def gateway(self, token: str | None) -> CallerGateway:
        """PostgREST as the holder of this token, or as nobody."""
        return CallerGateway(
            http=self.http,
            supabase_url=self.settings.supabase_url,
            publishable_key=self.settings.publishable_key,
            token=token,
        )


def furnish(settings: ApiSettings) -> House:
    """Compose the process; nothing is opened before the first request."""
    http = caller_gateway.connect()
    issuer = f"{settings.supabase_url}/auth/v1"
    keys = KeyRing(url=f"{issuer}/.well-known/jwks.json", http=http)
    return House(settings, http, CallerCheck(issuer=issuer, keys=keys, jwt_secret=settings.jwt_secret))


def _house(request: Request) -> House:
    house: House = request.app.state.house
    return house


HouseDep = Annotated[House, Depends(_house)]

_bearer = HTTPBearer(auto_error=False, description="The access token of a Supabase session.", bearerFormat="JWT")


async def _caller(
    house: HouseDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    if credentials is None:
        raise SignedOut("send the access token of a Supabase session: Authorization: Bearer …")
    return await house.callers.verify(credentials.credentials)


CallerDep = Annotated[Caller, Depends(_caller)]


def _gateway(house: HouseDep, caller: CallerDep) -> CallerGateway:
    return house.gateway(caller.token)


GatewayDep = Annotated[CallerGateway, Depends(_gateway)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same key with the same request starts one run, however often it is sent.",
    ),
]
PageSize = Annotated[int, Field(ge=1, le=100, description="how many to answer at most")]
