"""A person at the command line: signs in through Supabase Auth and calls PAM as a browser would."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from postgrest.exceptions import APIError
from supabase_auth.errors import AuthError

from infra.cli.live import RunFollower
from supabase import AsyncClient, acreate_client
from workers.kernel.cards import AgentCard

PAGE_ROWS = 500


class CommandFailed(Exception):
    """A command cannot go on; the message says what to do next."""


class Refused(CommandFailed):
    """PAM said no; `code` is its one word for why, such as not_found."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Person:
    """A signed-in person. Everything goes through the publishable key and the person's own token."""

    client: AsyncClient
    url: str
    publishable_key: str
    user_id: str
    email: str

    @classmethod
    async def sign_up(cls, url: str, publishable_key: str, *, email: str, password: str) -> "Person":
        """A new account, signed in. Raises CommandFailed."""
        return await cls._enter(url, publishable_key, email, password, is_new=True)

    @classmethod
    async def sign_in(cls, url: str, publishable_key: str, *, email: str, password: str) -> "Person":
        """An existing account, signed in. Raises CommandFailed."""
        return await cls._enter(url, publishable_key, email, password, is_new=False)

    @classmethod
    async def _enter(cls, url: str, publishable_key: str, email: str, password: str, *, is_new: bool) -> "Person":
        client = await acreate_client(url, publishable_key)
        credentials: Any = {"email": email, "password": password}
        try:
            answer = await (
                client.auth.sign_up(credentials) if is_new else client.auth.sign_in_with_password(credentials)
            )
        except AuthError as error:
            raise CommandFailed(f"{email} could not sign {'up' if is_new else 'in'}: {error.message}") from error
        except (httpx.HTTPError, OSError) as error:
            raise CommandFailed(
                f"{url} does not answer ({type(error).__name__}): is SUPABASE_URL right, and the network there?"
            ) from error
        if answer.user is None or answer.session is None:
            raise CommandFailed(f"{email} must confirm the address first: open the link in the mail, then try again")
        return cls(client, url, publishable_key, str(answer.user.id), email)

    async def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """A function of schema pam as this person. Raises CommandFailed with the refusal's sentence."""
        try:
            answer: Any = (await self.client.schema("pam").rpc(name, arguments).execute()).data
        except (httpx.HTTPError, OSError, APIError) as error:
            raise self._failed(name, error) from error
        if isinstance(answer, dict) and "refused" in answer:
            raise Refused(answer["refused"]["message"], code=answer["refused"]["code"])
        return dict(answer)

    async def select(
        self, table: str, columns: str = "*", *, order: str | None = None, limit: int | None = None, **equal: Any
    ) -> list[dict[str, Any]]:
        """Rows of a table of schema pam that this person may see; a list stands for any of its values,
        None for none.

        order: a column, the newest (greatest) first. A server gives 1,000 rows at most: select_all gives all of them.
        """
        query = self._query(table, columns, equal)
        if order is not None:
            query = query.order(order, desc=True)
        return await self._rows(table, query if limit is None else query.limit(limit))

    async def select_all(
        self, table: str, columns: str = "*", *, by: str, **equal: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """The same, every row, by a column that is among the columns and unique among these rows: page after page."""
        last: Any = None
        while True:
            query = self._query(table, columns, equal).order(by).limit(PAGE_ROWS)
            rows = await self._rows(table, query if last is None else query.gt(by, last))
            if not rows:  # a short page is no end: the server may give fewer than were asked for
                return
            for row in rows:
                yield row
            last = rows[-1][by]

    def _query(self, table: str, columns: str, equal: dict[str, Any]) -> Any:
        query = self.client.schema("pam").from_(table).select(columns)
        for column, value in equal.items():
            match value:
                case None:
                    query = query.is_(column, "null")
                case list():
                    query = query.in_(column, value)
                case _:
                    query = query.eq(column, value)
        return query

    async def _rows(self, table: str, query: Any) -> list[dict[str, Any]]:
        try:
            return list((await query.execute()).data)
        except (httpx.HTTPError, OSError, APIError) as error:
            raise self._failed(table, error) from error

    def _failed(self, name: str, error: Exception) -> CommandFailed:
        """What a failed request for a function or table means to whoever typed the command."""
        match error:
            case APIError(code="PGRST106" | "PGRST202"):
                return CommandFailed(
                    "schema pam is not exposed or not installed: `pam install`, then add `pam` to the exposed schemas"
                )
            case APIError(message=str(message)):
                return CommandFailed(f"{name}: {message}")
        return CommandFailed(f"{self.url} does not answer: {type(error).__name__}")

    async def import_card(self, org_id: str, card: AgentCard) -> dict[str, Any]:
        """Import a card into an organisation as its agent's next version."""
        return await self.call(
            "import_agent", org_id=org_id, name=card.name, definition=card.definition(), source=card.source
        )

    async def put_files(self, org_id: str, folder: Path) -> int:
        """Write a folder's files into the organisation's workspace, those that are not there yet; answers how many."""
        there = {row["path"] async for row in self.select_all("files", "path", by="path", org_id=org_id)}
        written = 0
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and "__pycache__" not in name and not name.endswith(".pyc") and name not in there:
                await self.call("write_file", org_id=org_id, path=name, content=path.read_text(), expected_version=0)
                written += 1
        return written

    def follow(self, run_id: str) -> RunFollower:
        """The run's live events."""
        return RunFollower(client=self.client, url=self.url, publishable_key=self.publishable_key, run_id=run_id)
