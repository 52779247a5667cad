"""What a project's own schemas are at a moment, read from the catalogues, and the digest that names it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from workers.tools.schema_names import is_closed

Connection = psycopg.AsyncConnection[Any]
Item = tuple[str, str]  # kind, name

_ITEMS = (Path(__file__).parent / "snapshot.sql").read_bytes()


@dataclass(frozen=True)
class Snapshot:
    """Every thing of the team's schemas by kind and name, and the names of the schemas."""

    items: dict[Item, str]
    schemas: tuple[str, ...]

    def digest(self, history: list[tuple[str, str]] | None = None) -> str:
        """What names this state: the same for the same schema and history, wherever it lies."""
        told = [[*key, text] for key, text in sorted(self.items.items())]
        return hashlib.sha256(json.dumps([told, history or []]).encode()).hexdigest()

    def without(self, indexes: Sequence[str]) -> "Snapshot":
        """The same without these indexes, by their quoted names, and what is said of them."""
        left_out = {("index", name) for name in indexes} | {("comment", f"index {name}") for name in indexes}
        return Snapshot({key: text for key, text in self.items.items() if key not in left_out}, self.schemas)


async def own_schemas(connection: Connection) -> tuple[str, ...]:
    """The schemas that are neither PostgreSQL's nor the platform's nor PAM's."""
    rows = await (await connection.execute("select nspname::text from pg_catalog.pg_namespace order by 1")).fetchall()
    return tuple(str(row[0]) for row in rows if not is_closed(str(row[0])))


async def take(connection: Connection) -> Snapshot:
    """Read the catalogues. Inside a transaction it sees what the transaction made."""
    schemas = await own_schemas(connection)
    async with connection.transaction():
        path = (await (await connection.execute("select current_setting('search_path')")).fetchone() or ("",))[0]
        await connection.execute("set local search_path = ''")
        cursor = await connection.execute(
            "select array(select n.oid from pg_catalog.pg_namespace n where n.nspname = any(%s))", [list(schemas)]
        )
        own: list[int] = (await cursor.fetchone() or ([],))[0]
        rows = await (await connection.execute(_ITEMS, {"own": own})).fetchall()
        await connection.execute("select set_config('search_path', %s, true)", [path])
    return Snapshot({(str(kind), str(name)): str(text or "") for kind, name, text in rows}, schemas)


async def history(connection: Connection) -> list[tuple[str, str]]:
    """What the Supabase CLI knows to be applied, in order: (version, name)."""
    rows = await (
        await connection.execute("select version, coalesce(name, '') from pam_private.migration_history()")
    ).fetchall()
    return [(str(version), str(name)) for version, name in rows]
