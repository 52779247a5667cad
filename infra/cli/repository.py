"""A Git repository as `pam workspace` uses it: trees are read, a branch is added. No work tree, no hook, no git."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dulwich import client as transport
from dulwich.config import Config, StackedConfig
from dulwich.errors import GitProtocolError, HangupException, NotGitRepository
from dulwich.index import validate_path_element_default, validate_path_element_hfs, validate_path_element_ntfs
from dulwich.object_store import commit_tree_changes, iter_tree_contents
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tag
from dulwich.refs import Ref, check_ref_format
from dulwich.repo import Repo
from urllib3.exceptions import HTTPError

from infra.cli.person import CommandFailed

FILE, PROGRAM, LINK, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o160000
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADS = b"refs/heads/"


@dataclass(frozen=True)
class Remote:
    """Where a repository is: `name` is how PAM remembers it, without credentials."""

    name: str
    folder: Path | None

    @classmethod
    def parse(cls, given: str) -> "Remote":
        """A local path or an https address. Raises CommandFailed."""
        if "://" not in given and not re.match(r"[\w.-]+@[\w.-]+:", given):
            folder = Path(given).expanduser().resolve()
            return cls(f"file:{folder.as_posix()}", folder)
        parts = urlsplit(given)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
            raise CommandFailed(
                f"{parts.scheme or 'this'} is no address for this: give an https address or a local path"
            )
        if "@" in parts.netloc:
            raise CommandFailed("leave the credentials out of the address: git's own credential store has them")
        if parts.query or parts.fragment or not parts.path.strip("/"):
            raise CommandFailed("the address of a repository ends with its path, without ? or #")
        return cls(f"{parts.scheme}://{parts.netloc}/{parts.path.strip('/')}", None)


@dataclass(frozen=True)
class TreeFile:
    """An entry of a commit's tree. `path` is None when its name is no text."""

    path: str | None
    mode: int
    blob_id: bytes


