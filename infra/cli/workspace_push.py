"""`workspace push`: what was changed since the pull, as a branch with one commit and a description for review."""

import asyncio
import base64
import time
from datetime import datetime
from typing import Any

from rich.console import Console

from infra.cli.person import CommandFailed, Person
from infra.cli.repository import FILE, PROGRAM, Remote, Repository, branch_fault, path_fault
from infra.cli.review import description, message_of
from infra.cli.setting import place
from infra.cli.workspace import LEFT_OUT, NAMED, Known, folder_of, known_files, sha256_of, some

# What a signed-in person reads from the workspace; the bytes of larger files lie in object storage, for runs.
MAX_READ_BYTES = 1_048_576


async def run_push(
    env: dict[str, str],
    given: str,
    *,
    branch: str,
    message: str | None,
    base: str | None,
    folder: str,
    console: Console,
) -> dict[str, Any]:
    """Make a branch with one commit upon the pulled one that holds what was changed since, and describe it."""
    remote, folder = Remote.parse(given), folder_of(folder)
    if fault := branch_fault(branch):
        raise CommandFailed(fault)
    async with place(env, progress=lambda line: console.print(f"  {line}", style="dim")) as where:
        person = await where.person()
        org_id = await where.organization(person)
        found = await person.select("checkouts", org_id=org_id, remote=remote.name, path=folder)
        if not found:
            raise CommandFailed(f"{remote.name} was not pulled into this workspace: `pam workspace pull` comes first")
        checkout = found[0]
        known = await known_files(person, org_id, folder)
        # The one place where this blocking library goes to a thread.
        push = await asyncio.to_thread(Push, remote)
        try:
            since = datetime.fromisoformat(checkout["pulled_at"])
            wanted = await asyncio.to_thread(push.prepare, checkout["commit_id"], since, folder, known)
            if push.too_large:
                told = f"  left out, larger than {MAX_READ_BYTES:,} bytes: {some(push.too_large)}"
                console.print(told, style="yellow", markup=False, soft_wrap=True)
            if not wanted:
                other = "else " if push.too_large else ""
                raise CommandFailed(f"nothing {other}was changed in the workspace since the pull")
            await asyncio.to_thread(push.check_base, base or checkout["ref"], branch, is_named=base is not None)
            contents = {path: await _content(person, org_id, path, known[path]) for path in wanted}
            about = await person.call("explain_changes", org_id=org_id, paths=list(wanted), since=checkout["pulled_at"])
            text = message_of(message, list(wanted), about, me=person.user_id)
            commit_id, is_new = await asyncio.to_thread(push.publish, branch, contents, text, person.email)
        finally:
            await asyncio.to_thread(push.close)
    told = description(branch, checkout["ref"], push.added, push.modified, about, me=person.user_id, title=text)
    console.print(told, markup=False, soft_wrap=True)
    return {
        "branch": branch,
        "commit": commit_id,
        "base": checkout["commit_id"],
        "is_new": is_new,
        "added": push.added,
        "modified": push.modified,
        "left_out": {"too large": len(push.too_large)} if push.too_large else {},
        "description": told,
    }


