"""Which tables a statement of a migration reaches: whose rows it changes, and which the migration made itself."""

from collections.abc import Iterable, Iterator

from workers.tools.schema_names import children, own_table
from workers.tools.sql_functions import Node, pg


def written(node: Node) -> Iterator[tuple[str, str]]:
    """The tables whose rows a statement changes, also inside WITH."""
    if isinstance(node, pg.CreateFunctionStmt):
        return
    if isinstance(node, pg.InsertStmt | pg.UpdateStmt | pg.DeleteStmt):
        yield own_table(node.relation)
    for child in children(node):
        yield from written(child)


def table_of(node: Node) -> tuple[str, str] | None:
    """The one table that a statement is about."""
    return own_table(node.relation) if isinstance(node, pg.IndexStmt | pg.AlterTableStmt | pg.CreateStmt) else None


def tables_made(nodes: Iterable[Node]) -> frozenset[tuple[str, str]]:
    """Tables that a migration makes itself, so that they hold no rows; none where a name may come to mean another."""
    made = set()
    for node in nodes:
        match node:
            case pg.RenameStmt() | pg.AlterObjectSchemaStmt() | pg.DropStmt():
                return frozenset()
            case pg.CreateStmt() if node.HasField("partbound") or node.inh_relations:
                return frozenset()
            case pg.AlterTableStmt() if any(
                c.alter_table_cmd.subtype in (pg.AT_AttachPartition, pg.AT_AddInherit) for c in node.cmds
            ):
                return frozenset()
            case pg.CreateStmt() if not node.if_not_exists:
                made.add(own_table(node.relation))
    return frozenset(made)
