"""The open tables, written for a model: what is there, what may be read and written, under which policies."""

from workers.kernel.ledger.tables import OpenFunction, OpenTable
from workers.tools.failures import ToolRetry

MAX_WHOLE = 30  # tables told in full; of more there is a list, and each can be asked for


def page(tables: list[OpenTable], functions: list[OpenFunction], name: str | None) -> str:
    """All tables and functions, or one table by its name. Raises ToolRetry when no such table is open."""
    if not tables:
        return "No table is open to agents yet: its owner runs select pam.open_to_agent('public.table')."
    person = f"In policies auth.uid() is {tables[0].person}, the person you work for."
    if name is not None:
        wanted = {name, f"public.{name}"}
        found = [table for table in tables if table.table in wanted]
        if not found:
            raise ToolRetry(
                f"{name} is not open to agents; open are: {', '.join(table.table for table in tables[:100])}."
            )
        return "\n".join([person, _whole(found[0])])
    if len(tables) > MAX_WHOLE:
        head = f"{len(tables)} tables are open; describe one by its name for columns, keys, indexes and policies."
        return "\n".join([person, head, *(_head(table) for table in tables), *_functions(functions)])
    return "\n".join([person, *(_whole(table) for table in tables), *_functions(functions)])


def _functions(functions: list[OpenFunction]) -> list[str]:
    """They run as the agents' role, so that what they know of auth.uid() is nothing."""
    told = [
        f"function {one.name}({one.arguments}) returns {one.returns}"
        + ("" if one.is_open else " (closed: it changed since it was opened, its owner must open it again)")
        + (f": {one.comment}" if one.comment else "")
        for one in functions
    ]
    return ["In a SELECT you may call, by its full name (auth.uid() is null inside):", *told] if told else []


def _head(table: OpenTable) -> str:
    told = f"{table.table} (about {table.estimated_rows:,} rows, {table.size}; {_open_for(table)})"
    return told + (f": {table.comment}" if table.comment else "")


def _open_for(table: OpenTable) -> str:
    if table.is_drifted:
        return "closed: its policies changed since it was opened, its owner must open it again"
    writes = table.writes
    if writes is None:
        return "read only"
    if writes.is_drifted:
        return "read only: what a write does changed since it was opened, its owner must open writes again"
    return f"read, {', '.join(writes.commands)}; at most {writes.max_rows} rows a write"


def _whole(table: OpenTable) -> str:
    writes = table.writes
    return "\n".join(
        [
            _head(table),
            *(f"  {column}" for column in table.columns),
            *(f"  foreign key: {key}" for key in table.foreign_keys),
            *(f"  {check}" for check in table.checks),
            *(f"  index: {index}" for index in table.indexes),
            *(
                f"  policy {p.name!r} for {p.command}"
                + (f" using {p.using}" if p.using else "")
                + (f" check {p.check}" if p.check else "")
                for p in table.policies
            ),
            *([f"  with a write runs: {writes.own_code}"] if writes and writes.own_code else []),
            *(["  a delete may reach rows of other tables"] if writes and writes.cascades else []),
        ]
    )