class Push:
    """A repository that is open for one push. Blocking, like the repository."""

    def __init__(self, remote: Remote) -> None:
        self._opened = Repository.opened(remote)
        self._repository = self._opened.__enter__()
        self._base: dict[str, tuple[int, bytes]] = {}
        self._commit_id = ""
        self.added: list[str] = []
        self.modified: list[str] = []
        self.too_large: list[str] = []

    def close(self) -> None:
        """Let go of the repository."""
        self._opened.__exit__(None, None, None)

    def prepare(self, commit_id: str, since: datetime, folder: str, known: dict[str, Known]) -> list[str]:
        """The paths changed since the pull, less too_large. Raises CommandFailed for what Git must not see."""
        if not self._repository.is_before(commit_id):
            raise CommandFailed(f"the repository does not have the pulled commit {commit_id[:12]} any more: pull again")
        self._commit_id = commit_id
        every = list(self._repository.files(commit_id))
        self._base = {file.path: (file.mode, file.blob_id) for file in every if file.path is not None}
        for path, there in known.items():
            if not self._is_changed(path, there, since):
                continue
            if there.size_bytes > MAX_READ_BYTES:
                self.too_large.append(path)
            else:
                (self.modified if path in self._base else self.added).append(path)
        wanted = [*self.added, *self.modified]
        faults = [fault for path in wanted if (fault := path_fault(path) or self._shape_fault(path, wanted))]
        if faults:
            raise CommandFailed(f"the branch was not made: {'; '.join(faults[:NAMED])}")
        return wanted

    def _is_changed(self, path: str, there: Known, since: datetime) -> bool:
        if path not in self._base:
            return there.updated_at > since
        mode, blob_id = self._base[path]
        return mode in LEFT_OUT or sha256_of(self._repository.content(blob_id)) != there.sha256

    def _shape_fault(self, path: str, wanted: list[str]) -> str | None:
        """A path that is a file and a folder at once, or where the commit has a link or a submodule."""
        parts = path.split("/")
        files = self._base.keys() | set(wanted)
        if path in self._base and self._base[path][0] in LEFT_OUT:
            return f"{path} is one of the {LEFT_OUT[self._base[path][0]]} of the commit"
        for depth in range(1, len(parts)):
            if (above := "/".join(parts[:depth])) in files:
                return f"{above} cannot be a file and the folder of {path}"
        if path in self.added and any(other.startswith(f"{path}/") for other in files):
            return f"{path} cannot be a file and a folder"
        return None

    def check_base(self, ref: str, branch: str, *, is_named: bool) -> None:
        """Raises CommandFailed when the base has moved in files that were changed here, too."""
        tip = self._repository.branch(ref)
        if ref == branch:
            raise CommandFailed(f"{branch} is the base itself: give the branch a name of its own")
        if tip is None and is_named:
            raise CommandFailed(f"there is no branch {ref} to compare with")
        if tip is None or tip == self._commit_id:
            return
        now = {file.path: (file.mode, file.blob_id) for file in self._repository.files(tip)}
        moved = [path for path in (*self.added, *self.modified) if now.get(path) != self._base.get(path)]
        if moved:
            raise CommandFailed(
                f"{ref} has moved since the pull, in files that were changed here, too: {some(moved)}; "
                f"pull {ref} again (--overwrite, the versions are kept), redo the change, then push"
            )

    def publish(self, branch: str, contents: dict[str, bytes], message: str, email: str) -> tuple[str, bool]:
        """(commit id, whether it is new). Raises CommandFailed when the branch is there with something else."""
        changes = {path: (self._base.get(path, (FILE, b""))[0], content) for path, content in contents.items()}
        changes = {path: (mode if mode == PROGRAM else FILE, content) for path, (mode, content) in changes.items()}
        tree = self._repository.tree_with(self._commit_id, changes)
        there = self._repository.branch(branch)
        if there is not None:
            if self._repository.holds(there, parent=self._commit_id, tree=tree):
                return there, False
            raise CommandFailed(f"there is a branch {branch} already, with something else: choose another name")
        identity = self._repository.identity(email)
        made = self._repository.commit(
            parent=self._commit_id, tree=tree, identity=identity, message=message, at=int(time.time())
        )
        self._repository.add_branch(branch, made)
        return made, True


async def _content(person: Person, org_id: str, path: str, known: Known) -> bytes:
    """A file as it was listed. Raises CommandFailed when somebody has written it meanwhile."""
    told = await person.call("read_file", org_id=org_id, path=path)
    content = str(told["text"]).encode() if told["text"] is not None else base64.b64decode(told["base64"])
    if sha256_of(content) != known.sha256:
        raise CommandFailed(f"{path} was written while it was pushed: push again")
    return content
