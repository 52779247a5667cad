"""List the workspace by glob, with sizes, and search its text files by pattern."""

import asyncio

from pydantic import Field

from workers.kernel.ledger import files
from workers.kernel.ledger.files import FileEntry
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools.failures import ToolRetry
from workers.tools.needle import needle_of
from workers.tools.path_pattern import PathPattern
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

EVERYTHING = "**"
MAX_ENTRIES = 500
MAX_SEARCHED_BYTES = 1_048_576
MAX_LINES = 200
SEARCH_SECONDS = 5


class Args(Arguments):
    """Which files, and what to look for in them."""

    pattern: str = Field(
        default=EVERYTHING,
        max_length=400,
        description="glob over whole paths: * within a folder, ** across folders, ? one letter",
    )
    search: str | None = Field(
        default=None,
        min_length=1,
        max_length=300,
        description="a regular expression (POSIX, case-sensitive); answers matching lines instead of files",
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Paths with sizes and versions, or matching lines as path:line: text."""
    wanted = PathPattern(args.pattern)
    entries = await files.list_all(context.hold, beginning=wanted.beginning, ending=wanted.ending)
    found = await asyncio.to_thread(_matching, wanted, entries)  # the lease must go on beside 20,000 paths
    origin = f"names of files matching {args.pattern}"
    if args.search is None:
        lines = [
            f"{e.path}  {e.size_bytes} bytes  version {e.version}{'' if e.is_text else '  binary'}"
            for e in found[:MAX_ENTRIES]
        ]
        rest = [f"[{len(found) - MAX_ENTRIES} more: narrow the pattern]"] if len(found) > MAX_ENTRIES else []
        return ToolResult("\n".join([f"{len(found)} files match {args.pattern}", *lines, *rest]), origin=origin)
    try:
        # A time-out of the verb's own would not fire: the server reads it when a statement begins. This one cancels it.
        async with asyncio.timeout(SEARCH_SECONDS):
            paths = None if args.pattern == EVERYTHING else [e.path for e in found if e.is_text]
            needle = needle_of(args.search)
            hits = await files.search(context.hold, args.search, paths, max_lines=MAX_LINES, needle=needle)
    except TimeoutError:
        raise ToolRetry(
            f"The search took longer than {SEARCH_SECONDS} s: narrow the glob or simplify the expression."
        ) from None
    except Exception as error:
        if getattr(error, "sqlstate", None) == "2201B":
            raise ToolRetry(f"{args.search!r} is no regular expression: {str(error).splitlines()[0]}") from error
        raise
    lines = [f"{hit.path}:{hit.line}: {hit.text}" for hit in hits]
    rest = [f"[at least {MAX_LINES} lines: narrow the glob or the expression]"] if len(hits) == MAX_LINES else []
    rest += [f"[{large} files are larger than 1 MiB and were not searched]"] if (large := _large(found)) else []
    return ToolResult(
        "\n".join([f"{len(hits)} lines match in {len(found)} files", *lines, *rest]),
        origin=f"lines of files matching {args.pattern}",
    )


def _large(found: list[FileEntry]) -> int:
    return sum(entry.is_text and entry.size_bytes > MAX_SEARCHED_BYTES for entry in found)


def _matching(wanted: PathPattern, entries: list[FileEntry]) -> list[FileEntry]:
    return [entry for entry in entries if wanted.matches(entry.path)]


TOOL = Tool(
    name="file_list",
    description="List the files of the workspace with sizes and versions, or, with search, the lines of text files "
    "that match an expression. Start here to find your way.",
    arguments=Args,
    run=run,
    effect=CallEffect.READ,
    timeout_seconds=15,
    is_repeatable=True,
)
