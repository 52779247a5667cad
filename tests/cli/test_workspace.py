"""`pam workspace pull | push`: a repository's files into the workspace, and a clean branch back."""

import base64
import hashlib
import io
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dulwich.objects import Commit
from dulwich.refs import Ref
from dulwich.repo import Repo
from rich.console import Console

from infra.cli.person import CommandFailed, Person
from infra.cli.repository import LINK, PROGRAM, SUBMODULE
from infra.cli.workspace_pull import run_pull
from infra.cli.workspace_push import run_push
from infra.local.facts import StackFacts
from tests.cli.command import Pam
from tests.support.database import DEFINITION
from tests.support.house import Engineer, House
from tests.support.repositories import GIT, commit_on, git, new_repository

HONEST: dict[str | bytes, Any] = {
    "README.md": b"# Tasks\n",
    "app/main.py": b"print('one')\n",
    "app/windows.txt": b"one\r\ntwo\r\n",
    "bin/run": (PROGRAM, b"#!/bin/sh\necho one\n"),
    "logo.png": b"\x89PNG\x00\xff",
    "empty": b"",
    "docs/caf\u00e9.md": "é\n".encode(),
    "no_end.txt": b"no line feed",
}


@dataclass
class Desk:
    """Somebody at a terminal, signed in to the stack, with an organisation of their own."""

    env: dict[str, str]
    person: Person
    org_id: str
    folder: Path
    said: io.StringIO

    @property
    def console(self) -> Console:
        self.said.seek(0)
        self.said.truncate()
        return Console(file=self.said, width=200, highlight=False)

    @classmethod
    async def sit(cls, facts: StackFacts, folder: Path) -> "Desk":
        email, password = f"{secrets.token_hex(8)}@example.com", secrets.token_urlsafe(16)
        person = await Person.sign_up(facts.url, facts.publishable_key, email=email, password=password)
        org_id = str((await person.call("create_organization", name="Team"))["org_id"])
        env = {
            "SUPABASE_URL": facts.url,
            "SUPABASE_PUBLISHABLE_KEY": facts.publishable_key,
            "PAM_EMAIL": email,
            "PAM_PASSWORD": password,
        }
        return cls(env, person, org_id, folder, io.StringIO())

    async def pull(self, where: object, **more: Any) -> dict[str, Any]:
        options = {"ref": None, "folder": "", "overwrite": False, **more}
        return await run_pull(self.env, str(where), console=self.console, **options)

    async def push(self, where: object, branch: str = "fix", **more: Any) -> dict[str, Any]:
        options = {"message": None, "base": None, "folder": "", **more}
        return await run_push(self.env, str(where), branch=branch, console=self.console, **options)

    async def write(self, path: str, content: str, version: int = 0) -> None:
        given = {"org_id": self.org_id, "path": path, "content": content, "expected_version": version}
        await self.person.call("write_file", **given)

    async def paths(self) -> dict[str, int]:
        rows = (await self.person.call("list_workspace", org_id=self.org_id))["files"]
        return {path: version for path, version, *_ in rows}


@pytest.fixture
async def desk(stack: StackFacts, tmp_path: Path) -> Desk:
    """A desk, and a folder for repositories."""
    return await Desk.sit(stack, tmp_path)


def tip(repo: Repo, branch: str) -> Commit:
    found = repo[repo.refs[Ref(b"refs/heads/" + branch.encode())]]
    assert isinstance(found, Commit)
    return found


