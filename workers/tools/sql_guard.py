"""The parser layer for SQL that a model wrote: one reading statement of known parts, or why not.

This is the second layer. Tenants are kept apart by the transaction-bound identity, not by this file; the
guard is first against what the binding cannot stop: resource bombs, functions with effects, catalogs,
other sessions' text. It judges the tree that PostgreSQL's own grammar (libpg_query, PG 18) makes, so
quoted, qualified, commented and Unicode-escaped spellings are one spelling. What it does not know, it
refuses: node types, functions, operators, types. It cannot see the catalog, therefore two things stay
with its caller. Statements need timeouts and caps: recursive CTEs, cross joins and `||` over CTEs are
allowed and can grow. And `u.f` on a table may call the team's own function f(users), as PostgREST's
computed fields do: `attributes` lists such names for a look into pg_proc. Run `CheckedStatement.sql` over
the extended protocol only, with `standard_conforming_strings` on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from workers.tools.sql_functions import (
    CLOCK_VALUES,
    CLOSED_SCHEMAS,
    EXTENSION_TYPES,
    FUNCTIONS,
    OPERATORS,
    OUTPUT_COLUMNS,
    TYPES,
    Node,
    excess,
    last_name,
    pg,
    postgast,
    words,
)
from workers.tools.sql_text import short, tree_of

_Message = import_module("google.protobuf.message").Message

MAX_CHARACTERS = 100_000
MAX_BRACKETS = 200
# The C parser recurses once per level of the tree; 1,000 levels need about 1.2 MB of stack, measured.
MAX_CHAIN = 1_000
# The lexer is more than linear in runs of these: 49,000 times `/*` takes it 11 s, 99,000 times `+` 53 s.
MAX_PARAMETERS = 1_000
MAX_TYPE_LENGTH = 10_000

_NODES = words(
    """SelectStmt WithClause CommonTableExpr CTESearchClause CTECycleClause ResTarget ColumnRef A_Star
    A_Indices A_Indirection A_ArrayExpr A_Const A_Expr Integer Float Boolean String BitString List ParamRef
    BoolExpr NullTest BooleanTest CaseExpr CaseWhen CoalesceExpr MinMaxExpr RowExpr SubLink GroupingFunc
    GroupingSet TypeCast TypeName CollateClause FuncCall NamedArgExpr SQLValueFunction SortBy WindowDef
    Alias RangeVar RangeSubselect RangeFunction RangeTableSample JoinExpr ColumnDef JsonFormat JsonReturning
    JsonOutput JsonValueExpr JsonArgument JsonBehavior JsonIsPredicate JsonFuncExpr JsonParseExpr
    JsonScalarExpr JsonSerializeExpr JsonKeyValue JsonObjectConstructor JsonArrayConstructor
    JsonArrayQueryConstructor JsonAggConstructor JsonObjectAgg JsonArrayAgg JsonTable JsonTableColumn
    JsonTablePathSpec"""
)
_REFUSED_NODES = {
    "IntoClause": "SELECT INTO makes a table; read the rows instead, or propose a supabase_migrate",
    "LockingClause": "FOR UPDATE and FOR SHARE lock rows; leave the locking clause out",
    "RangeTableFunc": "XMLTABLE is not available; work on json instead",
    "XmlExpr": "XML functions are not available; work on json instead",
    "XmlSerialize": "XML functions are not available; work on json instead",
}
_ADVICE = {
    "ExplainStmt": "EXPLAIN is an option of the tool: send the bare SELECT and set explain",
    "VariableSetStmt": "settings cannot be changed here; leave SET out",
    "VariableShowStmt": "settings cannot be read here; leave SHOW out",
    "TransactionStmt": "the tool opens and closes the transaction itself; send only the SELECT",
}
_SAMPLING = frozenset({"bernoulli", "system"})
_WRITES = frozenset({"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
# Tokens that open no new level of the tree. Everything else counts, so a keyword of tomorrow counts too.
_FLAT_TOKENS = frozenset(
    pg.Token.Value(name)
    for name in words(
        """IDENT UIDENT SCONST USCONST ICONST FCONST BCONST XCONST PARAM ASCII_46 ASCII_59 AND OR WHEN THEN
        SELECT FROM WHERE AS ON BY ASC DESC NULL_P TRUE_P FALSE_P ASCII_41 ASCII_93"""
    )
)
_COMMENTS = frozenset({pg.Token.Value("SQL_COMMENT"), pg.Token.Value("C_COMMENT")})
_SET_OPERATIONS = frozenset(pg.Token.Value(name) for name in ("UNION", "INTERSECT", "EXCEPT"))
_OPENERS, _CLOSERS = frozenset({40, 91}), frozenset({41, 93})
_COMMA, _SEMICOLON = 44, 59


class StatementRefused(Exception):
    """The statement may not run; the sentence names the part and what to write instead."""


class FunctionClosed(StatementRefused):
    """It calls a function that is neither built in and harmless nor open to agents."""


@dataclass(frozen=True)
class CheckedStatement:
    """A statement that may run.

    sql: the statement alone, without outer comments and semicolon, so that it can be wrapped or explained.
    parameter_count: the highest n of $n; 1…n are all used.
    tables: what it reads, in order of appearance, as (schema or None, name), CTEs excluded.
    attributes: names after a dot, sorted; each is a column, or the call of a function of the team's own.
    """

    sql: str
    parameter_count: int
    tables: tuple[tuple[str | None, str], ...]
    attributes: tuple[str, ...]


def check(sql: str, *, opened_functions: frozenset[str] = frozenset()) -> CheckedStatement:
    """Let one SELECT, VALUES, TABLE or set operation of known parts pass.

    opened_functions: the team's own functions that are open to agents, each as `schema.name`.
    Raises FunctionClosed for any other function, StatementRefused for everything else, whatever the text.
    """
    bare, statement = parsed(sql)
    if not isinstance(statement, pg.SelectStmt):
        raise StatementRefused(_not_a_select(type(statement).__name__))
    walk = Walk(opened_functions=opened_functions, function_columns=function_columns(statement))
    walk.visit(statement, frozenset())
    return CheckedStatement(bare, walk.count_parameters(), tuple(walk.tables), tuple(sorted(walk.attributes)))


def parsed(sql: str) -> tuple[str, Node]:
    """The bare text of one statement and its tree. Raises StatementRefused for what cannot be read."""
    if len(sql) > MAX_CHARACTERS:
        raise StatementRefused(
            f"The statement has {len(sql):,} characters, the limit is {MAX_CHARACTERS:,}; pass values as $1."
        )
    tree = tree_of(sql, _measure, StatementRefused, advice="use CTEs, in (…) or concat(…)")
    if len(tree.stmts) != 1:
        raise StatementRefused(f"Send exactly one statement, not {len(tree.stmts)}; make one call for each.")
    return _bare(sql), postgast.unwrap_node(tree.stmts[0].stmt)


def _bare(text: str) -> str:
    inner = [token for token in postgast.scan(text).tokens if token.token not in (_SEMICOLON, *_COMMENTS)]
    return text.encode()[inner[0].start : inner[-1].end].decode()


def _measure(text: str) -> None:
    """Bound the depth of the tree by its tokens, before the recursive parser runs.

    A level of the tree takes a bracket or a token outside _FLAT_TOKENS. A comma begins a new
    expression, but a chain of set operations goes on across it.
    """
    tokens = [token for token in postgast.scan(text).tokens if token.token not in _COMMENTS]
    levels: list[list[int]] = [[0, 0]]  # per open bracket: set operations, other tokens since the last comma
    total = 0
    for token in tokens:
        kind = token.token
        if kind in _CLOSERS and len(levels) > 1:
            total -= sum(levels.pop())
        elif kind == _COMMA:
            total -= levels[-1][1]
            levels[-1][1] = 0
        elif kind not in _FLAT_TOKENS:
            levels[-1][kind not in _SET_OPERATIONS] += 1
            total += 1
        if kind in _OPENERS:
            levels.append([0, 0])
        if len(levels) - 1 > MAX_BRACKETS:
            raise StatementRefused(f"Brackets are nested more than {MAX_BRACKETS} deep; split the work with CTEs.")
        if total > MAX_CHAIN:
            raise StatementRefused(
                f"One expression strings together more than {MAX_CHAIN:,} operators and keywords; "
                "use in (…), any($1) or a VALUES list."
            )


def children(message: Node) -> Iterator[Node]:
    """The parts of a node, one level down."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if isinstance(value, _Message) else value:
                child = postgast.unwrap_node(item)
                if not isinstance(child, pg.Node):  # an empty wrapper stands for "nothing here"
                    yield child


