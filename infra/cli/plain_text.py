"""What others wrote, made fit for a terminal and for a reviewer: no escapes, no turned writing, no markup."""

import json
import re
from typing import Any

from rich.markup import escape

# C0 without tab and line feed, DEL and C1; marks and overrides of the direction of writing, and what has no width.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def plain(text: str) -> str:
    """Without what moves a terminal or turns the direction of writing."""
    return _NO_TEXT.sub("", text.replace("\r\n", "\n"))


def shown(text: str) -> str:
    """The same for rich's markup: nothing in it is a style. Made plain first, lest a style come together afterwards."""
    return escape(plain(text))


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON for somebody who decides on it: what plain() takes out stands there as \\u and its number."""
    told = json.dumps(value, ensure_ascii=False, indent=indent)
    return _NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", told)
