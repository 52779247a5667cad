"""The doors that people, workers and a superuser go in by, each one connection that stays open, and what is behind them."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from infra.chaos.evidence import INVARIANTS
from tests.support.database import DEFINITION, Database

_RUNS = """
select r.id, r.status::text, r.reason, r.turn, r.attempt, r.steps, r.pauses, r.cost_usd, r.cancel_requested_at is not null as is_cancelling,
       r.after_run is not null as is_waiting, r.paused_at is not null as is_paused, r.is_rolled_back, r.tainted_at is not null as is_tainted, r.retried_by,
       h.fence, h.last_seq, h.lease_until is not null as has_lease, coalesce(h.lease_until > clock_timestamp(), false) as is_leased,
       (select count(*) from pam.steps s where s.org_id = r.org_id and s.run_id = r.id) as counted_steps,
       (select coalesce(jsonb_object_agg(c.id, c.status), '{}') from pam.tool_calls c where c.org_id = r.org_id and c.run_id = r.id) as calls,
       e.*
  from pam.runs r join pam_private.run_heads h on h.run_id = r.id,
  lateral (select coalesce(array_agg(t.seq order by t.seq), '{}') as seqs, count(*) filter (where t.is_terminal) as terminals,
                  count(*) filter (where t.payload ->> 'name' = 'pam.lost') as lost,
                  (array_agg(t.is_terminal order by t.seq desc))[1] as ends
             from (select v.seq, v.payload, v.type = 'RUN_ERROR' or (v.type = 'RUN_FINISHED'
                          and v.payload #>> '{outcome,type}' is distinct from 'interrupt') as is_terminal
                     from pam.events v where v.run_id = r.id) as t) as e
 where r.org_id = %s order by r.created_at"""


def told(answer: Any) -> str:
    """One word for an answer: ok, a refusal's code, or a SQLSTATE."""
    match answer:
        case psycopg.Error():
            return answer.sqlstate or "?"
        case {"refused": {"code": code}}:
            return str(code)
    return "ok"


class Doors:
    """Asks as whoever; an error of the database is an answer, too."""

    def __init__(self, *, admin: Any, owner: Any, worker: Any) -> None:
        self._admin, self._owner, self._worker = admin, owner, worker

    @classmethod
    @contextmanager
    def open(cls, database: Database) -> Iterator["Doors"]:
        """The doors of one database, until the end."""
        with ExitStack() as opened:
            admin, owner, worker = (
                opened.enter_context(psycopg.connect(dsn, autocommit=True, row_factory=dict_row))
                for dsn in (database.admin_dsn, database.owner_dsn, database.worker_dsn)
            )
            yield cls(admin=admin, owner=owner, worker=worker)

    def admin(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Ask as the superuser."""
        found = self._admin.execute(statement.encode(), values or None)
        return found.fetchall() if found.description else []

    def worker(self, verb: str, /, **given: Any) -> Any:
        """A worker's verb."""
        return self._asked(self._worker, f"pam_worker.{verb}", given)

    def rpc(self, person: UUID, function: str, /, **given: Any) -> Any:
        """A function of schema pam, as PostgREST calls it for this person."""
        with self._owner.transaction():
            claims = json.dumps({"sub": str(person), "role": "authenticated"})
            self._owner.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            self._owner.execute("set local role authenticated")
            return self._asked(self._owner, f"pam.{function}", given)

    def _asked(self, connection: Any, function: str, given: dict[str, Any]) -> Any:
        names = ", ".join(f"{name} => %({name})s" for name in given)
        values = {
            k: Jsonb(v) if isinstance(v, dict | list) else list(v) if isinstance(v, tuple) else v
            for k, v in given.items()
        }
        try:
            return connection.execute(f"select {function}({names}) as answer", values).fetchone()["answer"]
        except psycopg.Error as error:
            return error

    def new_organization(self, *, cap: int) -> tuple[dict[str, UUID], UUID]:
        """An organisation with an agent: its people, the boss who owns it and the asker who asks; and its id."""
        people = {name: uuid4() for name in ("boss", "asker")}
        for person in people.values():
            self.admin(
                "insert into auth.users (id, email, raw_app_meta_data, raw_user_meta_data) values (%s, %s, '{}', '{}')",
                person,
                f"{person}@example.com",
            )
        org = UUID(self.rpc(people["boss"], "create_organization", name="Team")["org_id"])
        card = {"name": "engineer", "definition": DEFINITION, "source": "# card"}
        assert "refused" not in self.rpc(people["boss"], "import_agent", org_id=org, **card)
        self.admin("insert into pam.members (org_id, user_id, role) values (%s, %s, 'developer')", org, people["asker"])
        self.admin("select pam.limit_organization(%s, %s)", org, cap)
        return people, org

    def runs(self, org: UUID) -> list[dict[str, Any]]:
        """An organisation's runs as they are, the oldest first."""
        return self.admin(_RUNS, org)

    def breaches(self) -> list[dict[str, Any]]:
        """What breaks the invariants that hold of every ended run."""
        found = self._admin.execute(INVARIANTS.read_text().encode())
        while found.nextset():
            pass
        return list(found.fetchall())

    def forget(self, org: UUID) -> None:
        """Take away what is in the organisation, so that the next story finds an empty house; the audit stays."""
        for table in ("threads", "members"):
            self.admin(f"delete from pam.{table} where org_id = %s", org)
