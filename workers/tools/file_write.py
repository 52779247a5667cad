"""Create, overwrite or edit a file of the workspace; every version is kept."""

import difflib

from pydantic import Field

from workers.kernel.errors import Refused
from workers.kernel.ledger import files
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools import workspace_path
from workers.tools.failures import ToolRetry
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

MAX_BYTES = 1_048_576
MAX_DIFF_CHARACTERS = 20_000


class Args(Arguments):
    """Either the whole content, or one exact replacement."""

    path: str = Field(description="workspace path, e.g. supabase/migrations/20260101120000_add_index.sql")
    content: str | None = Field(default=None, description="the whole new text; leave out to edit by replacement")
    replace: str | None = Field(default=None, description="text that stands in the file exactly once, to be replaced")
    replacement: str | None = Field(default=None, description="what to put in its place")
    version: int | None = Field(
        default=None,
        ge=1,
        description="the version you read; needed to overwrite a file that exists, leave out for a new file",
    )


async def run(args: Args, context: ToolContext) -> ToolResult:
    """The new version and the change as a diff. A file that somebody else changed meanwhile is not touched."""
    path = workspace_path.checked(args.path)
    if context.is_repeat and (version := await files.find_write(context.hold, context.call_id)) is not None:
        return ToolResult(f"{path} is written, version {version} (by this call, before its worker was lost).")
    before, expected = await _current(context, path)
    if args.version is not None and args.version != expected:
        raise ToolRetry(f"{path} is at version {expected}, not {args.version}: read it again and redo the change.")
    after = _edited(args, path, before)
    if len(after.encode(errors="replace")) > MAX_BYTES:
        raise ToolRetry("A workspace file may hold 1 MiB: write less, or several files.")
    if before is not None and args.content is not None and args.version is None:
        raise ToolRetry(
            f"{path} exists already, at version {expected}: read it, then give version={expected} to overwrite it."
        )
    try:
        encoded = after.encode()
    except UnicodeEncodeError:
        raise ToolRetry("The content holds half a character (a lone surrogate): send valid Unicode.") from None
    try:
        version = await files.write(context.hold, context.call_id, path, encoded, expected_version=expected)
    except Refused as refusal:
        raise ToolRetry(str(refusal)) from refusal
    diff = _diff(path, before or "", after)
    return ToolResult(
        f"{path} is written, version {version}, {len(encoded)} bytes.\n{diff}",
        notes={"pam.file_changed": {"path": path, "version": version, "diff": diff}},
    )


async def _current(context: ToolContext, path: str) -> tuple[str | None, int]:
    try:
        file = await files.read(context.hold, path)
    except Refused:
        return None, 0
    return (file.content.decode() if file.is_text else ""), file.version


def _edited(args: Args, path: str, before: str | None) -> str:
    """The new text. Raises ToolRetry when the arguments do not say one."""
    if (args.content is None) == (args.replace is None):
        raise ToolRetry("Give either content (the whole text) or replace and replacement (an edit), not both.")
    if args.content is not None:
        return args.content
    if before is None:
        raise ToolRetry(f"There is no file {path} to edit: give content to create it.")
    found = before.count(args.replace or "") if args.replace else 0
    if found != 1:
        raise ToolRetry(
            f"The text to replace stands in {path} {found} times; it must stand there exactly once: "
            + ("copy it exactly as file_read shows it." if found == 0 else "take more of the lines around it.")
        )
    return before.replace(args.replace or "", args.replacement or "")


def _diff(path: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{path}", f"b/{path}", lineterm="")
    text = "\n".join(lines)
    if len(text) > MAX_DIFF_CHARACTERS:
        return f"{text[:MAX_DIFF_CHARACTERS]}\n[diff cut: {len(text) - MAX_DIFF_CHARACTERS:,} characters more]"
    return text


TOOL = Tool(
    name="file_write",
    description="Create a file of the workspace (content), overwrite one (content and the version you read), or edit "
    "one by replacing text that stands in it exactly once (replace, replacement). Answers the new version and a diff. "
    "Refused when somebody changed the file since you read it: read it again and redo the change.",
    arguments=Args,
    run=run,
    effect=CallEffect.WRITE,
    timeout_seconds=15,
    is_repeatable=True,
)
