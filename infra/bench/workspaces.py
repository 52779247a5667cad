"""Figures of the workspace at 10,000 files: the tool that lists, and the same tool searching."""

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import LiteralString, cast
from uuid import UUID, uuid4

import psycopg

from infra.bench.calls import held_run
from infra.bench.measure import Row, Timed, compared
from infra.bench.runs import Bench
from workers.kernel.ledger.hold import Hold
from workers.kernel.worker_gateway import WorkerGateway
from workers.tools import file_list
from workers.tools.tool import ToolContext, ToolServices

FILES = 10_000
WORD, FOUND = "heron_count", 20
# 4 kB a file in lines of 60 characters; twenty of them hold the word that is searched.
_FILL: LiteralString = """
with content as (
  select n, convert_to(string_agg(case when n %% %(every)s = 0 and l = 30 then %(word)s
                                       else md5(n::text || l) || ' ' || left(md5(l::text), 26) end,
                                  E'\\n' order by l), 'UTF8') as bytes
    from generate_series(1, %(files)s) n, generate_series(1, 66) l group by n),
file as (
  insert into pam.files (org_id, path, version, sha256, size_bytes, is_text, kept_bytes, updated_by)
  select %(org)s, format('app/m%%s/f%%s.py', n %% 100, n), 1, encode(sha256(bytes), 'hex'), octet_length(bytes), true,
         octet_length(bytes), %(user)s from content returning org_id, id, path, sha256, size_bytes)
insert into pam.file_versions (org_id, file_id, version, content, sha256, size_bytes, created_by, stored_at)
select f.org_id, f.id, 1, c.bytes, f.sha256, f.size_bytes, %(user)s, now()
  from file f join content c on f.path = format('app/m%%s/f%%s.py', c.n %% 100, c.n)
"""
_INDEX: LiteralString = "select path, size_bytes, version, is_text from pam.files where org_id = %s order by path"


@asynccontextmanager
async def _filled(bench: Bench) -> AsyncIterator[ToolContext]:
    """A run in whose organisation lie ten thousand files."""
    person = UUID(bench.person.user_id)
    org = UUID(str((await bench.person.call("create_organization", name="Ten thousand files"))["org_id"]))
    definition = {"instructions": "You measure.", "tools": ["file_list"], "conduct_tools": []}
    await bench.person.call("import_agent", org_id=str(org), name="bench", definition=definition, source="# bench")
    values = {"org": org, "user": person, "files": FILES, "word": WORD, "every": FILES // FOUND}
    async with await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as connection:
        await connection.execute(_FILL, values)
        await connection.execute("analyze pam.files, pam.file_versions")
        run_id = await held_run(connection, org, person)
    gateway = WorkerGateway(dsn=bench.facts.worker_dsn)
    await gateway.open()
    try:
        hold = Hold(gateway, run_id, 1)
        yield ToolContext(hold, org, uuid4(), is_repeat=False, services=cast(ToolServices, None))
    finally:
        await gateway.close()


def _used(context: ToolContext, expected: str, **arguments: str) -> Timed:
    args = file_list.Args(**arguments)

    async def once() -> float:
        began = time.perf_counter()
        result = await file_list.run(args, context)
        taken = time.perf_counter() - began
        if not result.text.startswith(expected):
            raise RuntimeError(f"expected {expected}, not {result.text.splitlines()[0]}")
        return taken

    return once


async def list_files(bench: Bench) -> Row:
    """file_list over everything, against the rows of the index as plain SQL gives them."""
    async with (
        _filled(bench) as context,
        await psycopg.AsyncConnection.connect(bench.facts.admin_dsn, autocommit=True) as connection,
    ):

        async def index() -> float:
            began = time.perf_counter()
            rows = await (await connection.execute(_INDEX, [context.org_id])).fetchall()
            if len(rows) != FILES:
                raise RuntimeError(f"the index has {len(rows)} rows")
            return time.perf_counter() - began

        listed = _used(context, f"{FILES} files match")
        return await compared(f"file_list of {FILES:,} files", listed, "the index as plain rows", index)


async def search_files(bench: Bench) -> Row:
    """file_list with search, against Python's re over the same files in a folder."""
    async with _filled(bench) as context:
        with tempfile.TemporaryDirectory(prefix="pam-bench-") as name:
            folder = Path(name)
            async with await psycopg.AsyncConnection.connect(bench.facts.admin_dsn) as connection:
                rows = await connection.execute(
                    "select content from pam.file_versions where org_id = %s", [context.org_id]
                )
                for number, (content,) in enumerate(await rows.fetchall()):
                    (folder / str(number)).write_bytes(content)

            async def scan() -> float:
                began = time.perf_counter()
                if (found := await asyncio.to_thread(_scan, folder)) != FOUND:
                    raise RuntimeError(f"{found} files hold the word")
                return time.perf_counter() - began

            searched = _used(context, f"{FOUND} lines match", search=f"^{WORD}")
            return await compared(
                f"search of {FILES:,} files, 41 MB", searched, "re over the same files in a folder", scan
            )


def _scan(folder: Path) -> int:
    wanted = re.compile(rf"^{WORD}", re.MULTILINE)
    return sum(bool(wanted.search(path.read_text())) for path in folder.iterdir())