class Repository:
    """Blocking, so that callers put it into a thread; the objects of a remote one lie in a temporary folder."""

    def __init__(self, *, repo: Repo, config: Config, remote: Remote, refs: Mapping[Any, bytes], head: bytes | None):
        self._repo = repo
        self._config = config
        self._remote = remote
        self._refs = refs
        self._head = head

    @classmethod
    @contextmanager
    def opened(cls, remote: Remote) -> Iterator["Repository"]:
        """Open it, or fetch it. Raises CommandFailed with what to do."""
        if remote.folder is not None:
            try:
                repo = Repo(str(remote.folder))
            except (NotGitRepository, OSError):
                raise CommandFailed(f"{remote.folder} is no Git repository") from None
            with repo:
                symbolic = repo.refs.get_symrefs().get(Ref(b"HEAD"))
                yield cls(repo=repo, config=repo.get_config_stack(), remote=remote, refs=repo.get_refs(), head=symbolic)
            return
        with tempfile.TemporaryDirectory(prefix="pam-repository-") as folder, Repo.init_bare(folder) as repo:
            config = StackedConfig.default()
            with _spoken(remote):
                client, path = _client(remote, config)
                answer = client.fetch(path.encode(), repo)
            head = (answer.symrefs or {}).get(Ref(b"HEAD"))
            refs = {bytes(name): bytes(sha) for name, sha in answer.refs.items() if sha is not None}
            yield cls(repo=repo, config=config, remote=remote, refs=refs, head=head)

    def resolve(self, ref: str | None) -> tuple[str, str]:
        """(name, commit id) of a branch, tag or commit; of HEAD's branch without one. Raises CommandFailed."""
        if ref is None:
            if self._head is None or self._head not in self._refs:
                raise CommandFailed(f"{self._remote.name} has no current branch: name one with --ref")
            return self._head.removeprefix(_HEADS).decode(), self._commit_id(self._refs[self._head])
        for name in (_HEADS + ref.encode(), b"refs/tags/" + ref.encode(), ref.encode()):
            if name in self._refs:
                return ref, self._commit_id(self._refs[name])
        if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", ref) and ObjectID(ref.encode()) in self._repo.object_store:
            return ref, self._commit_id(ref.encode())
        raise CommandFailed(f"{self._remote.name} has no branch, tag or commit {ref}")

    def branch(self, name: str) -> str | None:
        """The commit id of a branch, if there is one."""
        found = self._refs.get(_HEADS + name.encode())
        return found.decode() if found else None

    def files(self, commit_id: str, folder: str = "") -> Iterator[TreeFile]:
        """What the commit's tree holds below a folder, links and submodules too. Raises CommandFailed."""
        for entry in iter_tree_contents(self._repo.object_store, self._commit(commit_id).tree):
            try:
                path: str | None = entry.path.decode()
            except UnicodeDecodeError:
                path = None
            if not folder or path == folder or (path or "").startswith(f"{folder}/"):
                yield TreeFile(path, entry.mode, entry.sha)

    def content(self, blob_id: bytes) -> bytes:
        """The bytes of a file."""
        blob = self._object(blob_id)
        if not isinstance(blob, Blob):
            raise CommandFailed(f"{self._remote.name} is damaged: {blob_id.decode()} is no file")
        return bytes(blob.data)

    def is_before(self, commit_id: str) -> bool:
        """Whether the repository has this commit."""
        return ObjectID(commit_id.encode()) in self._repo.object_store

    def identity(self, email: str) -> str:
        """Who commits: as git's own configuration says, else the signed-in person."""
        told = {}
        for name in ("name", "email"):
            try:
                told[name] = self._config.get((b"user",), name.encode()).decode()
            except (KeyError, UnicodeDecodeError):
                continue
        who, mail = told.get("name") or email.partition("@")[0], told.get("email") or email
        return f"{_plain(who)} <{_plain(mail).replace(' ', '')}>"

    def tree_with(self, commit_id: str, changes: Mapping[str, tuple[int, bytes]]) -> bytes:
        """The id of the commit's tree with these files (path → mode and content) put in; objects only, no branch."""
        entries = []
        for path, (mode, content) in changes.items():
            blob = Blob.from_string(content)
            self._repo.object_store.add_object(blob)
            entries.append((path.encode(), mode, blob.id))
        return commit_tree_changes(self._repo.object_store, self._commit(commit_id).tree, entries)

    def holds(self, branch_commit: str, *, parent: str, tree: bytes) -> bool:
        """Whether a branch's commit is exactly this change of this parent."""
        commit = self._commit(branch_commit)
        return commit.tree == tree and commit.parents == [parent.encode()]

    def commit(self, *, parent: str, tree: bytes, identity: str, message: str, at: int) -> str:
        """One commit upon another; answers its id."""
        made = Commit()
        made.tree, made.parents = tree, [parent.encode()]  # type: ignore[list-item]
        made.author = made.committer = identity.encode()
        made.author_time = made.commit_time = at
        made.author_timezone = made.commit_timezone = 0
        made.encoding, made.message = b"UTF-8", message.encode()
        self._repo.object_store.add_object(made)
        return made.id.decode()

    def add_branch(self, name: str, commit_id: str) -> None:
        """Make a new branch at this commit, there where the repository is. Raises CommandFailed when it is taken."""
        ref, taken = _HEADS + name.encode(), CommandFailed(f"the branch {name} was made by somebody else meanwhile")
        if self._remote.folder is not None:
            if not self._repo.refs.add_if_new(ref, commit_id.encode()):  # type: ignore[arg-type]
                raise taken
            return

        def update(refs: Any) -> Any:
            if ref in refs:
                raise taken
            return {ref: commit_id.encode()}

        with _spoken(self._remote):
            client, path = _client(self._remote, self._config)
            answer = client.send_pack(path.encode(), update, self._repo.generate_pack_data)
        if why := (answer.ref_status or {}).get(ref):
            raise CommandFailed(f"{self._remote.name} does not take the branch {name}: {why}")

    def _commit_id(self, object_id: bytes) -> str:
        """A tag stands for what it points at."""
        found = self._object(object_id)
        while isinstance(found, Tag):
            found = self._object(found.object[1])
        if not isinstance(found, Commit):
            raise CommandFailed(f"{object_id.decode()} of {self._remote.name} is no commit")
        return found.id.decode()

    def _object(self, object_id: bytes) -> ShaFile:
        try:
            return self._repo.object_store[ObjectID(object_id)]
        except KeyError:
            raise CommandFailed(f"{self._remote.name} does not have {object_id.decode()}") from None

    def _commit(self, commit_id: str) -> Commit:
        found = self._object(commit_id.encode())
        if not isinstance(found, Commit):
            raise CommandFailed(f"{commit_id} of {self._remote.name} is no commit")
        return found


def _plain(text: str) -> str:
    return re.sub(r"[<>\n\0]", "", text)


def path_fault(path: str) -> str | None:
    """Why Git must not be given this path, or None: a checkout of it could write into .git on some file system."""
    checks = (validate_path_element_default, validate_path_element_hfs, validate_path_element_ntfs)
    parts = path.split("/")
    if any(not check(part.encode()) for part in parts for check in checks):
        return f"{path} would lie in a repository's own folder on some file system"
    return None


def branch_fault(name: str) -> str | None:
    """Why this is no name for a branch, or None."""
    if (
        name.startswith("-")
        or name == "HEAD"
        or not name.isprintable()
        or not check_ref_format(Ref(_HEADS + name.encode()))
    ):
        return f"{name!r} is no name for a branch"
    return None


def _client(remote: Remote, config: Config) -> tuple[Any, str]:
    """The transport, with the credentials that git's own store has for this host."""
    parts = urlsplit(remote.name)
    known = transport.get_credentials_from_store(parts.scheme, parts.hostname or "")
    user, password = next(iter(known), (None, None))
    return transport.get_transport_and_path(remote.name, config=config, username=user, password=password, quiet=True)


@contextmanager
def _spoken(remote: Remote) -> Iterator[None]:
    """What a remote does not do, in a sentence."""
    try:
        yield
    except transport.HTTPUnauthorized:
        raise CommandFailed(
            f"{remote.name} asks who you are: put a token into git's credential store (git credential approve)"
        ) from None
    except (NotGitRepository, GitProtocolError, HangupException, HTTPError, OSError) as error:
        raise CommandFailed(
            f"{remote.name} does not answer as a Git repository ({type(error).__name__}): is the address right, and is "
            "it yours to use?"
        ) from error
