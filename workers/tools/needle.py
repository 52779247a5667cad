"""A text that every match of an expression must hold, found without understanding the expression: or none at all.

The database looks for it in a file's bytes before it takes the file apart into lines: that makes a search of ten
thousand files quick. Whatever is not plain here gives up, so that no line is ever missed.
"""

import re

MIN_CHARACTERS = 3
_PLAIN = re.compile(r"[\w \-=/:;,\"'<>@#%&!~`]", re.ASCII)
_CLASS = frozenset("dswDSW")  # one character of a kind: not known which
_GIVES_UP = frozenset("([{")
_WEAKENS = frozenset("*?{")


def needle_of(expression: str) -> str:
    """The longest such text of at least three characters; empty when there is none to be sure of."""
    if "|" in expression or expression.startswith("***"):
        return ""
    runs: list[str] = []
    run, place = "", 0
    while place < len(expression):
        letter = expression[place]
        if letter in _GIVES_UP:
            break
        following = expression[place + 1 : place + 2]
        if letter == "\\":
            if following not in _CLASS:
                break  # a reference, a character by number, a word's end …
            place += 1
            plain = ""
        else:
            plain = letter if _PLAIN.fullmatch(letter) and following not in _WEAKENS else ""
        if plain:
            run += plain
            if following == "+":
                runs, run = [*runs, run], ""
        else:
            runs, run = [*runs, run], ""
        place += 1
    longest = max([*runs, run], key=len)
    return longest if len(longest) >= MIN_CHARACTERS else ""
