"""The callers' gateway: tables and verbs of schema pam over PostgREST, under the caller's own token."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from postgrest import AsyncPostgrestClient
from postgrest.exceptions import APIError

from workers.kernel.errors import PamError, Refused, SignedOut, Unavailable

Json = Any  # what PostgREST answers

# https://docs.postgrest.org, "Errors": no such function, table, schema; the schema cache is not there yet.
_NOT_INSTALLED = ("PGRST106", "PGRST202", "PGRST205", "3F000", "42P01", "42883")
_SIGNED_OUT = ("401", "PGRST301", "PGRST302", "PGRST303")
_TRANSIENT = ("40001", "40P01", "57014", "PGRST000", "PGRST001", "PGRST002", "PGRST003")


def connect(*, read_seconds: float = 10) -> httpx.AsyncClient:
    """The one HTTP client of a process; nothing is opened before the first request."""
    return httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(read_seconds, connect=3),
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4),
        event_hooks={"response": [_raise_for_status]},
    )


async def _raise_for_status(response: httpx.Response) -> None:
    """What postgrest's own error forgets: the status. No body is read, so none gets into an error."""
    if response.status_code >= 500:
        raise Unavailable(f"PostgREST answered {response.status_code}: try again later")
    if response.status_code == 401:
        raise SignedOut("the token was not accepted: sign in again")
    if response.status_code == 429:
        raise Refused("limit", "The project answers too many requests at the moment: try again later.")


class CallerGateway:
    """One caller's view. Cheap to make for a request: the connections are the shared client's."""

    def __init__(self, *, http: httpx.AsyncClient, supabase_url: str, publishable_key: str, token: str | None) -> None:
        self._postgrest = AsyncPostgrestClient(
            f"{supabase_url}/rest/v1",
            schema="pam",
            headers={"apikey": publishable_key} | ({"Authorization": f"Bearer {token}"} if token else {}),
            http_client=http,
            retry_enabled=False,  # retries live with whoever waits
        )

    async def rpc(self, name: str, arguments: Mapping[str, Json]) -> Json:
        """Call pam.<name> by named arguments and answer its jsonb.

        Raises Refused with the verb's own words, SignedOut, or Unavailable.
        """
        answer = await self._answer(self._postgrest.rpc(name, dict(arguments)))
        if isinstance(answer, dict) and "refused" in answer:
            raise Refused(answer["refused"]["code"], answer["refused"]["message"])
        return answer

    async def select(
        self,
        table: str,
        columns: str = "*",
        *,
        equal: Mapping[str, object],
        greater: Mapping[str, object] | None = None,
        either: str | None = None,
        order: Sequence[str] = (),
        is_descending: bool = False,
        limit: int = 1,
    ) -> list[dict[str, Json]]:
        """Rows of a table that the caller may see; `either` is a filter in PostgREST's own `or` syntax.

        Raises Refused, SignedOut, or Unavailable.
        """
        query = self._postgrest.from_(table).select(columns)
        for column, value in equal.items():
            query = query.eq(column, value)
        for column, value in (greater or {}).items():
            query = query.gt(column, value)
        if either:
            query = query.or_(either)
        for column in order:
            query = query.order(column, desc=is_descending)
        rows = await self._answer(query.limit(limit))
        if not isinstance(rows, list):
            raise Unavailable(f"PostgREST gave no rows for pam.{table}: check SUPABASE_URL")
        return rows

    async def _answer(self, query: Any) -> Json:
        try:
            return (await query.execute()).data
        except httpx.HTTPError as error:
            raise Unavailable(f"PostgREST did not answer ({type(error).__name__}): try again later") from error
        except APIError as error:
            raise _translated(error.code or "") from error


def _translated(code: str) -> PamError:
    """PostgREST's or Postgres' code in our words; nothing of a row's content gets into the message."""
    if code in _SIGNED_OUT:
        return SignedOut("the token was not accepted: sign in again")
    if code in _NOT_INSTALLED:
        return Unavailable(f"schema pam does not answer ({code}): run `pam install` and expose `pam`")
    if code in _TRANSIENT:
        return Unavailable(f"the database did not carry it out ({code}): try again later")
    if code == "42501":
        return Refused("forbidden", "Your sign-in may not do this.")
    if code.startswith("22") or code in ("PGRST100", "PGRST102"):
        return Refused("invalid", "The database cannot read this value.")
    return PamError(f"PostgREST refused the request with {code or 'no code'}")
