"""What the body of a function that a model wrote may hold: plain SQL that a reader can judge.

A body in SQL is judged by its parse tree. A body in PL/pgSQL is judged by PostgreSQL's own tokens, for its parser's
output is not complete: known statements only, no EXECUTE (nobody can review SQL that is put together later), no
statement that grants, defines, sets or ends a transaction, and only calls and names that a migration may write.
"""

from collections.abc import Sequence

from workers.tools.schema_names import ChangeRefused, check_after_a_dot, check_call, check_expressions, is_closed
from workers.tools.sql_functions import Node, pg, postgast, words
from workers.tools.sql_text import short

MAX_CHARACTERS = 40_000
_SQL = (pg.SelectStmt, pg.InsertStmt, pg.UpdateStmt, pg.DeleteStmt)
# After these words, a semicolon and a label a statement begins.
_OPENS = words("begin then else loop declare")
# Every word that begins a command in PostgreSQL's grammar, but those that a function's body may hold.
_COMMANDS = words(
    """abort alter analyse analyze call checkpoint cluster comment copy create deallocate discard do drop explain grant
    import listen load lock merge notify prepare reassign refresh reindex release repack reset revoke savepoint security
    set show start truncate unlisten vacuum wait"""
)
_NEVER = words("execute commit rollback")
_TYPES = words("vector halfvec sparsevec bit varbit geometry geography numeric decimal varchar char character")
# Words of PL/pgSQL that SQL does not know: a bracket behind them opens no call.
_OF_THE_LANGUAGE = words("perform while elsif elseif foreach loop assert exit raise")
_BEFORE_A_TABLE = words("into table")
_COMMENTS = ("SQL_COMMENT", "C_COMMENT")


def check_body(language: str, body: str) -> None:
    """Let the body of a function in sql or plpgsql pass. Raises ChangeRefused."""
    if len(body) > MAX_CHARACTERS:
        raise ChangeRefused(f"A function's body may have {MAX_CHARACTERS:,} characters: split it.")
    if "\0" in body:
        raise ChangeRefused("The function's body holds a NUL character; remove it.")
    if language == "sql":
        for statement in postgast.parse(body).stmts:
            check_query(postgast.unwrap_node(statement.stmt))
    else:
        _check_tokens(_tokens(body))


def check_query(statement: Node) -> None:
    """Let one statement of a body pass. Raises ChangeRefused."""
    if isinstance(statement, pg.ReturnStmt):
        check_expressions(statement, is_executed=False)
    elif not isinstance(statement, _SQL):
        kind = type(statement).__name__
        raise ChangeRefused(f"A function may select, insert, update and delete; {kind} is not for a function's body.")
    else:
        check_expressions(statement, is_executed=False)


class _Token:
    """A token: its word as PostgreSQL reads it, and what it is."""

    def __init__(self, text: str, kind: str, *, is_keyword: bool) -> None:
        self.is_name = kind == "IDENT" or is_keyword
        self.is_identifier = kind == "IDENT"
        self.kind = kind
        self.is_quoted = text.startswith('"')
        self.word = text[1:-1].replace('""', '"') if self.is_quoted else text.lower()

    def is_word(self, *wanted: str) -> bool:
        """Whether it is one of these words, not quoted."""
        return self.is_name and not self.is_quoted and self.word in wanted


def _tokens(body: str) -> list[_Token]:
    raw = body.encode()
    found = []
    for token in postgast.scan(body).tokens:
        kind = str(pg.Token.Name(token.token))
        if kind in ("UIDENT", "USCONST"):
            raise ChangeRefused('Names and texts in the form U&"…" hide what they say: write them plainly.')
        if kind not in _COMMENTS:
            found.append(_Token(raw[token.start : token.end].decode(), kind, is_keyword=token.keyword_kind > 0))
    return found


def _check_tokens(tokens: Sequence[_Token]) -> None:
    begins = True
    for place, token in enumerate(tokens):
        if token.is_word(*_NEVER):
            raise ChangeRefused(
                f"{token.word.upper()} may not stand in a function's body: "
                + (
                    "it runs SQL that nobody can review; write the statement out."
                    if token.is_word("execute")
                    else "a function neither ends nor begins a transaction."
                )
            )
        if begins and token.is_name and not token.is_quoted:
            _check_start(token)
        begins = token.kind == "ASCII_59" or token.is_word(*_OPENS) or token.word == ">>"
        follower = tokens[place + 1].kind if place + 1 < len(tokens) else ""
        if token.is_name and follower == "ASCII_46" and not _is_after_dot(tokens, place):
            _check_schema(tokens, place)
        if token.is_name and follower == "ASCII_40":
            _check_called(tokens, place)
        elif token.is_identifier and follower != "ASCII_46":
            _check_name(token, is_after_dot=_is_after_dot(tokens, place))


def _check_start(token: _Token) -> None:
    if token.word in _COMMANDS:
        raise ChangeRefused(
            f"A statement that begins with {token.word.upper()} is not for a function's body: "
            "it may select, insert, update, delete, assign, branch, loop, raise and return."
        )


def _check_name(token: _Token, *, is_after_dot: bool) -> None:
    """A name that is no call by its looks: behind a dot it may be one, and pg_… alone is a catalogue."""
    if is_after_dot:
        check_after_a_dot([token.word])
    elif token.word.lower().startswith("pg_"):
        raise ChangeRefused(
            f"{short(token.word)} looks like a system catalogue: a function of an agent leaves it alone."
        )


def _is_after_dot(tokens: Sequence[_Token], place: int) -> bool:
    return place > 0 and tokens[place - 1].kind == "ASCII_46"


def _check_schema(tokens: Sequence[_Token], place: int) -> None:
    """The first part of a dotted name: a schema of the platform may stand there only for what may be called."""
    token = tokens[place]
    if not is_closed(token.word):
        return
    name = tokens[place + 2] if place + 2 < len(tokens) else token
    is_table = place > 0 and tokens[place - 1].is_word(*_BEFORE_A_TABLE)  # insert into public.t (a, b)
    is_call = not is_table and place + 3 < len(tokens) and tokens[place + 3].kind == "ASCII_40"
    is_type = token.word in ("pg_catalog", "extensions") and not name.word.startswith("pg_")
    if not is_call and not is_type:
        raise ChangeRefused(
            f"{short(token.word)}.{short(name.word)} belongs to the platform or to PAM: "
            "a function of an agent leaves it alone."
        )


def _check_called(tokens: Sequence[_Token], place: int) -> None:
    token = tokens[place]
    if _is_after_dot(tokens, place):
        before = tokens[place - 2].word if place >= 2 else ""
        start = place - 2
        if _is_after_dot(tokens, start):
            raise ChangeRefused(f"Call functions as schema.name: {short(token.word)} has more parts.")
        if start > 0 and tokens[start - 1].is_word(*_BEFORE_A_TABLE):
            return  # insert into public.t (a, b)
        check_call([before, token.word], is_executed=False)
    elif token.is_identifier and token.word not in _TYPES and not token.is_word(*_OF_THE_LANGUAGE):
        if place > 0 and tokens[place - 1].is_word(*_BEFORE_A_TABLE):
            return
        check_call([token.word], is_executed=False)
