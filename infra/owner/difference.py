"""What a change makes of a schema: what comes, goes and changes, and who could read and write what before and after."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.owner.snapshot import Connection, Snapshot

MAX_LINES = 400
MAX_CHARACTERS = 100_000
ACTS = ("select", "insert", "update", "delete")
NOTHING, EVERY_ROW = "nothing", "every row"

_ACCESS = (Path(__file__).parent / "access.sql").read_bytes()

Access = dict[tuple[str, str, str], str]


async def read_access(connection: Connection, schemas: tuple[str, ...]) -> Access:
    """(table, role, act) → which rows: nothing, every row, or the policies' words."""
    async with connection.transaction():
        path = (await (await connection.execute("select current_setting('search_path')")).fetchone() or ("",))[0]
        await connection.execute("set local search_path = ''")
        rows = await (await connection.execute(_ACCESS, {"own": list(schemas)})).fetchall()
        await connection.execute("select set_config('search_path', %s, true)", [path])
    return {(str(table), str(role), str(act)): _rows_for(*rest) for table, role, act, *rest in rows}


def _rows_for(kind: str, has_right: bool, is_filtered: bool, asks_as_reader: bool, policies: list[str]) -> str:
    if not has_right:
        return NOTHING
    if kind in ("v", "m"):
        return "what the reader may see below it" if asks_as_reader else f"{EVERY_ROW} (as the view's owner)"
    if not is_filtered:
        return EVERY_ROW
    permissive = [one for one in policies if not one.startswith("!")]
    restrictive = [one[1:] for one in policies if one.startswith("!") and one[1:] != "true"]
    if not permissive:
        return NOTHING
    allowed = EVERY_ROW if "true" in permissive else "rows where " + " or ".join(permissive)
    return allowed + "".join(f", and only where {one}" for one in restrictive)


@dataclass(frozen=True)
class Difference:
    """Lines for a reader. `is_cut`: a line, or a part of one, was left out."""

    schema: list[str]
    access: list[str]
    is_cut: bool

    def as_json(self) -> dict[str, Any]:
        """As the report keeps it."""
        return {"schema": self.schema, "access": self.access, "is_cut": self.is_cut}


def compare(before: Snapshot, after: Snapshot, could: Access, can: Access) -> Difference:
    """What came (+), went (-) and changed (~), and whose access is another now."""
    schema = [
        f"+ {kind} {name}: {text}" if key not in before.items else f"~ {kind} {name}: {before.items[key]} → {text}"
        for key, text in sorted(after.items.items())
        if before.items.get(key) != text
        for kind, name in [key]
    ]
    schema += [f"- {kind} {name}" for kind, name in sorted(before.items) if (kind, name) not in after.items]
    access = [
        f"{table} · {role} may {act}: {was} → {now}"
        for table, role, act in sorted({*could, *can}, key=lambda key: (key[0], key[1], ACTS.index(key[2])))
        if (was := could.get((table, role, act), NOTHING)) != (now := can.get((table, role, act), NOTHING))
    ]
    told_schema, told_access = _fitting(schema), _fitting(access)
    return Difference(told_schema, told_access, is_cut=(told_schema, told_access) != (schema, access))


def _fitting(lines: list[str]) -> list[str]:
    """What is kept: so many lines, so many characters in all. Any less than everything is said to be cut."""
    kept, room = [], MAX_CHARACTERS
    for line in lines[:MAX_LINES]:
        kept.append(line[:room])
        room -= len(kept[-1])
    return kept
