"""Read a file of the workspace, whole, by line range or from a character on, at its newest or an earlier version."""

import base64

from pydantic import Field

from workers.kernel.errors import Refused
from workers.kernel.ledger.tool_calls import CallEffect
from workers.kernel.workspace import FileContent
from workers.tools import stored_results, workspace_path
from workers.tools.failures import ToolRetry
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

MAX_TEXT_CHARACTERS = 60_000
MAX_BINARY_BYTES = 32_768


class Args(Arguments):
    """Which file, and which lines or characters of it."""

    path: str = Field(description="workspace path, e.g. supabase/config.toml, or the .pam/results/… of a cut result")
    first_line: int | None = Field(default=None, ge=1, description="first line to read, counted from 1")
    last_line: int | None = Field(
        default=None, ge=1, description="last line to read; leave out for the rest of the file"
    )
    first_character: int | None = Field(
        default=None,
        ge=1,
        description="read from this character on, counted from 1, instead of by lines: for long lines and cut results",
    )
    version: int | None = Field(default=None, ge=1, description="an earlier version; leave out for the newest")


async def run(args: Args, context: ToolContext) -> ToolResult:
    """The file's text with its version and lines named, or base64 for a small binary file."""
    if stored_results.is_result(args.path):
        return await stored_results.read(context, args.path, first_character=args.first_character or 1)
    path = workspace_path.checked(args.path)
    if args.first_character is not None and (args.first_line or args.last_line):
        raise ToolRetry("Give lines or first_character, not both.")
    try:
        file = await context.services.workspace.read(context.hold, context.org_id, path, version=args.version)
    except Refused as refusal:
        if args.version is not None:
            raise ToolRetry(f"There is no version {args.version} of {path} in the workspace.") from refusal
        raise ToolRetry(f"There is no file {path} in the workspace: list the files first.") from refusal
    version = f"version {file.version}" + (f" of {file.newest}, an earlier one" if file.version < file.newest else "")
    if not file.is_text:
        return _binary(path, version, file)
    text = file.content.decode()
    where, part = _characters(path, text, args.first_character) if args.first_character else _lines(path, text, args)
    return ToolResult(f"{path} ({version}, {where}):\n{part}", origin=f"file {path}")


def _binary(path: str, version: str, file: FileContent) -> ToolResult:
    if file.size_bytes > MAX_BINARY_BYTES:
        raise ToolRetry(
            f"{path} is binary and holds {file.size_bytes:,} bytes; up to {MAX_BINARY_BYTES:,} can be shown."
        )
    shown = base64.b64encode(file.content).decode()
    return ToolResult(f"{path} ({version}, binary, {file.size_bytes} bytes, base64):\n{shown}", origin=f"file {path}")


def _lines(path: str, text: str, args: Args) -> tuple[str, str]:
    """The lines asked for, as many as can be read at once, and what they are of the file."""
    lines = _split(text)
    if not lines:
        return "empty", ""
    first, last = args.first_line or 1, min(args.last_line or len(lines), len(lines))
    if first > len(lines):
        raise ToolRetry(f"{path} has {len(lines)} lines; line {first} is beyond its end.")
    if first > last:
        raise ToolRetry("first_line must not lie behind last_line.")
    shown, size = first - 1, 0
    while shown < last and size + len(lines[shown]) <= MAX_TEXT_CHARACTERS:
        size += len(lines[shown])
        shown += 1
    if shown == first - 1:  # one line alone is too long
        before = sum(map(len, lines[: first - 1]))
        raise ToolRetry(
            f"Line {first} of {path} holds {len(lines[first - 1]):,} characters; {MAX_TEXT_CHARACTERS:,} can be read "
            f"at once: read on by characters, from first_character {before + 1}."
        )
    more = f"; {MAX_TEXT_CHARACTERS:,} characters can be read at once, go on with first_line {shown + 1}"
    where = f"lines {first}–{shown} of {len(lines)}{more if shown < last else ''}"
    return where, "".join(lines[first - 1 : shown])


def _split(text: str) -> list[str]:
    """Lines end with a line feed and nothing else, as search counts them."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _characters(path: str, text: str, first: int) -> tuple[str, str]:
    """The text from a character on, as much as can be read at once."""
    if first > len(text):
        raise ToolRetry(f"{path} holds {len(text):,} characters; {first:,} is beyond its end.")
    part = text[first - 1 : first - 1 + MAX_TEXT_CHARACTERS]
    last = first + len(part) - 1
    more = f"; go on with first_character {last + 1}" if last < len(text) else ""
    return f"characters {first}–{last} of {len(text)}{more}", part


TOOL = Tool(
    name="file_read",
    description="Read one file of the workspace, whole or by lines. Says the file's version, which file_write needs. "
    "Use file_list first when you do not know the path. Text is given as it is, up to 60,000 characters at once and "
    "with where to read on; a small binary file comes as base64. Also reads on in a result that was cut: its note "
    "names the path and the character.",
    arguments=Args,
    run=run,
    effect=CallEffect.READ,
    timeout_seconds=30,
    is_repeatable=True,
)
