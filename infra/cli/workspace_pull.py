"""`workspace pull`: a commit's files into the workspace, as the signed-in person."""

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from infra.cli.person import CommandFailed, Person
from infra.cli.repository import Remote, Repository, path_fault
from infra.cli.setting import place
from infra.cli.workspace import LEFT_OUT, Known, folder_of, known_files, sha256_of, some
from workers.tools import workspace_path

MAX_FILES_A_CALL, MAX_BYTES_A_CALL = 200, 4_194_304


async def run_pull(
    env: dict[str, str], given: str, *, ref: str | None, folder: str, overwrite: bool, console: Console
) -> dict[str, Any]:
    """Write what differs from the commit into the workspace, and remember the commit."""
    remote, folder = Remote.parse(given), folder_of(folder)
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        began = await person.call("read_workspace", org_id=org_id)
        known = await known_files(person, org_id, folder)
        earlier = await person.select("checkouts", "commit_id", org_id=org_id, remote=remote.name, path=folder)
        # The one place where this blocking library goes to a thread.
        pulled = await asyncio.to_thread(
            _pulled, remote, ref, folder, known, earlier[0]["commit_id"] if earlier else None, began
        )
        if pulled.conflicts and not overwrite:
            raise CommandFailed(
                f"these files were changed in the workspace: {some(pulled.conflicts)}; push them first, or pull with "
                "--overwrite (their earlier versions are kept)"
            )
        await _write(person, org_id, pulled.changed, known, console)
        await person.call(
            "record_checkout", org_id=org_id, remote=remote.name, path=folder, ref=pulled.ref,
            commit_id=pulled.commit_id, since=began["now"],
        )  # fmt: skip
    left_out = {why: len(paths) for why, paths in pulled.left_out.items()}
    written = len(pulled.changed)
    console.print(
        f"Pulled {pulled.ref} at {pulled.commit_id[:12]}: {written} files written, {pulled.unchanged} unchanged."
    )
    for why, paths in pulled.left_out.items():
        console.print(f"  left out, {why}: {some(paths)}", style="yellow", markup=False)
    return {
        "ref": pulled.ref,
        "commit": pulled.commit_id,
        "written": written,
        "unchanged": pulled.unchanged,
        "left_out": left_out,
    }


@dataclass(frozen=True)
class Pulled:
    """What a commit holds and the workspace has not."""

    ref: str
    commit_id: str
    changed: dict[str, bytes]
    unchanged: int
    conflicts: list[str]
    left_out: dict[str, list[str]]


def _pulled(
    remote: Remote,
    ref: str | None,
    folder: str,
    known: dict[str, Known],
    earlier: str | None,
    workspace: dict[str, Any],
) -> Pulled:
    """What differs, read no further than the quota goes. Raises CommandFailed."""
    with Repository.opened(remote) as repository:
        name, commit_id = repository.resolve(ref)
        before: dict[str, bytes] = {}
        if earlier and repository.is_before(earlier):
            before = {file.path: file.blob_id for file in repository.files(earlier, folder) if file.path is not None}
        changed: dict[str, bytes] = {}
        conflicts: list[str] = []
        left_out: dict[str, list[str]] = {}
        unchanged = size = new = 0
        for file in repository.files(commit_id, folder):
            path = file.path if file.path is not None else "?"
            why = LEFT_OUT.get(file.mode) or ("names that are no text" if file.path is None else None)
            why = why or ("no paths for a workspace" if workspace_path.fault(path) or path_fault(path) else None)
            content = b"" if why else repository.content(file.blob_id)
            why = why or ("too large" if len(content) > workspace["max_file_bytes"] else None)
            if why:
                left_out.setdefault(why, []).append(path)
                continue
            there = known.get(path)
            if there and there.sha256 == sha256_of(content):
                unchanged += 1
                continue
            changed[path] = content
            size, new = size + len(content), new + (there is None)
            _check_room(size, new, workspace)
            if there and (path not in before or there.sha256 != sha256_of(repository.content(before[path]))):
                conflicts.append(path)
        if folder and not changed and not unchanged and not left_out:
            raise CommandFailed(f"{name} of {remote.name} holds no {folder}")
        return Pulled(name, commit_id, changed, unchanged, conflicts, left_out)


def _check_room(size: int, new: int, workspace: dict[str, Any]) -> None:
    """Raises CommandFailed before anything is written when the quota would stop the pull half-way."""
    room, places = (
        workspace[f"max_{what}"] - workspace[has] for what, has in (("bytes", "kept_bytes"), ("files", "files"))
    )
    if size > room or new > places:
        raise CommandFailed(
            f"the workspace has room for {places:,} files and {room:,} bytes more; this would write more than that: "
            "pull a folder with --path, or ask the project's owner for a larger quota"
        )


async def _write(
    person: Person, org_id: str, changed: dict[str, bytes], known: dict[str, Known], console: Console
) -> None:
    """Many files a call. Raises CommandFailed for the first that is refused; what was written stays, in versions."""
    progress = Console(stderr=True, highlight=False)
    done = 0
    for batch in _batches(changed):
        files = [
            {
                "path": path,
                "base64": base64.b64encode(content).decode(),
                "expected_version": known[path].version if path in known else 0,
            }
            for path, content in batch
        ]
        answer = await person.call("write_files", org_id=org_id, files=files)
        for one in answer["files"]:
            if "refused" in one:
                raise CommandFailed(f"{one['path']}: {one['refused']['message']} Pull again when that is mended.")
        done += len(files)
        progress.print(f"  {done} of {len(changed)} files written", style="dim")


def _batches(changed: dict[str, bytes]) -> Iterator[list[tuple[str, bytes]]]:
    batch: list[tuple[str, bytes]] = []
    size = 0
    for path, content in changed.items():
        if batch and (len(batch) == MAX_FILES_A_CALL or size + len(content) > MAX_BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append((path, content))
        size += len(content)
    if batch:
        yield batch
