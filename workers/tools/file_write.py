"""Create, overwrite or edit a file of the workspace; every version is kept."""

import asyncio

from pydantic import Field

from workers.kernel.errors import Refused
from workers.kernel.ledger import files
from workers.kernel.ledger.tool_calls import CallEffect
from workers.tools import file_diff, workspace_path
from workers.tools.failures import ToolRetry
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

MAX_BYTES = 1_048_576


class Edit(Arguments):
    """One exact replacement."""

    replace: str = Field(description="text that stands in the file exactly once")
    replacement: str = Field(default="", description="what to put in its place; leave out to delete it")


class Args(Arguments):
    """Either the whole content, or one or several exact replacements."""

    path: str = Field(description="workspace path, e.g. supabase/migrations/20260101120000_add_index.sql")
    content: str | None = Field(default=None, description="the whole new text; leave out to edit by replacement")
    replace: str | None = Field(default=None, description="text that stands in the file exactly once, to be replaced")
    replacement: str | None = Field(default=None, description="what to put in its place")
    edits: tuple[Edit, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=50,
        description="several replacements, made one after another and all or none; instead of replace and replacement",
    )
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
    before, expected = await _current(args, context, path)
    if args.version is not None and args.version != expected:
        raise ToolRetry(f"{path} is at version {expected}, not {args.version}: read it again and redo the change.")
    after = _edited(args, path, before)
    if len(after.encode(errors="replace")) > MAX_BYTES:
        raise ToolRetry("A text that this tool writes may hold 1 MiB: write less, or several files.")
    if expected and args.content is not None and args.version is None:
        raise ToolRetry(
            f"{path} exists already, at version {expected}: read it, then give version={expected} to overwrite it."
        )
    try:
        encoded = after.encode()
    except UnicodeEncodeError:
        raise ToolRetry("The content holds half a character (a lone surrogate): send valid Unicode.") from None
    diff = await asyncio.to_thread(file_diff.diff, path, before or "", after)  # what fails, fails first
    try:
        version = await files.write(context.hold, context.call_id, path, encoded, expected_version=expected)
    except Refused as refusal:
        raise ToolRetry(str(refusal)) from refusal
    return ToolResult(
        f"{path} is written, version {version}, {len(encoded)} bytes.\n{diff}",
        notes={"pam.file_changed": {"path": path, "version": version, "diff": diff}},
        origin=f"file {path}" if before else None,  # the diff says what stood there
    )


async def _current(args: Args, context: ToolContext, path: str) -> tuple[str | None, int]:
    """The file's text, None where there is none to edit, and its version, 0 where it is not there."""
    try:
        file = await files.read(context.hold, path)
    except Refused:
        return None, 0
    is_edit = args.content is None
    if is_edit and not file.is_text:
        raise ToolRetry(f"{path} is binary: it is overwritten whole, by content and version, or left as it is.")
    if is_edit and file.size_bytes > MAX_BYTES:
        raise ToolRetry(f"{path} holds {file.size_bytes:,} bytes: up to {MAX_BYTES:,} can be edited.")
    return file.content.decode() if file.is_text and file.content is not None else "", file.version


def _edited(args: Args, path: str, before: str | None) -> str:
    """The new text. Raises ToolRetry when the arguments do not say one."""
    if [args.content, args.replace, args.edits].count(None) != 2:
        raise ToolRetry(
            "Give either content (the whole text) or replace and replacement (an edit), not both; or edits alone."
        )
    if args.content is not None:
        return args.content
    if before is None:
        raise ToolRetry(f"There is no file {path} to edit: give content to create it.")
    text = before
    for edit in args.edits or (Edit(replace=args.replace or "", replacement=args.replacement or ""),):
        found = text.count(edit.replace) if edit.replace else 0
        if found != 1:
            which = f"The text to replace ({edit.replace[:80]!r})" if args.edits else "The text to replace"
            raise ToolRetry(
                f"{which} stands in {path} {found} times; it must stand there exactly once: "
                + ("copy it exactly as file_read shows it." if found == 0 else "take more of the lines around it.")
            )
        text = text.replace(edit.replace, edit.replacement)
    return text


TOOL = Tool(
    name="file_write",
    description="Create a file of the workspace (content), overwrite one (content and the version you read), or edit "
    "one by replacing text that stands in it exactly once (replace, replacement; several at once by edits). Answers "
    "the new version and a diff. Refused when somebody changed the file since you read it: read it again and redo the "
    "change.",
    arguments=Args,
    run=run,
    effect=CallEffect.WRITE,
    timeout_seconds=30,
    is_repeatable=True,
)
