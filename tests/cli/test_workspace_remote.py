"""`pam workspace` against a repository over HTTP, as a forge serves it."""

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from dulwich import client
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import make_wsgi_chain

from infra.cli.person import CommandFailed
from infra.local.facts import StackFacts
from tests.cli.test_workspace import HONEST, Desk, tip
from tests.support.repositories import GIT, git, new_repository


@pytest.fixture
async def desk(stack: StackFacts, tmp_path: Path) -> Desk:
    """A desk, and a folder for repositories."""
    return await Desk.sit(stack, tmp_path)


class Quiet(WSGIRequestHandler):
    """A request handler that keeps its log to itself."""

    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""


@contextmanager
def served(repo: Repo, *, password: str | None = None) -> Iterator[str]:
    """The repository over HTTP on loopback, as a forge serves it; with a password when one is wanted."""
    chain = make_wsgi_chain(DictBackend({"/team/r.git": repo}))
    wanted = f"Basic {b64encode(f'ada:{password}'.encode()).decode()}" if password else None

    def guarded(environ: dict[str, Any], start: Any) -> Any:
        if wanted and environ.get("HTTP_AUTHORIZATION") != wanted:
            start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="r"'), ("Content-Length", "0")])
            return [b""]
        return chain(environ, start)

    server = make_server("127.0.0.1", 0, guarded, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/team/r.git"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


async def test_a_remote_repository_is_pulled_and_pushed_over_http(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", HONEST)
    with served(repo) as url:
        report = await desk.pull(url)
        assert report["written"] == len(HONEST)
        await desk.write("new.txt", "new\n")
        pushed = await desk.push(url, "fix/new")
        assert (await desk.push(url, "fix/new"))["is_new"] is False
    made = tip(repo, "fix/new")
    assert (made.id.decode(), made.parents) == (pushed["commit"], [tip(repo, "main").id])
    if GIT:
        git(desk.folder / "r", "fsck", "--strict")
        assert git(desk.folder / "r", "diff", "--name-status", "main", "fix/new") == "A\tnew.txt\n"


async def test_credentials_come_from_gits_own_store_and_are_kept_nowhere(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, store = new_repository(desk.folder / "r", HONEST), desk.folder / "git-credentials"
    known = client.get_credentials_from_store
    monkeypatch.setattr(client, "get_credentials_from_store", lambda *a, **k: known(*a, fnames=[str(store)], **k))
    with served(repo, password="heron-7") as url:
        with pytest.raises(CommandFailed, match="asks who you are: put a token into git's credential store"):
            await desk.pull(url)
        store.write_text("http://ada:heron-7@127.0.0.1\n")
        assert (await desk.pull(url))["written"] == len(HONEST)
        await desk.write("new.txt", "new\n")
        await desk.push(url)
    assert "heron-7" not in desk.said.getvalue()
    assert "heron-7" not in str(await desk.person.select("checkouts", org_id=desk.org_id))
    with pytest.raises(CommandFailed, match="does not answer as a Git repository"):
        await desk.pull(url)
