"""Git repositories that tests make by objects, honest ones and such as no honest git would make."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from dulwich.object_store import commit_tree_changes
from dulwich.objects import Blob, Commit, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from infra.cli.repository import FILE

GIT = shutil.which("git")
Entry = bytes | tuple[int, bytes]
MAIN = Ref(b"refs/heads/main")


def commit_on(repo: Repo, entries: Mapping[str | bytes, Entry], *, branch: Ref = MAIN, message: str = "Change") -> str:
    """Put these files (content, or mode and content; for a submodule a commit's id) upon a branch; the commit's id."""
    parents = [repo.refs[branch]] if branch in repo.refs else []
    before = repo[parents[0]] if parents else None
    tree = before.tree if isinstance(before, Commit) else Tree().id
    if not parents:
        repo.object_store.add_object(Tree())
    changes = []
    for path, entry in entries.items():
        mode, content = entry if isinstance(entry, tuple) else (FILE, entry)
        object_id = content
        if mode != 0o160000:
            blob = Blob.from_string(content)
            repo.object_store.add_object(blob)
            object_id = blob.id
        changes.append((path.encode() if isinstance(path, str) else path, mode, object_id))
    commit = Commit()
    commit.tree, commit.parents = commit_tree_changes(repo.object_store, tree, changes), parents  # type: ignore[arg-type]
    commit.author = commit.committer = b"Grace <grace@example.com>"
    commit.author_time = commit.commit_time = 1_700_000_000
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = message.encode()
    repo.object_store.add_object(commit)
    repo.refs[branch] = commit.id
    return commit.id.decode()


def new_repository(folder: Path, entries: Mapping[str | bytes, Entry]) -> Repo:
    """A bare repository whose branch main has one commit with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    repo = Repo.init_bare(str(folder), default_branch=b"main")
    config = repo.get_config()  # who commits here, whatever the machine's own configuration says
    config.set((b"user",), b"name", b"Ada")
    config.set((b"user",), b"email", b"ada@example.com")
    config.write_to_path()
    commit_on(repo, entries)
    return repo


def git(folder: Path, *words: str, given: bytes | None = None) -> str:
    """The real git's word for it, with no configuration but its own; fails when git does."""
    assert GIT is not None
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    command = [GIT, "-c", "safe.directory=*", "-C", str(folder), *words]
    ended = subprocess.run(command, env=environment, input=given, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode()
