"""A person at the command line: signs in through Supabase Auth and calls PAM as a browser would."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from postgrest.exceptions import APIError
from supabase_auth.errors import AuthError

from infra.cli.live import RunFollower
from supabase import AsyncClient, acreate_client
from workers.kernel.cards import AgentCard


class CommandFailed(Exception):
    """A command cannot go on; the message says what to do next."""


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
        except APIError as error:
            if error.code in ("PGRST106", "PGRST202"):
                raise CommandFailed(
                    "schema pam is not exposed or not installed: `pam install`, then add `pam` to the exposed schemas"
                ) from error
            raise CommandFailed(f"{name}: {error.message}") from error
        except (httpx.HTTPError, OSError) as error:
            raise CommandFailed(f"{self.url} does not answer: {type(error).__name__}") from error
        if isinstance(answer, dict) and "refused" in answer:
            raise CommandFailed(answer["refused"]["message"])
        return dict(answer)

    async def select(self, table: str, columns: str = "*", **equal: Any) -> list[dict[str, Any]]:
        """Rows of a table of schema pam that this person may see."""
        query = self.client.schema("pam").from_(table).select(columns)
        for column, value in equal.items():
            query = query.eq(column, value)
        try:
            return list((await query.execute()).data)  # type: ignore[arg-type]
        except (httpx.HTTPError, OSError, APIError) as error:
            raise CommandFailed(f"{self.url} does not answer: {type(error).__name__}") from error

    async def import_card(self, org_id: str, card: AgentCard) -> dict[str, Any]:
        """Import a card into an organisation as its agent's next version."""
        return await self.call(
            "import_agent", org_id=org_id, name=card.name, definition=card.definition(), source=card.source
        )

    async def put_files(self, org_id: str, folder: Path) -> int:
        """Write a folder's files into the organisation's workspace, those that are not there yet; answers how many."""
        there = {row["path"] for row in await self.select("files", "path", org_id=org_id)}
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
