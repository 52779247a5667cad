"""Run a Python, shell or SQL program on files of the workspace, in a sandbox without network or secrets."""

import asyncio

from pydantic import Field

from workers.kernel.errors import Refused, Unavailable
from workers.kernel.ledger import files
from workers.kernel.ledger.files import FileEntry
from workers.kernel.ledger.tool_calls import CallEffect
from workers.kernel.workspace import FileContent
from workers.sandbox.sandbox import (
    MIB,
    InputFile,
    Language,
    Limits,
    Outcome,
    Program,
    SandboxRefused,
    Stop,
    signal_name,
)
from workers.tools import file_diff, workspace_path
from workers.tools.failures import ToolRefused, ToolRetry
from workers.tools.path_pattern import PathPattern
from workers.tools.tool import Arguments, Tool, ToolContext, ToolResult

ORIGIN = "program output"
MAX_FILES = 2_000
MAX_INPUT_BYTES = 64 * MIB
_READS_AT_ONCE = 8
_BRINGING_SECONDS = 40
_MAX_DIFF_BYTES = 1 * MIB
_WHY = {
    Stop.TIME: "it ran longer than {seconds} s",
    Stop.MEMORY: "its processes together held more memory than a program may (1 GiB)",
    Stop.HOST: "the machine that it ran on was short of memory, which is not the program's fault: try again later",
    Stop.FILES: "it made more files than a program may (20,000)",
    Stop.OUTPUT: "it printed more than a program may (8 MiB)",
}


class Args(Arguments):
    """What to run, on which files, for how long, and what of it stays."""

    language: Language = Field(description="python, shell (POSIX sh) or sql (psql on an empty Postgres of its own)")
    code: str = Field(min_length=1, max_length=200_000, description="the program")
    files: tuple[str, ...] = Field(
        default=(),
        max_length=100,
        description='workspace paths or globs to bring into its current folder, e.g. ["app/**", "pyproject.toml"]; '
        '["**"] brings all; default none',
    )
    timeout_seconds: int = Field(default=60, ge=1, le=120, description="stopped after this many seconds")
    keep: bool | tuple[str, ...] = Field(
        default=False,
        description="which changed files become new versions in the workspace when the exit code is 0: true for all, "
        "or globs; default none",
    )


def effect_of(args: Args) -> CallEffect:
    """A program whose files do not stay changes nothing."""
    return CallEffect.WRITE if args.keep else CallEffect.READ


async def run(args: Args, context: ToolContext) -> ToolResult:
    """Exit code, output, changed files and usage. Nothing outside the sandbox is touched, but for files to keep."""
    sandbox = context.services.sandbox
    kept_by = [PathPattern(pattern) for pattern in (("**",) if args.keep is True else args.keep or ())]
    try:
        async with asyncio.timeout(_BRINGING_SECONDS):
            brought = await _brought(args, context)
    except (Refused, Unavailable, TimeoutError) as error:
        why = str(error) or f"reading them took more than {_BRINGING_SECONDS} s"
        raise ToolRetry(f"The files could not be brought in, so nothing was run: {why}") from error
    inputs = tuple(InputFile(file.path, file.content) for file in brought)
    try:
        outcome = await sandbox.run(
            Program(args.language, args.code),
            inputs,
            Limits(wall_seconds=args.timeout_seconds),
            context.on_output,
        )
    except SandboxRefused as refusal:
        raise ToolRefused(str(refusal)) from refusal
    given = {file.path: file for file in brought}
    changes, written = await _changes(outcome, kept_by, given, context)
    notes = {"pam.files_changed": written} if written else {}
    return ToolResult(_told(args, outcome, changes), notes=notes, origin=ORIGIN)


async def _brought(args: Args, context: ToolContext) -> list[FileContent]:
    """The files that the call names, at their newest versions. Raises ToolRetry when they are too many or not there."""
    if not args.files:
        return []
    entries = await files.list_all(context.hold)
    wanted = await asyncio.to_thread(_matching, args.files, entries)
    size = sum(entry.size_bytes for entry in wanted)
    if len(wanted) > MAX_FILES or size > MAX_INPUT_BYTES:
        raise ToolRetry(
            f"These globs name {len(wanted):,} files of {size / MIB:.1f} MiB; a program gets {MAX_FILES:,} files and "
            f"{MAX_INPUT_BYTES // MIB} MiB at most: narrow them."
        )
    at_once = asyncio.Semaphore(_READS_AT_ONCE)

    async def read(entry: FileEntry) -> FileContent:
        async with at_once:
            try:
                return await context.services.workspace.read(context.hold, context.org_id, entry.path)
            except Refused as refusal:
                raise Refused(refusal.code, f"{entry.path}: {refusal}") from refusal

    try:
        async with asyncio.TaskGroup() as reading:
            tasks = [reading.create_task(read(entry)) for entry in wanted]
    except BaseExceptionGroup as errors:  # the first that failed ended the others
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _matching(patterns: tuple[str, ...], entries: list[FileEntry]) -> list[FileEntry]:
    found: dict[str, FileEntry] = {}
    for text in patterns:
        pattern = PathPattern(text)
        matched = [entry for entry in entries if pattern.matches(entry.path)]
        if not matched:
            raise ToolRetry(f"No file of the workspace matches {text!r}: file_list shows what is there.")
        found.update((entry.path, entry) for entry in matched)
    return list(found.values())


