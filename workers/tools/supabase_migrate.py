"""Propose a change of the project's database schema, have it tried, and have it applied once a person approved it."""

import asyncio
from collections.abc import Iterator
from typing import Literal
from uuid import UUID

from pydantic import Field, model_validator

from workers.kernel.ledger import schema_changes
from workers.kernel.ledger.schema_changes import ChangeStatus, SchemaChange, SchemaState
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools import schema_lint
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.migration_report import is_cut, report_text
from workers.tools.schema_guard import check_change
from workers.tools.schema_names import ChangeRefused
from workers.tools.tool import Arguments, Shown, Tool, ToolContext, ToolResult

TIMEOUT_SECONDS = 150
PATIENCE_SECONDS = 120.0
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 2.0
MAX_SHOWN_CHARACTERS = 100_000
ORIGIN = "the project's database schema"
_TOO_MUCH = (
    f"A person must see all that they approve, and this is more than the {MAX_SHOWN_CHARACTERS:,} characters, or the "
    "400 lines, that are shown: split it into several changes, or leave comments out."
)
_UNDER_WAY = (ChangeStatus.CHECKING, ChangeStatus.APPROVED, ChangeStatus.APPLYING)


class Args(Arguments):
    """What to do, and with which change."""

    action: Literal["status", "propose", "check", "apply"] = Field(
        description="status: history, proposals, drift; propose: name and sql; check and apply: change"
    )
    name: str | None = Field(
        default=None, pattern=r"^[a-z][a-z0-9_]{0,79}$", description="propose: what the file is called, add_due_date"
    )
    sql: str | None = Field(
        default=None, min_length=1, max_length=200_000, description="propose: the migration, PostgreSQL statements"
    )
    acknowledge: dict[str, str] = Field(
        default_factory=dict,
        max_length=20,
        description="propose: rules whose errors must stand, each with the reason; the person who approves reads it",
    )
    change: UUID | None = Field(default=None, description="check, apply: the id that propose answered")

    @model_validator(mode="after")
    def _complete(self) -> "Args":
        if self.action == "propose" and not (self.name and self.sql):
            raise ValueError("propose needs name and sql")
        if self.action in ("check", "apply") and self.change is None:
            raise ValueError(f"{self.action} needs change, the id that propose answered")
        if any(not 10 <= len(reason) <= 500 for reason in self.acknowledge.values()):
            raise ValueError("a reason to acknowledge a rule has 10 to 500 characters")
        return self


def effect_of(args: Args) -> CallEffect:
    """Looking is reading; only applying cannot be undone."""
    return {"status": CallEffect.READ, "apply": CallEffect.IRREVERSIBLE}.get(args.action, CallEffect.WRITE)


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Do one of the four."""
    match args.action:
        case "status":
            return ToolResult(_told(await schema_changes.read_state(context.hold)), origin=ORIGIN)
        case "propose":
            return await _propose(args, context)
        case "check":
            return await _check(args, context)
        case "apply":
            return await _apply(args, context)


async def _propose(args: Args, context: ToolContext) -> ToolResult:
    assert args.name is not None
    assert args.sql is not None
    try:
        statements = await asyncio.to_thread(check_change, args.sql)
    except ChangeRefused as refusal:
        raise ToolRefused(refusal.sentence) from refusal  # a try at what is closed: the audit has it
    findings = [*await asyncio.to_thread(schema_lint.lint, statements), *await schema_lint.squawk(args.sql)]
    change = await schema_changes.propose(
        context.hold,
        context.call_id,
        name=args.name,
        sql=args.sql,
        findings=[finding.as_json() for finding in findings],
        acknowledged=args.acknowledge,
    )
    text = f"Proposed as change {change.id}. Nothing has been tried yet: mend what is found, or check it.\n"
    return ToolResult(text + report_text(change), notes=_noted(change))


async def _check(args: Args, context: ToolContext) -> ToolResult:
    assert args.change is not None
    await schema_changes.request_check(context.hold, args.change)
    change = await _until_done(context, args.change)
    match change.status:
        case ChangeStatus.CHECKED:
            text = "Checked, and rolled back. Call apply: a person with the right is asked.\n"
        case ChangeStatus.CHECKING:
            text = "It is still being tried: call check again to go on waiting.\n"
        case _:
            text = "It was not let through; nothing was changed.\n"
    return ToolResult(text + report_text(change), notes=_noted(change), origin=ORIGIN)


async def show(args: Args, context: ToolContext) -> Shown:
    """What the approver reads: what the change does and to whom, and to which text and schema the approval holds.

    Raises ToolRetry when it cannot be shown whole: nobody approves what they do not see.
    """
    assert args.change is not None
    change = await schema_changes.read(context.hold, args.change)
    state = await schema_changes.read_state(context.hold)
    if not state.is_operator_alive and change.status in (ChangeStatus.PROPOSED, ChangeStatus.CHECKED):
        first = "There is no operator: the change is exported as a migration file, and nothing is applied.\n"
    elif change.status is not ChangeStatus.CHECKED:
        raise ToolRetry(f"The change is {change.status.value}: only a checked one is applied. Call check first.")
    else:
        first = "This changes the database of the whole project. An admin or owner of the organisation must approve.\n"
    facts = {"change": str(change.id), "sql_sha256": change.sql_sha256, "base": change.base}
    text = f"{first}{report_text(change)}\n\nThe text:\n{change.sql}"
    if is_cut(change) or len(text) > MAX_SHOWN_CHARACTERS:
        raise ToolRetry(_TOO_MUCH)
    return Shown(text, facts)


async def _apply(args: Args, context: ToolContext) -> ToolResult:
    assert args.change is not None
    agreed = context.agreed
    if agreed is None or agreed.get("change") != str(args.change):
        raise ToolRefused("Nobody has approved this change: a person must be asked first.")
    if await _is_to_be_exported(args.change, context):
        return await _export(args.change, context)
    await schema_changes.approve(context.hold, context.call_id, args.change, sql_sha256=str(agreed.get("sql_sha256")))
    change = await _until_done(context, args.change)
    match change.status:
        case ChangeStatus.APPLIED:
            text = f"Applied as version {change.version}; the Supabase CLI's history has it. {_where(change)}\n"
            return ToolResult(text + report_text(change), notes=_noted(change), origin=ORIGIN)
        case ChangeStatus.APPROVED | ChangeStatus.APPLYING:
            text = "It is approved and waits for the operator: ask for status later, and do not propose it again."
            return ToolResult(text, notes=_noted(change))
        case _:
            raise ToolRetry(f"{change.failure or 'It was not applied.'} The change is {change.status.value}.")


async def _is_to_be_exported(change_id: UUID, context: ToolContext) -> bool:
    state = await schema_changes.read_state(context.hold)
    change = await schema_changes.read(context.hold, change_id)
    if change.status is ChangeStatus.EXPORTED:
        return True
    return not state.is_operator_alive and change.status not in (*_UNDER_WAY, ChangeStatus.APPLIED, ChangeStatus.FAILED)


async def _export(change_id: UUID, context: ToolContext) -> ToolResult:
    change = await schema_changes.export(context.hold, context.call_id, change_id)
    return ToolResult(
        f"No operator is there, so nothing was applied. The migration is the workspace file {change.path}: "
        "a person runs `supabase db push`, or starts `pam operator` and proposes it again.",
        notes=_noted(change),
    )


async def _until_done(context: ToolContext, change_id: UUID) -> SchemaChange:
    """The change once the operator is through with it, or as it stands when patience ends."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    for pause in pauses():  # the whole change comes with each look
        change = await schema_changes.read(context.hold, change_id)
        if change.status not in _UNDER_WAY or asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(pause)
    return change


