"""What ALTER TABLE may do in a migration of an agent, and which of it looks at the rows that are there."""

from collections.abc import Iterable

from workers.tools.schema_names import ChangeRefused, check_expressions, own_table
from workers.tools.sql_functions import Node, pg, postgast, words
from workers.tools.sql_text import short

_CHANGES = words(
    """AddColumn ColumnDefault DropNotNull SetNotNull SetExpression DropExpression SetStatistics SetStorage
    SetCompression DropColumn AddConstraint AlterConstraint ValidateConstraint AddIndexConstraint
    DropConstraint AlterColumnType SetRelOptions ResetRelOptions ReplicaIdentity EnableTrig EnableRowSecurity
    DisableRowSecurity ForceRowSecurity NoForceRowSecurity AttachPartition DetachPartition AddIdentity
    SetIdentity DropIdentity"""
)
_READING = words("SetNotNull SetExpression ValidateConstraint AddIndexConstraint AlterColumnType AttachPartition")
_OPTIONS = words(
    "fillfactor security_invoker security_barrier check_option m ef_construction lists fastupdate pages_per_range"
)
_WHY_NOT = {
    "ChangeOwner": "Everything belongs to the project's owner: leave OWNER TO out.",
    "DisableTrig": "Switching triggers off is for a person: write the change so that they may fire.",
    "DisableTrigAll": "Switching triggers off is for a person: write the change so that they may fire.",
    "DisableTrigUser": "Switching triggers off is for a person: write the change so that they may fire.",
}


def check_options(options: Iterable[Node]) -> None:
    """Let storage and view options of the list pass. Raises ChangeRefused."""
    for item in options:
        name = item.def_elem.defname
        if name not in _OPTIONS and not name.startswith("autovacuum_"):
            raise ChangeRefused(f"The option {short(name)} is not for migrations of an agent: leave it out.")


def check_alter_table(statement: Node) -> None:
    """Let the changes of one ALTER TABLE pass. Raises ChangeRefused."""
    for item in statement.cmds:
        change = item.alter_table_cmd
        kind = str(pg.AlterTableType.Name(change.subtype)).removeprefix("AT_")
        if kind not in _CHANGES:
            raise ChangeRefused(
                _WHY_NOT.get(kind, f"ALTER TABLE … {kind} is not for migrations of an agent: a person must run it.")
            )
        if change.behavior == pg.DROP_CASCADE:
            raise ChangeRefused("CASCADE takes away what nobody named: drop each thing by its name.")
        body = _body(change)
        if kind in ("SetRelOptions", "ResetRelOptions") and body is not None:
            check_options(body.items)
        elif kind in ("AttachPartition", "DetachPartition") and body is not None:
            if body.concurrent:
                raise ChangeRefused("DETACH … CONCURRENTLY is for a person: detach the partition in the transaction.")
            own_table(body.name)
        if body is not None:
            check_expressions(body, is_executed=True)


def _body(change: Node) -> Node:
    return postgast.unwrap_node(getattr(change, "def")) if change.HasField("def") else None


def alter_reads_rows(change: Node) -> bool:
    """Whether one change looks at the rows that are there, so that its outcome tells about them."""
    kind = str(pg.AlterTableType.Name(change.subtype)).removeprefix("AT_")
    body = _body(change)
    if kind == "AddConstraint":
        return not body.skip_validation
    if kind == "AddColumn":
        kinds = {c.constraint.contype for c in body.constraints}
        harmless = {pg.CONSTR_NULL, pg.CONSTR_DEFAULT}
        if pg.CONSTR_DEFAULT in kinds:
            harmless.add(pg.CONSTR_NOTNULL)
        return bool(kinds - harmless)
    return kind in _READING