def function_columns(statement: Node) -> dict[str, frozenset[str]]:
    """For each alias of a function in FROM, the names that surely are its columns.

    `s.f` on a function's scalar result is the call f(s): `select s.current_setting from unnest(…) s`.
    Where one alias stands for several functions, only names that all of them have are sure.
    """
    columns: dict[str, frozenset[str]] = {}
    for _, node in postgast.walk(statement):
        if not isinstance(node, pg.RangeFunction) or not node.functions:
            continue
        call = postgast.unwrap_node(node.functions[0].list.items[0])
        name = last_name(call.funcname) if isinstance(call, pg.FuncCall) else ""
        alias = node.alias.aliasname or name
        declared = {column.string.sval for column in node.alias.colnames}
        declared |= {column.column_def.colname for column in node.coldeflist}
        sure = frozenset(declared or OUTPUT_COLUMNS | {alias})
        columns[alias] = columns[alias] & sure if alias in columns else sure
    return columns


class Walk:
    """One pass over the tree: refuses, and gathers tables, parameters and attributes."""

    def __init__(
        self,
        *,
        opened_functions: frozenset[str],
        function_columns: dict[str, frozenset[str]],
        more_nodes: frozenset[str] = frozenset(),
        more_functions: frozenset[str] = frozenset(),
    ) -> None:
        self._opened_functions = opened_functions
        self._function_columns = function_columns
        self._more_nodes = more_nodes
        self._functions = FUNCTIONS | more_functions
        self.tables: dict[tuple[str | None, str], None] = {}
        self.parameters: set[int] = set()
        self.attributes: set[str] = set()

    def count_parameters(self) -> int:
        """The highest n of $n. Raises StatementRefused when one below it is missing."""
        count = max(self.parameters, default=0)
        if count > MAX_PARAMETERS or len(self.parameters) != count:
            raise StatementRefused(f"Number the parameters $1, $2, … without a gap, at most ${MAX_PARAMETERS}.")
        return count

    def visit(self, node: Node, ctes: frozenset[str]) -> None:
        """Judge a part of the tree, with the names of the CTEs that it sees."""
        kind = type(node).__name__
        if kind not in _NODES | self._more_nodes:
            if kind in _WRITES:
                raise StatementRefused(f"{verb(kind)} inside WITH writes; only reading statements may run here.")
            raise StatementRefused(f"{_REFUSED_NODES.get(kind, f'{kind} is not known to the guard; leave it out')}.")
        match node:
            case pg.SelectStmt():
                ctes = self.scope(node, ctes)
            case pg.RangeVar():
                self.table(node, ctes)
            case pg.FuncCall():
                self._function(node)
            case pg.RangeFunction():
                self._function_in_from(node)
            case pg.ColumnRef():
                self._column(node)
            case pg.A_Indirection():
                self._field(node)
            case pg.A_Expr():
                self._builtin_only(node.name, "operator", OPERATORS)
            case pg.SubLink():
                self._builtin_only(node.oper_name, "operator", OPERATORS)
            case pg.SortBy():
                self._builtin_only(node.use_op, "operator", OPERATORS)
            case pg.TypeName():
                self._type(node)
            case pg.CollateClause():
                self._builtin_only(node.collname, "collation")
            case pg.SQLValueFunction():
                if pg.SQLValueFunctionOp.Name(node.op) not in CLOCK_VALUES:
                    raise StatementRefused("Names of roles, schemas and databases cannot be read here; leave it out.")
            case pg.RangeTableSample():
                self._builtin_only(node.method, "sampling method", _SAMPLING)
            case pg.ParamRef():
                self.parameters.add(node.number)
        for child in children(node):
            if not (isinstance(node, pg.SelectStmt) and isinstance(child, pg.WithClause)):
                self.visit(child, ctes)

    def scope(self, select: Node, ctes: frozenset[str]) -> frozenset[str]:
        """Visit the WITH list of a statement, each CTE seeing those before it (all if recursive); return the scope."""
        if not select.HasField("with_clause"):
            return ctes
        items = [item.common_table_expr for item in select.with_clause.ctes]
        if select.with_clause.recursive:
            ctes |= {item.ctename for item in items}
        for item in items:
            self.visit(item, ctes)
            ctes |= {item.ctename}
        return ctes

    def table(self, table: Node, ctes: frozenset[str]) -> None:
        """Judge a table's name and note it."""
        schema, name = table.schemaname or None, table.relname
        if table.catalogname:
            raise StatementRefused("Name tables as schema.table, without a database.")
        if schema is not None and CLOSED_SCHEMAS.match(schema.lower()):
            raise StatementRefused(
                f"The schema {short(schema)} is closed to agents; use the tool's schema introspection, "
                "or read the team's own tables."
            )
        if schema is None and name.lower().startswith("pg_"):
            raise StatementRefused(f"{short(name)} looks like a system catalog; use the tool's schema introspection.")
        if schema is not None or name not in ctes:
            self.tables[(schema, name)] = None

    def _function(self, call: Node) -> None:
        names = [part.string.sval for part in call.funcname]
        shown, name = short(".".join(names)), names[-1]
        if len(names) == 1 or (len(names) == 2 and names[0] == "pg_catalog"):
            if name not in self._functions:
                opted = sorted(full for full in self._opened_functions if full.endswith(f".{name}"))
                advice = "use a plain built-in, or a function of the team's that is open, as schema.name"
                if opted and len(names) == 1:
                    advice = f"write {opted[0]}(…)"
                raise FunctionClosed(f"The function {shown} is not on the list of allowed functions; {advice}.")
            fault = excess(name, call.args)
            if fault:
                raise StatementRefused(f"{fault}.")
        elif len(names) != 2 or ".".join(names) not in self._opened_functions:
            raise FunctionClosed(
                f"The function {shown} is not open to agents, or changed since it was: query without it, or ask for it."
            )

    def _function_in_from(self, node: Node) -> None:
        for item in node.functions:
            if not isinstance(postgast.unwrap_node(item.list.items[0]), pg.FuncCall):
                raise StatementRefused("FROM takes tables, subqueries and functions; put other expressions in SELECT.")

    def _column(self, column: Node) -> None:
        names = [field.string.sval for field in column.fields if field.HasField("string")]
        if len(column.fields) < 2 or len(names) != len(column.fields):
            return
        qualifier, name = names[-2:]
        if name not in self._function_columns.get(qualifier, {name}):
            raise StatementRefused(
                f"{short(f'{qualifier}.{name}')} could be a function call; name the columns of the function "
                f"in FROM, as in {short(qualifier)}(column), and give each such alias once."
            )
        self.attributes.add(name)

    def _field(self, node: Node) -> None:
        """`(x).f` calls f(x) if x has no field f, so only names that no built-in bears may follow."""
        for step in node.indirection:
            if step.HasField("string"):
                name = step.string.sval
                if name not in OUTPUT_COLUMNS:
                    raise StatementRefused(
                        f"(…).{short(name)} could be a function call; write to_jsonb(…) ->> 'field', or "
                        "name the column in a subquery."
                    )
                self.attributes.add(name)

    def _type(self, node: Node) -> None:
        names = [part.string.sval for part in node.names]
        known = names[-1] in TYPES and (len(names) == 1 or names[:-1] == ["pg_catalog"])
        known = known or (names[:-1] == ["extensions"] and names[-1] in EXTENSION_TYPES)
        if not known or node.setof:
            raise StatementRefused(
                f"The type {short('.'.join(names))} may not be cast to; compare with a literal ('open'), "
                "whose type PostgreSQL infers, or cast to a built-in type."
            )
        lengths = [item.a_const.ival.ival for item in node.typmods]
        if names[-1] != "interval" and any(length > MAX_TYPE_LENGTH for length in lengths):
            raise StatementRefused(f"A type's length may be at most {MAX_TYPE_LENGTH:,}.")

    def _builtin_only(self, names: Node, what: str, known: frozenset[str] | None = None) -> None:
        parts = [part.string.sval for part in names]
        foreign = len(parts) > 2 or (len(parts) == 2 and parts[0] != "pg_catalog")
        if foreign or (parts and known is not None and parts[-1] not in known):
            raise StatementRefused(f"The {what} {short('.'.join(parts))} is not a built-in; use one that is.")


def _not_a_select(kind: str) -> str:
    if kind in _WRITES:
        return f"{verb(kind)} writes; only a reading statement may run without write: true."
    advice = _ADVICE.get(kind, "changes of the schema go through supabase_migrate, data is read with SELECT")
    return f"Only one reading statement (SELECT, WITH, VALUES) may run here, not {verb(kind)}; {advice}."


def verb(kind: str) -> str:
    """A statement's node type in SQL's words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.removesuffix("Stmt").removeprefix("Variable")).upper()