async def _changes(
    outcome: Outcome, kept_by: list[PathPattern], given: dict[str, FileContent], context: ToolContext
) -> tuple[list[str], list[dict[str, object]]]:
    """A line for each changed file, and what was written, with what changed in the texts that were given."""
    lines: list[str] = []
    written: list[dict[str, object]] = []
    room = file_diff.MAX_CHARACTERS  # for all of them together: they are one event
    for path, content in outcome.changed.items():
        if "__pycache__" in path.split("/"):
            continue
        size = f"{len(content):,} bytes"
        fault = workspace_path.fault(path)
        if fault:
            lines.append(f"{path!r}: left out: {fault}")
        elif not any(pattern.matches(path) for pattern in kept_by):
            lines.append(f"{path}: {size}, not kept")
        elif outcome.exit_code != 0:
            lines.append(f"{path}: {size}, not kept, because the program did not end with exit code 0")
        else:
            before = given.get(path)
            diff = await asyncio.to_thread(_diff, before, content, room) if before else None
            try:
                # Without the call's id, which stands for one file only; a lost call of this kind is not repeated.
                expected = before.version if before else 0
                version = await files.write(context.hold, None, path, content, expected_version=expected)
            except Refused as refusal:
                lines.append(f"{path}: {size}, NOT written: {refusal}")
                continue
            lines.append(f"{path}: {size}, kept as version {version}")
            room -= len(diff or "")
            told = {"path": path, "version": version, "size_bytes": len(content)}
            written.append({**told, "diff": diff} if diff is not None else told)
    lines += [f"{item.path!r}: left out: {item.why}" for item in outcome.left_out]
    return lines, written


def _diff(before: FileContent, after: bytes, room: int) -> str | None:
    """What changed in a text, or why that is not told; None for what is no text, before or after."""
    if not before.is_text or b"\0" in after:
        return None
    if room <= 0:
        return f"[diff left out: the event holds {file_diff.MAX_CHARACTERS:,} characters of diffs]"
    if before.size_bytes > _MAX_DIFF_BYTES:
        return f"[diff left out: the file held {before.size_bytes:,} bytes, and {_MAX_DIFF_BYTES:,} are compared]"
    try:
        return file_diff.diff(before.path, before.content.decode(), after.decode())
    except UnicodeDecodeError:
        return None


def _told(args: Args, outcome: Outcome, changes: list[str]) -> str:
    used = outcome.usage
    memory = f"{used.most_memory_bytes / MIB:.0f} MiB at most"
    usage = f"{used.wall_seconds:.2f} s, {used.cpu_seconds:.2f} s of processor, {memory}"
    if outcome.stopped:
        end = f"Stopped: {_WHY[outcome.stopped].format(seconds=args.timeout_seconds)}. No exit code."
    else:
        name = signal_name(outcome.exit_code or 0)
        end = f"Exit code {outcome.exit_code}{f' ({name})' if name else ''}."
    shown_bytes = len(outcome.output.encode(errors="replace"))
    cut = outcome.output_bytes - shown_bytes
    heading = f"Output, its last {shown_bytes:,} of {outcome.output_bytes:,} bytes:" if cut > 0 else "Output:"
    parts = [f"{end} {usage}.", f"{heading}\n{outcome.output}" if outcome.output else "No output."]
    if changes:
        parts.append("Changed files:\n" + "\n".join(changes))
    return "\n".join(parts)


TOOL = Tool(
    name="code_execution",
    description="Run a program in a sandbox: Python (numpy and pandas are there, nothing else can be installed), "
    "POSIX shell, or SQL on an empty PostgreSQL 18 with pgvector that is thrown away afterwards. Use it to compute, to "
    "transform files, to run tests of workspace files, or to try a migration. It has no network, no secrets, and not "
    "the organisation's database: use database_query for that. The current folder holds copies of the workspace files "
    "that you name in files. Answers the exit code, the output (stdout and stderr together, its last 200,000 bytes), "
    "changed files and usage. Changed files come back into the workspace only if keep names them and the exit code is "
    "0; a file that somebody changed meanwhile is not overwritten. Limits: 120 s, 1 GiB of memory, 64 processes, "
    "256 MiB of files.",
    arguments=Args,
    run=run,
    effect=CallEffect.WRITE,
    effect_of=effect_of,
    timeout_seconds=180,
    is_repeatable=False,
    max_parallel=2,
)
