"""The guard before a migration that a model wrote: statements of a closed list, on the team's own schemas, or why not.

The owner's connection runs what passes here, also in a dry run that nobody has approved. Therefore what is not known is
refused: statements, options, roles, schemas, functions. It judges the tree that PostgreSQL's own grammar makes
(libpg_query, PG 18), so quoted, commented and Unicode-escaped spellings are one spelling. What it lets pass is run one
statement at a time over the extended protocol, with `search_path = public, extensions`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from workers.tools import schema_reach, schema_statements
from workers.tools.schema_names import ChangeRefused
from workers.tools.schema_statements import Judged
from workers.tools.sql_functions import Node, pg, postgast, words
from workers.tools.sql_text import short, tree_of

_DecodeError = import_module("google.protobuf.message").DecodeError

MAX_CHARACTERS = 200_000
MAX_STATEMENTS = 200
MAX_BRACKETS = 100
MAX_CHAIN = 1_000
_FLAT = words("IDENT SCONST ICONST FCONST BCONST XCONST PARAM SQL_COMMENT C_COMMENT ASCII_46 ASCII_41 ASCII_93")


@dataclass(frozen=True)
class GuardedStatement:
    """A statement that may be tried.

    sql: its text alone. tag: what it does, for a report ("alter table"). reads_rows: what it answers depends on rows.
    is_single: it cannot run in a transaction. writes: the tables whose rows it changes, as (schema, name).
    """

    sql: str
    tag: str
    node: Node
    reads_rows: bool
    is_single: bool
    writes: tuple[tuple[str, str], ...]


def check_change(sql: str) -> tuple[GuardedStatement, ...]:
    """Let a whole migration pass, statement by statement. Raises ChangeRefused with the statement's number and why."""
    if len(sql) > MAX_CHARACTERS:
        raise ChangeRefused(f"A migration may have {MAX_CHARACTERS:,} characters, this one has {len(sql):,}: split it.")
    tree = tree_of(sql, _measure, ChangeRefused, advice="split the statement")
    if not tree.stmts:
        raise ChangeRefused("There is no statement in this text: write the migration's SQL.")
    if len(tree.stmts) > MAX_STATEMENTS:
        raise ChangeRefused(
            f"A migration may have {MAX_STATEMENTS} statements, this one has {len(tree.stmts)}: split it."
        )
    pieces = _pieces(sql, tree.stmts)[: len(tree.stmts)]
    found = [_judged(number, piece) for number, piece in enumerate(pieces, start=1)]
    _check_together(found)
    return tuple(found)


def as_recorded(sql: str) -> list[str]:
    """The pieces of a text that was checked, as the Supabase CLI records them: comments and all, without semicolons."""
    return _pieces(sql, postgast.parse(sql).stmts)


def _pieces(sql: str, statements: Sequence[Node]) -> list[str]:
    """Each statement with what stands before it, and what stands behind the last, if anything does."""
    raw, begins, pieces = sql.encode(), 0, []
    for statement in statements:
        ends = statement.stmt_location + statement.stmt_len if statement.stmt_len else len(raw)
        pieces.append(raw[begins:ends].decode().strip())
        begins = ends + 1
    rest = raw[begins:].decode().strip()
    return [*pieces, rest] if rest.strip("; \n\t\r") else pieces


def _judged(number: int, text: str) -> GuardedStatement:
    """Judge the very text that will run, whatever the whole was cut into."""
    statements = postgast.parse(text).stmts
    if len(statements) != 1:
        raise ChangeRefused(f"Statement {number} cannot be told from its neighbours: write one statement a line.")
    node = postgast.unwrap_node(statements[0].stmt)
    try:
        judged: Judged = schema_statements.judge(node)
    except ChangeRefused as refusal:
        raise ChangeRefused(f"Statement {number}: {refusal.sentence}") from refusal
    except postgast.PgQueryError as error:
        raise ChangeRefused(f"Statement {number}: the function's body: {short(error.message, 200)}.") from error
    except _DecodeError as error:
        raise ChangeRefused(f"Statement {number}: the function's body is nested too deeply: split it.") from error
    return GuardedStatement(
        text, judged.tag, node, judged.reads_rows, judged.is_single, tuple(schema_reach.written(node))
    )


def _check_together(found: list[GuardedStatement]) -> None:
    """What may not stand in one migration with something else. Raises ChangeRefused."""
    singles = [s for s in found if s.is_single]
    if singles and len(singles) != len(found):
        raise ChangeRefused(
            "CONCURRENTLY cannot run in a transaction: put it into a migration of its own, the rest stays atomic."
        )
    if any(isinstance(s.node, pg.CreateFunctionStmt | pg.CreateTrigStmt | pg.AlterFunctionStmt) for s in found):
        fresh = schema_reach.tables_made(s.node for s in found)
        for number, statement in enumerate(found, start=1):
            if statement.writes or (statement.reads_rows and schema_reach.table_of(statement.node) not in fresh):
                raise ChangeRefused(
                    f"Statement {number} touches rows, and the migration also defines functions or triggers, which "
                    "the rows could set off while it is tried: put the two into migrations of their own."
                )


def reads_old_rows(statements: tuple[GuardedStatement, ...]) -> bool:
    """Whether an answer of the database to this change depends on rows that were there before it."""
    fresh = schema_reach.tables_made(s.node for s in statements)
    return any(s.writes or (s.reads_rows and schema_reach.table_of(s.node) not in fresh) for s in statements)


def _measure(sql: str) -> None:
    """Bound the depth of the tree by its tokens before the recursive parser runs. Raises ChangeRefused."""
    levels = [0]
    for token in postgast.scan(sql).tokens:
        kind = str(pg.Token.Name(token.token))
        if kind in ("ASCII_40", "ASCII_91"):
            levels.append(0)
        elif kind in ("ASCII_41", "ASCII_93"):
            if len(levels) > 1:
                levels.pop()
        elif kind == "ASCII_59" or kind == "ASCII_44":
            levels[-1] = 0
        elif kind not in _FLAT:
            levels[-1] += 1
        if len(levels) > MAX_BRACKETS:
            raise ChangeRefused(f"Brackets are nested more than {MAX_BRACKETS} deep: split the statement.")
        if levels[-1] > MAX_CHAIN:
            raise ChangeRefused(f"One expression strings together more than {MAX_CHAIN:,} operators: split it.")
