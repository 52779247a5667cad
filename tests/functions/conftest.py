"""PAM on the embedded platform, and people of two organisations who must not see each other."""

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from functions.main import create_app
from functions.settings import ApiSettings
from infra.cli.setting import home
from infra.local.attach import running_stack
from infra.local.facts import StackFacts
from infra.local.stack import StackOptions
from tests.database.world import call, step
from tests.support.stack import FAST, temporary_state

DEFINITION = {"instructions": "You do backend engineering.", "tools": ["file_read"]}


@dataclass(frozen=True)
class Person:
    """Somebody signed in, with an organisation of their own that has the agent `engineer`."""

    user_id: str
    token: str
    org_id: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@dataclass(frozen=True)
class Pam:
    """PAM installed on a platform."""

    platform: StackFacts

    @property
    def settings(self) -> ApiSettings:
        return ApiSettings(
            supabase_url=self.platform.url,
            publishable_key=self.platform.publishable_key,
            jwt_secret=self.platform.jwt_secret,
        )

    def dsn(self, login: str) -> str:
        """The connection string of one of PAM's logins."""
        facts = self.platform
        return {"pam_worker": facts.worker_dsn, "pam_agent_sql": facts.agent_dsn, "pam_sweeper": facts.sweeper_dsn}[
            login
        ]

    async def sql(self, statement: str, *values: object, login: str = "") -> Any:
        """One value, asked as the superuser or as one of PAM's logins."""
        dsn = self.dsn(login) if login else self.platform.admin_dsn
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            cursor = await connection.execute(statement.encode(), values)
            row = await cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    async def person(self, *, org_id: str | None = None, role: str = "viewer") -> Person:
        """Sign somebody up: with an organisation of their own, or as a member of one that is there."""
        async with httpx.AsyncClient(
            base_url=self.platform.url, headers={"apikey": self.platform.publishable_key}, trust_env=False
        ) as http:
            account = {"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse battery"}
            session = (await http.post("/auth/v1/signup", json=account)).raise_for_status().json()
            user_id, token = session["user"]["id"], session["access_token"]
            if org_id:
                await self.sql("insert into pam.members values (%s, %s, %s)", org_id, user_id, role)
                return Person(user_id, token, org_id)
            headers = {"authorization": f"Bearer {token}", "content-profile": "pam"}
            made = await http.post("/rest/v1/rpc/create_organization", json={"name": "Team"}, headers=headers)
            org_id = made.raise_for_status().json()["org_id"]
            card = {"org_id": org_id, "name": "engineer", "definition": DEFINITION, "source": "# card"}
            answer = await http.post("/rest/v1/rpc/import_agent", json=card, headers=headers)
            assert "refused" not in answer.raise_for_status().json()
        return Person(user_id, token, org_id)

    async def claim(self, run_id: str) -> int:
        """Be the worker: answers the fence. The run's first event is now written."""
        claim = await self.sql("select pam_worker.claim_run(%s, 1, 'test', 60)", run_id, login="pam_worker")
        return int(claim["fence"])

    async def ask(self, run_id: str, fence: int) -> None:
        """Let the run wait for a person's answer."""
        question = call("ask_person", "pause", question="Which?")
        for verb, more in (
            ("record_step", {"step": step(), "calls": [question]}),
            ("interrupt_run", {"asks": [{"id": question["id"]}]}),
        ):
            names = "".join(f", {name} => %s::text::jsonb" for name in more)
            statement = f"select pam_worker.{verb}(run_id => %s, fence => %s, events => '[]'{names})"
            await self.sql(statement, run_id, fence, *map(json.dumps, more.values()), login="pam_worker")

    async def append(self, run_id: str, fence: int, *names: str) -> None:
        """Write an event for each name."""
        batch = [{"type": "CUSTOM", "name": name, "value": {"text": "zwei\nZeilen ✓"}} for name in names]
        await self.sql(
            "select pam_worker.append_events(%s, %s, %s::text::jsonb)",
            run_id, fence, json.dumps(batch), login="pam_worker",
        )  # fmt: skip

    async def finish(self, run_id: str, fence: int, outcome: str = "succeeded") -> None:
        """End the run with its last event."""
        last = [{"type": "RUN_FINISHED", "runId": run_id, "outcome": {"type": "success"}}]
        await self.sql(
            "select pam_worker.finish_run(%s, %s, %s, null, %s::text::jsonb)",
            run_id, fence, outcome, json.dumps(last), login="pam_worker",
        )  # fmt: skip


@pytest.fixture(scope="session")
async def pam() -> AsyncIterator[Pam]:
    """A stack without a worker: here the tests are the worker."""
    with temporary_state() as state:
        options = StackOptions(state=state, home=home(), model=None, workers=0, postgres_settings=FAST)
        async with running_stack(options) as facts:
            yield Pam(facts)


@pytest.fixture(scope="session")
async def ann(pam: Pam) -> Person:
    return await pam.person()


@pytest.fixture(scope="session")
async def bob(pam: Pam) -> Person:
    """Of another organisation than Ann."""
    return await pam.person()


@pytest.fixture
async def api(pam: Pam) -> AsyncIterator[httpx.AsyncClient]:
    """The app itself, asked in this process; PostgREST behind it is real."""
    app = create_app(pam.settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://pam") as client:
        yield client
    await app.state.house.http.aclose()


@pytest.fixture
async def run_id(api: httpx.AsyncClient, ann: Person) -> str:
    """A run of Ann's, queued."""
    question = {"agent": "engineer", "message": "Why is it slow?"}
    answer = await api.post(f"/v1/orgs/{ann.org_id}/runs", json=question, headers=ann.headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])
