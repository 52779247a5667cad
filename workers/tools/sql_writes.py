"""The parser layer for SQL that writes: one INSERT, UPDATE or DELETE of rows that it names, or why not.

The rules of reading (sql_guard) hold for every part of it. Besides: no WITH that writes, a WHERE that names a column
for UPDATE and DELETE, nothing that overrides a generated key. How many rows are too many is the database's to say.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from workers.tools.sql_functions import Node, pg, postgast, words
from workers.tools.sql_guard import StatementRefused, Walk, children, function_columns, parsed, verb

_NODES = words("SetToDefault MultiAssignRef OnConflictClause InferClause IndexElem ReturningClause")
# Volatile, and fit for a key: that it gives another in the write than in the rehearsal harms no approver.
_FUNCTIONS = frozenset({"gen_random_uuid"})
_VERBS = {"InsertStmt": "insert", "UpdateStmt": "update", "DeleteStmt": "delete"}
_RETURNING = pg.Token.Value("RETURNING")
_OPENERS, _CLOSERS = frozenset({40, 91}), frozenset({41, 93})


@dataclass(frozen=True)
class CheckedWrite:
    """A writing statement that may run.

    sql: the statement alone, without its RETURNING; said: the list behind RETURNING, None without one, "*" for all.
    row: how the target is called inside the statement, quoted. found: the columns whose new content the statement
    finds in the database, so that it is compared with what was shown; None when it finds none, empty for all of them.
    """

    verb: str
    sql: str
    said: str | None
    schema: str | None
    table: str
    row: str
    found: tuple[str, ...] | None
    parameter_count: int
    attributes: tuple[str, ...]


def check(sql: str) -> CheckedWrite:
    """Let one INSERT, UPDATE or DELETE of known parts pass. Raises StatementRefused for everything else."""
    bare, statement = parsed(sql)
    kind = type(statement).__name__
    if kind == "SelectStmt":
        raise StatementRefused("This statement reads: leave write: true out.")
    if kind not in _VERBS:
        raise StatementRefused(f"Only one INSERT, UPDATE or DELETE may run with write: true, not {verb(kind)}.")
    if kind != "InsertStmt" and not _names_a_column(statement.where_clause):
        raise StatementRefused(f"{verb(kind)} needs a WHERE that names a column; say which rows.")
    if kind == "InsertStmt" and statement.override != pg.OVERRIDING_NOT_SET:
        raise StatementRefused("OVERRIDING goes past a generated key; leave it out, and the key too.")
    if statement.returning_clause.options:
        raise StatementRefused("RETURNING takes no WITH here; name the columns.")
    walk = Walk(
        opened_functions=frozenset(),
        function_columns=function_columns(statement),
        more_nodes=_NODES,
        more_functions=_FUNCTIONS,
    )
    scope = walk.scope(statement, frozenset())
    for child in children(statement):
        if child is not None and not isinstance(child, pg.WithClause):
            walk.visit(child, scope)
    target = statement.relation
    body, said = _split(bare)
    if any(_is_star(item) for item in statement.returning_clause.exprs):
        said = "*"
    return CheckedWrite(
        verb=_VERBS[kind],
        sql=body,
        said=said,
        schema=target.schemaname or None,
        table=target.relname,
        row=_quoted(target.alias.aliasname or target.relname),
        found=_found(kind, statement),
        parameter_count=walk.count_parameters(),
        attributes=tuple(sorted(walk.attributes)),
    )


def _found(kind: str, statement: Node) -> tuple[str, ...] | None:
    """Which columns of a new row hold what a FROM or a sub-select finds, see CheckedWrite.

    A value that names no column and asks nobody (now(), gen_random_uuid(), a constant) is left out: it finds nothing.
    """
    if kind == "DeleteStmt":
        return None
    if kind == "UpdateStmt":
        return (_set(statement.target_list) or None) if statement.from_clause or _asks(statement) else None
    source = postgast.unwrap_node(statement.select_stmt)
    is_copy = isinstance(source, pg.SelectStmt) and not source.values_lists
    if not is_copy and not _asks(statement):
        return None
    named = tuple(item.res_target.name for item in statement.cols)
    return (*named, *_set(statement.on_conflict_clause.target_list)) if named else ()


def _set(target_list: Iterable[Node]) -> tuple[str, ...]:
    return tuple(
        item.res_target.name
        for item in target_list
        if any(isinstance(node, (pg.ColumnRef, pg.SubLink)) for _, node in postgast.walk(item.res_target.val))
    )


def _asks(statement: Node) -> bool:
    """Whether a new value may come from a sub-select; to take one of the WHERE for such a one does no harm."""
    return any(isinstance(node, pg.SubLink) for _, node in postgast.walk(statement))


def _names_a_column(where: Node) -> bool:
    """Whether a condition can tell rows apart: `true`, `1 = 1` and `$1` cannot."""
    return any(isinstance(node, pg.ColumnRef) for _, node in postgast.walk(where))


def _is_star(item: Node) -> bool:
    value = postgast.unwrap_node(item.res_target.val)
    return isinstance(value, pg.ColumnRef) and any(field.HasField("a_star") for field in value.fields)


def _split(bare: str) -> tuple[str, str | None]:
    """A statement without its own RETURNING, and what stands behind that word; both are tokens of the same text."""
    text, depth = bare.encode(), 0
    for token in postgast.scan(bare).tokens:
        if token.token in _OPENERS:
            depth += 1
        elif token.token in _CLOSERS:
            depth -= 1
        elif token.token == _RETURNING and depth == 0:
            return text[: token.start].decode(), text[token.end :].decode()
    return bare, None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