def pauses() -> Iterator[float]:
    """Seconds between two looks at a change: short at first, for most are done soon."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(pause * 1.25, MAX_PAUSE_SECONDS)


def _where(change: SchemaChange) -> str:
    refused = change.report.get("file_refused")
    return f"The file {change.path} was not written: {refused}" if refused else f"The workspace has {change.path}."


def _noted(change: SchemaChange) -> dict[str, object]:
    return {
        "pam.schema_change": {
            "change": str(change.id), "name": change.name, "version": change.version,
            "sql_sha256": change.sql_sha256, "status": change.status.value,
        }
    }  # fmt: skip


def _told(state: SchemaState) -> str:
    known = {one.version for one in state.history}
    files = {path.rsplit("/", 1)[-1].partition("_")[0]: path for path in state.files}
    lines = ["Applied to the project (the Supabase CLI's history):"]
    lines += [f"  {one.version} {one.name or ''}".rstrip() for one in state.history] or ["  nothing"]
    drift = [f"  {path} is in the workspace and not applied" for version, path in files.items() if version not in known]
    drift += [f"  {version} is applied and has no file in the workspace" for version in sorted(known - files.keys())]
    lines += ["Drift between history and workspace:", *(drift or ["  none"])]
    lines += ["Changes of this organisation, newest first:"]
    lines += [
        f"  {one.id} {one.version}_{one.name}: {_standing(one, known)}" + (f" ({one.failure})" if one.failure else "")
        for one in state.changes
    ] or ["  none"]
    lines.append(
        "An operator is there." if state.is_operator_alive else "No operator is there: apply exports the file."
    )
    return "\n".join(lines)


def _standing(change: SchemaChange, known: set[str]) -> str:
    is_pushed = change.status is ChangeStatus.EXPORTED and change.version in known
    return "exported, and pushed by a person" if is_pushed else change.status.value


TOOL = Tool(
    name="supabase_migrate",
    description=(
        "Change the project's database schema (tables, columns, indexes, policies, functions, grants), which no "
        "other tool can. Work in this order: status (what is applied, what is proposed, drift); propose {name, "
        "sql} (linted at once; answers a change id); check {change} (tried by the operator and rolled back: "
        "errors, schema diff, who could read what before and after, locks, time); apply {change} (a person "
        "approves, then it is applied atomically and recorded like `supabase db push`; where no operator runs the "
        "migration file is exported to the workspace instead). Forward only: to undo, propose the opposite. Name "
        "schemas (public.tasks), enable row-level security on every new table, write policies to authenticated "
        "with (select auth.uid()). Not possible: DO blocks, dynamic SQL, roles, settings, CASCADE, anything in "
        "auth, storage, pam or other schemas of the platform. CONCURRENTLY needs a migration of its own, and so "
        "do changes of rows beside new functions. Not for reading data: use database_query."
    ),
    arguments=Args,
    run=run,
    effect=CallEffect.IRREVERSIBLE,
    timeout_seconds=TIMEOUT_SECONDS,
    is_repeatable=True,
    effect_of=effect_of,
    show=show,
    max_parallel=1,
)
