"""A plan as a model reads it: what Postgres does and how long it took, without what would count rows of other people.

Row-level security hides rows, but EXPLAIN ANALYZE counts them: rows removed by a filter, rows and loops of an inner
node, buffers, whether a subplan of a filter ran at all. Each tells whether a row is there that the person may not see
(an existence oracle), so none is shown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_TERMS = (
    "Index Cond", "Recheck Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter", "One-Time Filter", "Order By",
    "Sort Key", "Presorted Key", "Group Key",
)  # fmt: skip


def told(explained: Mapping[str, Any]) -> str:
    """Lines of one explained statement, from EXPLAIN (ANALYZE, FORMAT JSON)."""
    root = explained["Plan"]
    rows = int(root["Actual Rows"] * root["Actual Loops"])
    return "\n".join(
        [
            *_lines(root, 0, is_timed=True),
            f"Rows: {rows}",
            f"Planning Time: {explained['Planning Time']:.3f} ms",
            f"Execution Time: {explained['Execution Time']:.3f} ms",
        ]
    )


def _lines(node: Mapping[str, Any], depth: int, *, is_timed: bool) -> Iterator[str]:
    margin = "  " * depth
    is_timed = is_timed and "Subplan Name" not in node
    if "Subplan Name" in node:
        yield f"{margin}{node['Subplan Name']}"
    time = f", took {node['Actual Total Time'] * node['Actual Loops']:.3f} ms" if is_timed else ""
    yield f"{margin}{_name(node)} (cost {node['Total Cost']:.0f}{time})"
    for term in _TERMS:
        if term in node:
            value = node[term]
            yield f"{margin}    {term}: {', '.join(value) if isinstance(value, list) else value}"
    for below in node.get("Plans", ()):
        yield from _lines(below, depth + 1, is_timed=is_timed)


def _name(node: Mapping[str, Any]) -> str:
    """As EXPLAIN's text names it: Index Scan using tasks_pkey on tasks t."""
    words = [str(node["Node Type"])]
    if (kind := node.get("Join Type", "Inner")) != "Inner":
        words.append(str(kind))
    if "Index Name" in node:
        words.append(f"using {node['Index Name']}")
    if (source := node.get("Relation Name") or node.get("Function Name") or node.get("CTE Name")) is not None:
        words.append(f"on {source}" + (f" {node['Alias']}" if node.get("Alias") not in (None, source) else ""))
    return " ".join(words)
