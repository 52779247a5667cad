"""The one filter: whether a line is the organisation's own and what was looked for; and a page of those that are."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from workers.logs.lines import LEVELS, LogLine
from workers.logs.query import CORRELATION_FIELDS, Condition, LogQuery, Operator, Order, Page, cursor_after

_MISSING = object()


def matches(line: LogLine, query: LogQuery) -> bool:
    """Whether the line may be shown and fits. A line that names no organisation is nobody's, and never shown."""
    if query.org_id is not None and line.fields.get("org_id") != str(query.org_id):
        return False
    if not query.range.since <= line.at < query.range.until:
        return False
    if query.level and (line.level is None or LEVELS.index(line.level) < LEVELS.index(query.level)):
        return False
    if query.text and not _says(line, query.text.casefold()):
        return False
    if query.correlation_id and not any(
        _same(_found(line.fields, name), query.correlation_id) for name in CORRELATION_FIELDS
    ):
        return False
    return all(_holds(condition, line.fields) for condition in query.conditions)


def page_of(newest_first: Iterable[LogLine], query: LogQuery, *, caveat: str | None = None) -> Page:
    """The page of a store's lines, given newest first; reads no further than it must.

    Lines of one moment keep the order in which they came, so that going on skips those that were shown.
    """
    fitting = (line for line in newest_first if matches(line, query))
    wanted = query.limit + query.skip + 1
    if query.order is Order.NEWEST:
        lines = tuple(islice(fitting, wanted))
    else:
        oldest = list(deque(fitting, maxlen=wanted))
        oldest.reverse()
        lines = tuple(sorted(oldest, key=lambda line: line.at))
    shown = lines[query.skip : query.skip + query.limit]
    has_more = len(lines) == wanted
    return Page(shown, cursor_after(query, shown) if has_more and shown else None, caveat)


def _says(line: LogLine, text: str) -> bool:
    """Whether the text stands in the line as it is shown, or in one of its values as it was logged."""
    return text in line.text.casefold() or any(text in value.casefold() for value in _texts(line.fields))


def _texts(node: Any) -> Iterator[str]:
    match node:
        case str():
            yield node
        case dict():
            for value in node.values():
                yield from _texts(value)
        case list():
            for value in node:
                yield from _texts(value)


def _holds(condition: Condition, fields: dict[str, Any]) -> bool:
    found = _found(fields, condition.field)
    wanted = condition.value
    match condition.operator:
        case Operator.EXISTS:
            return (found is not _MISSING and found is not None) == bool(wanted)
        case Operator.EQ:
            return _same(found, wanted)
        case Operator.NE:
            return not _same(found, wanted)
        case Operator.CONTAINS:
            return isinstance(found, str) and str(wanted).casefold() in found.casefold()
        case Operator.GT | Operator.GE | Operator.LT | Operator.LE:
            return _compares(condition.operator, found, wanted)


def _found(fields: dict[str, Any], name: str) -> Any:
    """A field by its name, else by the dots in it."""
    if name in fields:
        return fields[name]
    node: Any = fields
    for part in name.split("."):
        if not isinstance(node, dict) or part not in node:
            return _MISSING
        node = node[part]
    return node


def _same(found: Any, wanted: Any) -> bool:
    """Equal as JSON writes them: the number 5 and the text "5" are one, true and 1 are not."""
    if found is _MISSING or isinstance(found, (dict, list)):
        return False
    if isinstance(found, bool) or isinstance(wanted, bool) or found is None or wanted is None:
        return found is wanted
    first, second = _number(found), _number(wanted)
    return first == second if first is not None and second is not None else str(found) == str(wanted)


def _compares(operator: Operator, found: Any, wanted: Any) -> bool:
    first, second = _number(found), _number(wanted)
    if first is None or second is None:
        if not isinstance(found, str) or not isinstance(wanted, str):
            return False
        order = (found > wanted) - (found < wanted)
    else:
        order = (first > second) - (first < second)
    match operator:
        case Operator.GT:
            return order > 0
        case Operator.GE:
            return order >= 0
        case Operator.LT:
            return order < 0
        case _:
            return order <= 0


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
