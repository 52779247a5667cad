"""Schema changes: proposed by a run, tried and applied by the operator, approved by a person."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from workers.kernel.ledger.hold import Hold


class ChangeStatus(StrEnum):
    """Equal to pam.change_status."""

    PROPOSED = "proposed"
    CHECKING = "checking"
    REFUSED = "refused"
    CHECKED = "checked"
    APPROVED = "approved"
    APPLYING = "applying"
    APPLIED = "applied"
    FAILED = "failed"
    EXPORTED = "exported"


class SchemaChange(BaseModel):
    """A migration that a run proposed, and how it stands."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    name: str
    version: str
    sql_sha256: str
    status: ChangeStatus
    base: str | None
    failure: str | None
    acknowledged: dict[str, str]
    created_at: datetime
    sql: str = ""
    findings: list[dict[str, Any]] = []
    report: dict[str, Any] = {}

    @property
    def path(self) -> str:
        """Its file in a workspace, as the Supabase CLI names it."""
        return f"supabase/migrations/{self.version}_{self.name}.sql"


class AppliedMigration(BaseModel):
    """A row of the Supabase CLI's history."""

    model_config = ConfigDict(frozen=True)

    version: str
    name: str | None


class SchemaState(BaseModel):
    """The target's history, the organisation's latest changes and migration files."""

    model_config = ConfigDict(frozen=True)

    is_operator_alive: bool
    history: tuple[AppliedMigration, ...]
    changes: tuple[SchemaChange, ...]
    files: tuple[str, ...]


async def read_state(hold: Hold) -> SchemaState:
    """How things stand. Raises Refused(forbidden) when the organisation is not trusted with the schema."""
    return SchemaState.model_validate(await hold.call("schema_state"))


async def propose(
    hold: Hold, call_id: UUID, *, name: str, sql: str, findings: list[dict[str, Any]], acknowledged: dict[str, str]
) -> SchemaChange:
    """Keep a proposal, once a call. Raises Refused(forbidden | limit)."""
    return SchemaChange.model_validate(
        await hold.call(
            "propose_change", call=call_id, name=name, sql=sql, findings=findings, acknowledged=acknowledged
        )
    )


async def read(hold: Hold, change: UUID) -> SchemaChange:
    """One change with its report. Raises Refused(not_found | forbidden)."""
    return SchemaChange.model_validate(await hold.call("read_change", change=change))


async def request_check(hold: Hold, change: UUID) -> SchemaChange:
    """Ask the operator to try a change. Raises Refused(not_found | conflict | no_operator | forbidden)."""
    return SchemaChange.model_validate(await hold.call("request_check", change=change))


async def approve(hold: Hold, call_id: UUID, change: UUID, *, sql_sha256: str) -> SchemaChange:
    """Hand an approved change to the operator, once a call. Raises Refused(not_agreed | conflict | not_found)."""
    return SchemaChange.model_validate(
        await hold.call("approve_change", call=call_id, change=change, sql_sha256=sql_sha256)
    )


async def export(hold: Hold, call_id: UUID, change: UUID) -> SchemaChange:
    """Write a change into the workspace as a migration file. Raises Refused(conflict | not_found | limit)."""
    return SchemaChange.model_validate(await hold.call("export_change", call=call_id, change=change))
