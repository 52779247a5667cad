"""SQL as a text: what the parser in C may be given at all, and what its complaints mean in a sentence."""

import re
from collections.abc import Callable
from importlib import import_module

from workers.tools.sql_functions import Node, postgast

_DecodeError = import_module("google.protobuf.message").DecodeError
_LONG_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|`?]{201}")

Refusal = Callable[[str], Exception]  # makes the exception of whoever asks from a sentence


def short(text: str, characters: int = 80) -> str:
    """A name for a sentence, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[:characters]}…"


def tree_of(sql: str, measure: Callable[[str], None], refusal: Refusal, *, advice: str) -> Node:
    """The tree of a text that `measure` finds shallow enough for the recursive parser.

    Raises what `refusal` makes of a sentence; `advice` says what to write instead of what is nested too deeply.
    """
    if "\0" in sql:  # C would read up to here and judge another text than the one that runs
        raise refusal("The text holds a NUL character; remove it.")
    if _LONG_OPERATOR.search(sql):
        raise refusal("The text holds a run of more than 200 operator characters; shorten it.")
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise refusal("The text is not valid Unicode (a lone surrogate); write plain text.") from error
    try:
        measure(sql)
        return postgast.parse(sql)
    except postgast.PgQueryError as error:
        line = sql.encode()[: max(error.cursorpos - 1, 0)].count(b"\n") + 1
        raise refusal(f"Not valid PostgreSQL, line {line}: {short(error.message, 200)}.") from error
    except UnicodeDecodeError as error:  # libpg_query cut its message inside a character
        raise refusal("Not valid PostgreSQL: correct the syntax.") from error
    except _DecodeError as error:  # protobuf reads 100 levels, about 45 operators in a chain
        raise refusal(f"The expressions are nested too deeply or chained too long: {advice}.") from error