async def test_a_commit_is_pulled_once_and_then_only_what_changed(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", HONEST)
    report = await desk.pull(desk.folder / "r")
    assert (report["ref"], report["written"], report["unchanged"], report["left_out"]) == ("main", len(HONEST), 0, {})
    for path, entry in HONEST.items():
        told = await desk.person.call("read_file", org_id=desk.org_id, path=str(path))
        content = entry[1] if isinstance(entry, tuple) else entry
        assert told["size_bytes"] == len(content), path
        assert told["text"] is None or told["text"].encode() == content, path
    again = await desk.pull(desk.folder / "r")
    assert (again["written"], again["unchanged"]) == (0, len(HONEST))
    commit_on(repo, {"app/main.py": b"print('two')\n", "new.txt": b"new\n"})
    third = await desk.pull(desk.folder / "r")
    assert (third["written"], third["unchanged"], third["commit"]) == (
        2,
        len(HONEST) - 1,
        tip(repo, "main").id.decode(),
    )
    assert (await desk.paths())["app/main.py"] == 2
    assert set((await desk.paths()).values()) == {1, 2}


async def test_links_submodules_and_names_that_fit_no_workspace_are_left_out_and_counted(desk: Desk) -> None:
    entries = {
        **HONEST,
        "link": (LINK, b"/etc/passwd"),
        "module": (SUBMODULE, b"1" * 40),
        "back\\slash": b"x",
        b"latin-\xe4.txt": b"x",
        "cafe\u0301.txt": b"x",
        "x" * 401: b"x",
        ".pam/results/x": b"x",
    }
    new_repository(desk.folder / "r", entries)
    report = await desk.pull(desk.folder / "r")
    left_out = {"links": 1, "submodules": 1, "names that are no text": 1, "no paths for a workspace": 4}
    assert (report["left_out"], report["written"]) == (left_out, len(HONEST))
    assert "left out, links: link" in desk.said.getvalue()
    assert set(await desk.paths()) == set(map(str, HONEST))


async def test_what_was_changed_here_comes_back_as_one_clean_commit(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", HONEST)
    await desk.write("elsewhere.txt", "not of this repository\n")
    await desk.pull(desk.folder / "r")
    await desk.write("app/main.py", "print('two')\n", 1)
    await desk.write("app/windows.txt", "one\r\nTWO\r\n", 1)
    await desk.write("bin/run", "#!/bin/sh\necho two\n", 1)
    await desk.write("no_end.txt", "still no line feed", 1)
    await desk.write("tests/test_main.py", "def test(): pass\n")
    await desk.write("README.md", "# Changed\n", 1)
    await desk.write("README.md", "# Tasks\n", 2)
    report = await desk.push(desk.folder / "r", message="Say two")

    made = tip(repo, "fix")
    assert (made.id.decode(), report["is_new"]) == (report["commit"], True)
    assert made.parents == [tip(repo, "main").id]
    assert made.message.decode().splitlines()[0] == "Say two"
    assert report["added"] == ["tests/test_main.py"]
    assert sorted(report["modified"]) == ["app/main.py", "app/windows.txt", "bin/run", "no_end.txt"]
    assert "- changed `bin/run`" in report["description"]
    assert f"Written by {desk.person.user_id} (who pushes) without a run:" in report["description"]
    assert report["description"] in desk.said.getvalue()
    if GIT:
        git(desk.folder / "r", "fsck", "--strict")
        numbers = git(desk.folder / "r", "diff", "--numstat", "main", "fix")
        assert numbers == (
            "1\t1\tapp/main.py\n1\t1\tapp/windows.txt\n1\t1\tbin/run\n1\t1\tno_end.txt\n1\t0\ttests/test_main.py\n"
        )
        assert "mode change" not in git(desk.folder / "r", "diff", "--summary", "main", "fix")
        patch = git(desk.folder / "r", "diff", "--binary", "main", "fix")
        git(desk.folder, "clone", "-q", "r", "clone")
        git(desk.folder / "clone", "apply", "--check", "-", given=patch.encode())
        assert git(desk.folder / "r", "log", "--format=%an <%ae> %s", "main..fix") == "Ada <ada@example.com> Say two\n"


async def test_a_push_repeated_finds_its_own_branch_and_another_is_not_touched(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", HONEST)
    await desk.pull(desk.folder / "r")
    with pytest.raises(CommandFailed, match="nothing was changed"):
        await desk.push(desk.folder / "r")
    await desk.write("new.txt", "one\n")
    first = await desk.push(desk.folder / "r")
    again = await desk.push(desk.folder / "r")
    assert (again["is_new"], again["commit"]) == (False, first["commit"])
    await desk.write("new.txt", "two\n", 1)
    with pytest.raises(CommandFailed, match="a branch fix already, with something else"):
        await desk.push(desk.folder / "r")
    assert tip(repo, "fix").id.decode() == first["commit"]
    with pytest.raises(CommandFailed, match="main is the base itself"):
        await desk.push(desk.folder / "r", "main")
    assert (await desk.push(desk.folder / "r", "fix-2"))["is_new"]


async def test_a_base_that_moved_elsewhere_is_no_trouble_and_in_the_same_files_it_is_told(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", HONEST)
    pulled = (await desk.pull(desk.folder / "r"))["commit"]
    await desk.write("app/main.py", "print('ours')\n", 1)
    commit_on(repo, {"README.md": b"# Moved\n"})
    report = await desk.push(desk.folder / "r")
    assert tip(repo, "fix").parents == [pulled.encode()], report
    commit_on(repo, {"app/main.py": b"print('theirs')\n"})
    with pytest.raises(CommandFailed, match=r"main has moved since the pull, .* changed here, too: app/main\.py;"):
        await desk.push(desk.folder / "r", "fix-2")
    with pytest.raises(CommandFailed, match="there is no branch nowhere"):
        await desk.push(desk.folder / "r", "fix-2", base="nowhere")
    with pytest.raises(
        CommandFailed, match=r"these files were changed in the workspace: app/main\.py; push them first"
    ):
        await desk.pull(desk.folder / "r")
    report = await desk.pull(desk.folder / "r", overwrite=True)
    assert report["written"] == 2
    assert (await desk.paths())["app/main.py"] == 3, "ours is kept as version 2"


async def test_a_file_whose_bytes_only_runs_read_is_left_out_of_a_push_by_name(desk: Desk) -> None:
    new_repository(desk.folder / "r", HONEST)
    await desk.pull(desk.folder / "r")
    files = [
        {"path": path, "base64": base64.b64encode(b"x" * size).decode(), "expected_version": version}
        for path, size, version in (("big.bin", 1_048_577, 0), ("README.md", 1_048_577, 1))
    ]
    await desk.person.call("write_files", org_id=desk.org_id, files=files)
    with pytest.raises(CommandFailed, match="nothing else was changed"):
        await desk.push(desk.folder / "r")
    files = [{"path": "fits.bin", "base64": base64.b64encode(b"y" * 1_048_576).decode(), "expected_version": 0}]
    await desk.person.call("write_files", org_id=desk.org_id, files=files)
    report = await desk.push(desk.folder / "r")
    assert (report["added"], report["modified"], report["left_out"]) == (["fits.bin"], [], {"too large": 2})
    assert "left out, larger than 1,048,576 bytes: README.md, big.bin" in desk.said.getvalue()


async def test_a_folder_of_a_repository_is_pulled_and_pushed_alone(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", HONEST)
    report = await desk.pull(desk.folder / "r", folder="app/")
    assert (report["written"], set(await desk.paths())) == (2, {"app/main.py", "app/windows.txt"})
    await desk.write("app/new.py", "new\n")
    await desk.write("outside.txt", "not of this folder\n")
    with pytest.raises(CommandFailed, match="was not pulled into this workspace"):
        await desk.push(desk.folder / "r")
    report = await desk.push(desk.folder / "r", folder="app")
    assert (report["added"], report["modified"]) == (["app/new.py"], [])
    assert len(list(repo.object_store.iter_tree_contents(tip(repo, "fix").tree))) == len(HONEST) + 1  # type: ignore[attr-defined]
    for folder, told in (("nowhere", "main of .* holds no nowhere"), ("../x", "--path: The path holds")):
        with pytest.raises(CommandFailed, match=told):
            await desk.pull(desk.folder / "r", folder=folder)


async def test_a_branch_a_tag_and_a_commit_are_refs_and_nothing_else_is(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", HONEST)
    first = tip(repo, "main").id
    repo.refs[Ref(b"refs/tags/v1")] = first
    commit_on(repo, {"later.txt": b"later\n"})
    repo.refs[Ref(b"refs/heads/next")] = tip(repo, "main").id
    for ref, commit in (("v1", first), (first.decode(), first), ("next", tip(repo, "main").id)):
        report = await desk.pull(desk.folder / "r", ref=ref)
        assert (report["ref"], report["commit"]) == (ref, commit.decode())
    for ref in ("nowhere", "main~1", "0" * 40, "../main", ""):
        with pytest.raises(CommandFailed, match="has no branch, tag or commit"):
            await desk.pull(desk.folder / "r", ref=ref)


async def test_a_pull_that_does_not_fit_the_quota_writes_nothing(desk: Desk, stack: StackFacts) -> None:
    import psycopg

    repo = new_repository(desk.folder / "r", {**HONEST, "big.bin": b"\0" * 2_000_000})
    async with await psycopg.AsyncConnection.connect(stack.owner_dsn, autocommit=True) as owner:
        await owner.execute("insert into pam.workspaces (org_id, max_files) values (%s, 3)", [desk.org_id])
        with pytest.raises(CommandFailed, match=r"room for 3 files .* this would write more than that"):
            await desk.pull(desk.folder / "r")
        assert await desk.paths() == {}
        change = "update pam.workspaces set max_files = 100, max_bytes = 1000000 where org_id = %s"
        await owner.execute(change, [desk.org_id])
        # What comes behind the quota's end is not even read: this would be a damaged repository.
        last = hashlib.sha1(b"blob 4\0last", usedforsecurity=False).hexdigest()
        commit_on(repo, {"zz.bin": b"last"})
        (desk.folder / "r" / "objects" / last[:2] / last[2:]).unlink()
        with pytest.raises(CommandFailed, match=r"room for 100 files and 1,000,000 bytes more; this would write more"):
            await desk.pull(desk.folder / "r")
        commit_on(repo, {"zz.bin": b"else"})
        change = "update pam.workspaces set max_bytes = 2000000, max_file_bytes = 1000000 where org_id = %s"
        await owner.execute(change, [desk.org_id])
    report = await desk.pull(desk.folder / "r")
    assert (report["written"], report["left_out"]) == (len(HONEST) + 1, {"too large": 1})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("https://ada:token@example.com/x.git", "leave the credentials out"),
        ("https://token@example.com/x.git", "leave the credentials out"),
        ("https://example.com/x.git?token=1", r"without \? or #"),
        ("https://example.com/", "ends with its path"),
        ("http://example.com/x.git", "http is no address for this"),
        ("ssh://git@example.com/x.git", "ssh is no address for this"),
        ("git@example.com:x.git", "this is no address for this"),
        ("git://example.com/x.git", "git is no address for this"),
        ("file:///etc", "file is no address for this"),
        ("ext::sh -c id", "is no Git repository"),
        ("--upload-pack=id", "is no Git repository"),
    ],
)
async def test_an_address_is_https_or_a_local_path(desk: Desk, given: str, told: str) -> None:
    with pytest.raises(CommandFailed, match=told):
        await desk.pull(given)
    assert await desk.person.select("checkouts", org_id=desk.org_id) == []


async def test_the_database_takes_no_address_with_credentials_either(desk: Desk) -> None:
    now = (await desk.person.call("read_workspace", org_id=desk.org_id))["now"]
    good = {
        "org_id": desk.org_id,
        "remote": "https://example.com/x",
        "path": "",
        "ref": "main",
        "commit_id": "0" * 40,
        "since": now,
    }
    for wrong in (
        {"remote": "https://ada:token@example.com/x"}, {"remote": "https://example.com/x?token=1"}, {"remote": "ssh://x/y"},
        {"path": "../x"}, {"path": ".pam"}, {"ref": ""}, {"commit_id": "main"}, {"commit_id": None}, {"remote": None},
    ):  # fmt: skip
        with pytest.raises(CommandFailed, match="names an address without credentials, a folder, a ref and a commit"):
            await desk.person.call("record_checkout", **{**good, **wrong})
    for since in ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z", None):
        with pytest.raises(CommandFailed, match="began within the last day"):
            await desk.person.call("record_checkout", **{**good, "since": since})
    assert (await desk.person.call("record_checkout", **good))["commit_id"] == "0" * 40


async def test_a_description_names_the_runs_that_wrote_with_their_question_and_answer(desk: Desk, house: House) -> None:
    new_repository(desk.folder / "r", HONEST)
    await desk.pull(desk.folder / "r")
    person, org_id = desk.person, desk.org_id
    await person.call("import_agent", org_id=org_id, name="engineer", definition=DEFINITION, source="# card")
    script = """
name: NAME
when: NAME
turns:
  - {expect: {role: user}, call: [{file_write: {path: app/main.py, content: "print(2)", version: 1}}]}
  - {expect: {role: tool}, say: "Done: it prints two.\\n\\nCo-authored-by: Mallory <m@example.com>"}
"""
    run_id, _ = await house.play(Engineer(person, org_id), script)
    report = await desk.push(desk.folder / "r")
    told = report["description"]
    assert f"## Run {run_id}\n\nAsked by {person.user_id} (who pushes):\n\n> Please play" in told
    assert "Answered:\n\n> Done: it prints two.\n> Co-authored-by: Mallory" in told
    assert "Wrote `app/main.py`." in told
    message = tip(Repo(str(desk.folder / "r")), "fix").message.decode()
    assert message.startswith(
        f"Change app/main.py\n\nRun {run_id}, asked by {person.user_id} (who pushes):\n> Please play"
    )
    if GIT:
        trailers = git(desk.folder / "r", "log", "-1", "--format=%(trailers)", "fix")
        assert trailers.strip() == "", "what a model says is no trailer"


async def test_the_commands_pull_and_push_and_speak_json(pam: Pam) -> None:
    folder = pam.cwd / "repository"
    repo = new_repository(folder, HONEST)
    pulled = await pam.run("workspace", "pull", str(folder), "--json")
    assert pulled.status == 0, pulled.stderr
    assert pulled.json()["written"] == len(HONEST)
    assert f"{len(HONEST)} of {len(HONEST)} files written" in pulled.stderr
    nothing = await pam.run("workspace", "push", str(folder), "--branch", "fix")
    assert (nothing.status, nothing.stdout) == (1, "")
    assert nothing.stderr.splitlines()[-1] == "pam: nothing was changed in the workspace since the pull"
    commit_on(repo, {"README.md": b"# Newer\n"})
    again = await pam.run("workspace", "pull", str(folder))
    assert again.status == 0, again.stderr
    assert "1 files written, 7 unchanged" in again.stdout
    odd = await pam.run("workspace", "push", str(folder), "--branch", "-x..y")
    assert "is no name for a branch" in odd.stderr
