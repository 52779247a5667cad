"""Read a file of the workspace, whole or by line range."""

import base64

from pydantic import Field

from workers.kernel.errors import Refused
from workers.kernel.ledger import files
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools import workspace_path
from workers.tools.failures import ToolRetry
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

MAX_TEXT_CHARACTERS = 60_000
MAX_BINARY_BYTES = 32_768


class Args(Arguments):
    """Which file, and which lines of it."""

    path: str = Field(description="workspace path, e.g. supabase/config.toml")
    first_line: int = Field(default=1, ge=1, description="first line to read, counted from 1")
    last_line: int | None = Field(
        default=None, ge=1, description="last line to read; leave out for the rest of the file"
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """The file's text with its version and line numbers named, or base64 for a small binary file."""
    path = workspace_path.checked(args.path)
    try:
        file = await files.read(context.hold, path)
    except Refused as refusal:
        raise ToolRetry(f"There is no file {path} in the workspace: list the files first.") from refusal
    if not file.is_text:
        if file.size_bytes > MAX_BINARY_BYTES:
            raise ToolRetry(
                f"{path} is binary and holds {file.size_bytes:,} bytes; up to {MAX_BINARY_BYTES:,} can be shown."
            )
        return ToolResult(
            f"{path} (version {file.version}, binary, {file.size_bytes} bytes, base64):\n"
            + base64.b64encode(file.content).decode()
        )
    lines = file.content.decode().splitlines(keepends=True)
    last = min(args.last_line or len(lines), len(lines))
    if lines and args.first_line > len(lines):
        raise ToolRetry(f"{path} has {len(lines)} lines; line {args.first_line} is beyond its end.")
    if lines and args.first_line > last:
        raise ToolRetry("first_line must not lie behind last_line.")
    text = "".join(lines[args.first_line - 1 : last])
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ToolRetry(
            f"These lines of {path} hold {len(text):,} characters; {MAX_TEXT_CHARACTERS:,} can be read at once: "
            f"the file has {len(lines):,} lines, read a range."
        )
    where = f"lines {args.first_line}–{last} of {len(lines)}" if lines else "empty"
    return ToolResult(f"{path} (version {file.version}, {where}):\n{text}")


TOOL = Tool(
    name="file_read",
    description="Read one file of the workspace, whole or by lines. Says the file's version, which file_write needs. "
    "Use file_list first when you do not know the path. Text is given as it is, a small binary file as base64.",
    arguments=Args,
    run=run,
    effect=CallEffect.READ,
    timeout_seconds=10,
    is_repeatable=True,
)
