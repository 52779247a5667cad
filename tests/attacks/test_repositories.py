"""What a repository hides on its way into the workspace, and what a workspace hides on its way into a repository."""

from pathlib import Path
from typing import Any

import pytest
from dulwich.object_store import iter_tree_contents

from infra.cli.person import CommandFailed
from infra.cli.repository import FILE, LINK, PROGRAM, SUBMODULE, path_fault
from infra.local.facts import StackFacts
from tests.cli.test_workspace import HONEST, Desk, tip
from tests.support.repositories import GIT, commit_on, git, new_repository

# mechanism → a path that git would put into its own folder on some file system
INTO_GIT = {
    "git's folder": ".git/hooks/pre-commit",
    "in capitals": ".GIT/config",
    "below a folder": "sub/.git/config",
    "its short name": "git~1/config",
    "its short name in capitals": "GIT~1/config",
    "a blank behind it": ".git /config",
    "a dot behind it": ".git./config",
    "a stream": ".git::$INDEX_ALLOCATION/config",
    "a letter that HFS ignores": ".g\u200cit/config",
    "a mark that HFS ignores": "\ufeff.git/config",
    "a joiner that HFS ignores": ".git\u200d/config",
}


@pytest.fixture
async def desk(stack: StackFacts, tmp_path: Path) -> Desk:
    """Somebody with repositories."""
    return await Desk.sit(stack, tmp_path)


async def test_a_repository_brings_no_way_out_into_the_workspace(desk: Desk) -> None:
    entries: dict[str | bytes, Any] = {
        **HONEST,
        **dict.fromkeys(INTO_GIT.values(), b"evil"),
        "../out": b"evil",
        "a/../../out": b"evil",
        "./x": b"evil",
        "..\\out": b"evil",
        ".pam/results/x": b"evil",
        ".PAM/x": b"evil",
        "a\x1bb": b"evil",
        b"\xff\xfe": b"evil",
        "link": (LINK, b"../../../etc/passwd"),
        "absolute link": (LINK, b"/etc/passwd"),
        "module": (SUBMODULE, b"1" * 40),
        "~/.bashrc": b"evil",
        "C:evil": b"evil",
    }
    new_repository(desk.folder / "r", entries)
    report = await desk.pull(desk.folder / "r")
    assert set(await desk.paths()) == set(map(str, HONEST))
    assert report["written"] == len(HONEST)
    assert sum(report["left_out"].values()) == len(entries) - len(HONEST)
    assert "\x1b" not in desk.said.getvalue(), "a name does not speak to the terminal"
    outside = [path for path in desk.folder.rglob("*") if "r" not in path.relative_to(desk.folder).parts[:1]]
    assert outside == [], "nothing of it was written to the disk"


@pytest.mark.parametrize("mechanism", INTO_GIT)
async def test_a_push_never_writes_into_gits_own_folder(desk: Desk, mechanism: str) -> None:
    path = INTO_GIT[mechanism]
    assert path_fault(path)
    repo = new_repository(desk.folder / "r", HONEST)
    await desk.pull(desk.folder / "r")
    await desk.write(path, "#!/bin/sh\nid\n")
    await desk.write("good.txt", "good\n")
    with pytest.raises(CommandFailed, match="repository's own folder on some file system"):
        await desk.push(desk.folder / "r")
    assert b"refs/heads/fix" not in repo.refs, "not even the rest of it"


async def test_a_push_does_not_write_through_a_link_or_a_submodule(desk: Desk) -> None:
    entries = {**HONEST, "link": (LINK, b"/etc"), "module": (SUBMODULE, b"1" * 40)}
    repo = new_repository(desk.folder / "r", entries)
    await desk.pull(desk.folder / "r")
    for path, told in (
        ("link", "link is one of the links of the commit"),
        ("link/passwd", "link cannot be a file and the folder of link/passwd"),
        ("module/x", "module cannot be a file and the folder of module/x"),
        ("app", "app cannot be a file and a folder"),
        ("README.md/x", "README.md cannot be a file and the folder of README.md/x"),
    ):
        await desk.write(path, "evil")
        with pytest.raises(CommandFailed, match=told):
            await desk.push(desk.folder / "r")
    assert b"refs/heads/fix" not in repo.refs


@pytest.mark.parametrize(
    "branch",
    ["-x", "--force", "../main", "a..b", "x.lock", "HEAD", "a b", "a\nb", "@{-1}", "", "/", "x/", ".x", "a~1", "x:y"],
)
async def test_a_branch_is_a_name_and_no_way_to_another_ref(desk: Desk, branch: str) -> None:
    new_repository(desk.folder / "r", HONEST)
    with pytest.raises(CommandFailed, match="is no name for a branch"):
        await desk.push(desk.folder / "r", branch)


async def test_a_repositorys_hooks_and_filters_never_run(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", {**HONEST, ".gitattributes": b"* filter=evil\n"})
    ran = desk.folder / "ran"
    script = f"#!/bin/sh\ntouch '{ran}'\n"
    for name in (
        "pre-commit",
        "post-commit",
        "commit-msg",
        "reference-transaction",
        "post-update",
        "pre-push",
        "update",
    ):
        hook = desk.folder / "r" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(script)
        hook.chmod(0o755)
    config = repo.get_config()
    config.set((b"filter", b"evil"), b"clean", f"touch {ran}".encode())
    config.set((b"filter", b"evil"), b"smudge", f"touch {ran}".encode())
    config.set((b"core",), b"fsmonitor", f"touch {ran}".encode())
    config.write_to_path()
    await desk.pull(desk.folder / "r")
    await desk.write("new.txt", "new\n")
    assert (await desk.push(desk.folder / "r"))["is_new"]
    assert not ran.exists()


async def test_a_pushed_mode_is_the_commits_and_no_new_file_is_a_program(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", {**HONEST, "odd": (0o100666, b"x")})
    await desk.pull(desk.folder / "r")
    await desk.write("evil.sh", "#!/bin/sh\nid\n")
    await desk.write("odd", "y", 1)
    await desk.write("bin/run", "#!/bin/sh\nid\n", 1)
    await desk.push(desk.folder / "r")
    modes = {entry.path.decode(): entry.mode for entry in iter_tree_contents(repo.object_store, tip(repo, "fix").tree)}
    assert (modes["evil.sh"], modes["odd"], modes["bin/run"]) == (FILE, FILE, PROGRAM)
    if GIT:
        git(desk.folder / "r", "fsck")


async def test_a_file_that_is_written_while_it_is_pushed_stops_the_push(desk: Desk) -> None:
    repo = new_repository(desk.folder / "r", HONEST)
    await desk.pull(desk.folder / "r")
    await desk.write("new.txt", "seen\n")
    real = type(desk.person).call

    async def late(person: Any, name: str, /, **arguments: Any) -> Any:
        if name == "read_file":
            given = {"org_id": desk.org_id, "path": "new.txt", "content": "unseen\n", "expected_version": 1}
            await real(person, "write_file", **given)
        return await real(person, name, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(desk.person), "call", late)
        with pytest.raises(CommandFailed, match=r"new\.txt was written while it was pushed: push again"):
            await desk.push(desk.folder / "r")
    assert b"refs/heads/fix" not in repo.refs
    commit_on(repo, {"x": b"x"})


def test_the_mechanisms_are_many_and_each_is_its_own() -> None:
    others = [name for name in globals() if name.startswith("test_")]
    assert (len(set(INTO_GIT.values())), len(others)) == (11, 8)
