"""What a write changed, as a unified diff that `git apply` takes, small enough for an event."""

import difflib
from collections.abc import Iterator

MAX_CHARACTERS = 20_000
MAX_LINES = 6_000


def diff(path: str, before: str, after: str) -> str:
    """The change of one file. Cut beyond 20,000 characters; counted only where too many lines changed to compare."""
    old, new = _lines(before), _lines(after)
    head, tail = _shared(old, new)
    changed = len(old) + len(new) - 2 * (head + tail)
    if changed > MAX_LINES:  # comparing takes the square of them
        return f"--- a/{path}\n+++ b/{path}\n[{changed:,} lines of {len(old):,} before and {len(new):,} after differ]"
    # A few lines around the change are enough to compare: what begins and ends alike is left out.
    start, end = max(head - 3, 0), max(tail - 3, 0)
    inner = difflib.unified_diff(
        old[start : len(old) - end], new[start : len(new) - end], f"a/{path}", f"b/{path}", lineterm="\n"
    )
    text = "".join(_moved(inner, start)).removesuffix("\n")
    if len(text) > MAX_CHARACTERS:
        return f"{text[:MAX_CHARACTERS]}\n[diff cut: {len(text) - MAX_CHARACTERS:,} characters more]"
    return text


def _lines(text: str) -> list[str]:
    """Lines with their ends; only a line feed ends one, so that a change of \\r\\n is seen."""
    pieces = text.split("\n")
    return [f"{piece}\n" for piece in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])


def _shared(old: list[str], new: list[str]) -> tuple[int, int]:
    """How many lines both begin and end with."""
    shorter = min(len(old), len(new))
    head = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    rest = shorter - head
    tail = next((n for n in range(rest) if old[-1 - n] != new[-1 - n]), rest)
    return head, tail


def _moved(lines: Iterator[str], start: int) -> Iterator[str]:
    """The diff with its line numbers counted from the file's beginning, and ends of file without a line feed told."""
    for number, line in enumerate(lines):
        if number >= 2 and line.startswith("@@ "):
            old, new = line.split(" ")[1:3]
            yield f"@@ -{_counted(old[1:], start)} +{_counted(new[1:], start)} @@\n"
        elif line.endswith("\n"):
            yield line
        else:
            yield f"{line}\n\\ No newline at end of file\n"


def _counted(place: str, start: int) -> str:
    first, comma, size = place.partition(",")
    return f"{int(first) + start}{comma}{size}"
