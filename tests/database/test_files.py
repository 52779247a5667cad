"""The workspace: paths, versions, quotas, and that the database and the tools agree on what a path is."""

import asyncio
import unicodedata

import psycopg
import pytest

from tests.database.test_organizations import audit, code
from tests.database.world import World
from tests.support.database import Database
from workers.tools import workspace_path

PATHS = [
    "", " ", "a", "a/b", "a.txt", ".env", "..env", "a..", "a/..b", "...", ".", "..", "./a", "../a", "a/.", "a/..", "a/./b",
    "a/../b", "/a", "//a", "/", "a//b", "a/", "a/b/", "~", "~/a", "~root/a", "a~", "a/~", "C:", "C:a", "C:/a", "c:\\a", "CC:a",
    "1:a", "a:b", "a/C:/b", "é:a", "a\\b", "\\", "\\\\server\\share", "a\nb", "a\n", "\na", "a\rb", "a\tb", "\x01", "a\x1f", "a\x7f",
    "a\x80", "a\x85b", "a\u2028b", "\u00e4", "a\u0308", "e\u0301/x", "\u212b", "\ufb01", "\u1e9b\u0323", "\uac00", "\u1100\u1161",
    "\U0001f600", "\u202e", "\u200b", "\ufeffa", "a\u00a0b", "％2e％2e/a", "%2e%2e/a", "..%2fa", "．．/a", "a／b", "-rf", "--", "*", "a|b",
    "a'b", 'a"b', "a;b", "$(x)", "`x`", "x" * 400, "x" * 401, "ä" * 400, "ä" * 401, "\U0001f600" * 400, "a/" * 199 + "ab", "con", "nul.txt",
    ".pam", ".pam/x", ".PAM/x", ".Pam", ".pam/results/0", ".pamx", "a/.pam/x", "pam/x", ".pa\u017f/x", "\uff0epam/x", ".pa\u1d0d/x",
]  # fmt: skip


async def test_the_database_and_the_tools_agree_on_every_odd_path(world: World) -> None:
    assert len(PATHS) == len(set(PATHS)) > 60
    faults = 0
    for path in PATHS:
        (row,) = await world.database.admin("select pam_private.path_fault(%s) as fault", path)
        assert row["fault"] == workspace_path.fault(path), repr(path)
        faults += row["fault"] is not None
    assert 35 < faults < 60


async def test_every_letter_alone_and_every_decomposition_is_judged_alike(world: World) -> None:
    letters = [chr(n) for n in (*range(1, 0x250), *range(0x300, 0x370), *range(0x1E00, 0x2100), *range(0xF900, 0xFB00))]
    # The grammar of letters that one side's Unicode has and the other's has not is nobody's fault.
    known = [x for x in letters if unicodedata.category(x) != "Cn"]
    rows = await world.database.admin(
        "select pam_private.path_fault(p) as fault from unnest(%s::text[]) with ordinality as x (p, n) order by n",
        known,
    )
    assert [row["fault"] for row in rows] == [workspace_path.fault(letter) for letter in known]


async def test_a_null_and_a_half_character_never_reach_the_database(world: World) -> None:
    for path in ("a\0b", "\ud800", "a\udfff"):
        assert workspace_path.fault(path)
        with pytest.raises((psycopg.Error, UnicodeEncodeError)):
            await world.database.admin("select pam_private.path_fault(%s)", path)
    assert (await world.database.admin("select pam_private.path_fault(null) as fault"))[0]["fault"]


async def test_a_file_is_written_by_versions_and_a_stale_writer_is_told(database: Database) -> None:
    owner, org = await database.new_organization()

    async def write(content: str, version: int) -> dict[str, object]:
        given = {"org_id": org, "path": "a/b.txt", "content": content, "expected_version": version}
        return dict(await database.rpc(owner, "write_file", **given))

    assert code(await write("late", 3)) == "conflict"
    assert (await write("one", 0))["version"] == 1
    assert code(await write("again", 0)) == "conflict"
    assert (await write("two", 1))["version"] == 2
    assert code(await write("stale", 1)) == "conflict"
    assert (await database.rpc(owner, "read_file", org_id=org, path="a/b.txt"))["text"] == "two"
    assert await audit(database, org, "file.write") == [False, True, False, True, False]
    answers = await asyncio.gather(*(write(str(n), 2) for n in range(8)))
    assert sorted(code(answer) for answer in answers) == ["", *["conflict"] * 7]
    assert len(await database.admin("select 1 from pam.file_versions")) == 3


async def test_viewers_read_developers_write_and_strangers_find_nothing(database: Database) -> None:
    owner, org = await database.new_organization()
    foreign, _ = await database.new_organization()
    await database.rpc(owner, "write_file", org_id=org, path="a", content="ours")
    for role, expected in (("viewer", "forbidden"), ("developer", ""), ("admin", "")):
        person = await database.new_member(org, role)
        assert code(await database.rpc(person, "write_file", org_id=org, path=f"by-{role}", content="x")) == expected
        assert (await database.rpc(person, "read_file", org_id=org, path="a"))["text"] == "ours"
    assert (
        code(await database.rpc(foreign, "write_file", org_id=org, path="a", content="x", expected_version=1))
        == "not_found"
    )
    assert code(await database.rpc(foreign, "read_file", org_id=org, path="a")) == "not_found"


async def test_odd_paths_and_large_files_are_refused_and_audited(database: Database) -> None:
    owner, org = await database.new_organization()
    bad = [path for path in PATHS if workspace_path.fault(path)][:10]
    for path in bad:
        assert code(await database.rpc(owner, "write_file", org_id=org, path=path, content="x")) == "invalid", path
        assert code(await database.rpc(owner, "read_file", org_id=org, path=path)) == "not_found"
    await database.owner("insert into pam.workspaces (org_id, max_file_bytes) values (%s, 1000)", org)
    assert code(await database.rpc(owner, "write_file", org_id=org, path="big", content="x" * 1_001)) == "too_large"
    assert code(await database.rpc(owner, "write_file", org_id=org, path="fits", content="x" * 1_000)) == ""
    assert (await audit(database, org, "file.write")) == [False] * (len(bad) + 1) + [True]


async def test_the_workspace_is_bounded_in_bytes_and_in_files(database: Database) -> None:
    owner, org = await database.new_organization()
    other, there = await database.new_organization()
    # A row's defaults are the quota of whoever has none of their own: 20,000 files, 1 GiB, 32 MiB a file.
    await database.admin("insert into pam.workspaces (org_id, kept_bytes) values (%s, 1073741824)", org)
    answer = await database.rpc(owner, "write_file", org_id=org, path="more", content="x")
    assert "hold 1073741824 bytes of 1073741824: 1 more do not fit" in answer["refused"]["message"]
    assert code(answer) == "limit"
    assert code(await database.rpc(owner, "write_file", org_id=org, path="none", content="")) == ""
    assert code(await database.rpc(other, "write_file", org_id=there, path="f1", content="x")) == ""
    await database.admin("update pam.workspaces set files = 20000 where org_id = %s", there)
    assert code(await database.rpc(other, "write_file", org_id=there, path="more", content="x")) == "limit"
    assert code(await database.rpc(other, "write_file", org_id=there, path="f1", content="x", expected_version=1)) == ""


async def test_bytes_that_are_no_text_are_told_as_such(database: Database) -> None:
    owner, org = await database.new_organization()
    fence = await database.claimed(run := await database.new_run(owner, org))
    for path, content in (("nul", "AGE="), ("latin", "5Pb8"), ("text", "w6Q=")):
        await database.worker(
            "write_file", run_id=run, fence=fence, call=None, path=path, content=content, expected_version=0
        )
    answers = {path: await database.rpc(owner, "read_file", org_id=org, path=path) for path in ("nul", "latin", "text")}
    assert [(a["text"], a["base64"]) for a in answers.values()] == [(None, "AGE="), (None, "5Pb8"), ("ä", None)]


async def test_many_files_are_written_at_once_each_with_its_own_answer(database: Database) -> None:
    owner, org = await database.new_organization()
    files = [
        {"path": "a.txt", "text": "a"},
        {"path": "b.png", "base64": "iVBORwD/"},
        {"path": "../c", "text": "c"},
        {"path": "d", "base64": "no base64!"},
        {"path": "e"},
        {"path": "f", "text": "f", "expected_version": "soon"},
        {"path": "a.txt", "text": "again", "expected_version": 0},
        {"path": "a.txt", "text": "again", "expected_version": 1},
        "g",
        {"path": None, "text": "h"},
    ]
    answer = await database.rpc(owner, "write_files", org_id=org, files=files)
    told = [(one["path"], one.get("version") or code(one)) for one in answer["files"]]
    assert told == [
        ("a.txt", 1), ("b.png", 1), ("../c", "invalid"), ("d", "invalid"), ("e", "invalid"), ("f", "invalid"),
        ("a.txt", "conflict"), ("a.txt", 2), (None, "invalid"), (None, "invalid"),
    ]  # fmt: skip
    assert (await database.rpc(owner, "read_file", org_id=org, path="b.png"))["base64"] == "iVBORwD/"
    assert sorted(await audit(database, org, "file.write")) == [False] * 7 + [True] * 3
    for wrong in ([], {}, None, [{"path": "n", "text": ""}] * 501):
        assert code(await database.rpc(owner, "write_files", org_id=org, files=wrong)) == "invalid"
    viewer, (stranger, _) = await database.new_member(org, "viewer"), await database.new_organization()
    assert code(await database.rpc(viewer, "write_files", org_id=org, files=files)) == "forbidden"
    assert code(await database.rpc(stranger, "write_files", org_id=org, files=files)) == "not_found"


async def test_everybody_in_an_organisation_sees_how_full_its_workspace_is_and_nobody_else(database: Database) -> None:
    owner, org = await database.new_organization()
    stranger, _ = await database.new_organization()
    assert (await database.rpc(owner, "read_workspace", org_id=org))["files"] == 0
    for version in range(3):
        given = {"org_id": org, "path": "a", "content": "12345", "expected_version": version}
        await database.rpc(owner, "write_file", **given)
    viewer = await database.new_member(org, "viewer")
    told = await database.rpc(viewer, "read_workspace", org_id=org)
    assert (told["files"], told["kept_bytes"], told["max_bytes"]) == (1, 15, 1_073_741_824)
    assert code(await database.rpc(stranger, "read_workspace", org_id=org)) == "not_found"
    (sums,) = await database.admin(
        "select count(*) n, sum(kept_bytes)::bigint bytes from pam.files where org_id = %s", org
    )
    assert (sums["n"], sums["bytes"]) == (told["files"], told["kept_bytes"])


async def test_a_version_is_handed_to_one_worker_and_leaves_its_row_when_it_is_history(database: Database) -> None:
    owner, org = await database.new_organization()

    async def write(path: str, content: str, version: int) -> None:
        given = {"org_id": org, "path": path, "content": content, "expected_version": version}
        assert code(await database.rpc(owner, "write_file", **given)) == ""

    async def rows() -> list[tuple[int, bool, bool]]:
        found = await database.admin(
            "select version, content is not null as here, stored_at is not null as there from pam.file_versions order by 1"
        )
        return [(row["version"], row["here"], row["there"]) for row in found]

    await write("a", "one", 0)
    await write("a", "two", 1)
    handed = await database.worker("list_unstored")
    assert [(one["version"], one["content"]) for one in handed] == [(1, "b25l"), (2, "dHdv")]
    assert await database.worker("list_unstored") == [], "another worker does not get them"
    named = [{key: one[key] for key in ("org_id", "file_id", "version", "sha256")} for one in handed]
    assert await database.worker("mark_stored", **{**named[0], "sha256": named[1]["sha256"]}) is False
    assert await database.worker("mark_stored", **named[0]) is True
    assert await database.worker("mark_stored", **named[1]) is True
    assert await rows() == [(1, False, True), (2, True, True)], "the newest stays for search and browsers"
    await write("a", "three", 2)
    assert await rows() == [(1, False, True), (2, False, True), (3, True, False)]
    await database.admin("update pam.file_versions set handed_at = now() - interval '2 minutes'")
    assert [one["version"] for one in await database.worker("list_unstored")] == [3]
    assert (await database.rpc(owner, "read_file", org_id=org, path="a"))["text"] == "three"


async def test_a_large_file_is_not_kept_in_its_row_and_a_browser_is_told(database: Database) -> None:
    owner, org = await database.new_organization()
    await database.rpc(owner, "write_file", org_id=org, path="big", content="x" * 1_048_577)
    assert (await database.rpc(owner, "read_file", org_id=org, path="big"))["size_bytes"] == 1_048_577
    (one,) = await database.worker("list_unstored")
    del one["content"]
    assert await database.worker("mark_stored", **one) is True
    answer = await database.rpc(owner, "read_file", org_id=org, path="big")
    assert answer["refused"] == {
        "code": "too_large",
        "message": "big holds 1048577 bytes: more than 1 MiB is read by runs, not from here.",
    }


async def test_no_row_loses_its_bytes_before_they_are_stored(database: Database) -> None:
    owner, org = await database.new_organization()
    await database.rpc(owner, "write_file", org_id=org, path="a", content="x")
    with pytest.raises(psycopg.errors.CheckViolation, match="file_versions_lie_somewhere"):
        await database.admin("update pam.file_versions set content = null")


async def test_a_quota_holds_under_eight_connections_and_nobody_of_the_organisation_sets_it(database: Database) -> None:
    owner, org = await database.new_organization()
    await database.owner("insert into pam.workspaces (org_id, max_files, max_bytes) values (%s, 5, 1000)", org)

    async def write(number: int, size: int) -> str:
        return code(await database.rpc(owner, "write_file", org_id=org, path=f"f{number}", content="x" * size))

    answers = await asyncio.gather(*(write(number, 10) for number in range(8)))
    assert sorted(answers) == ["", "", "", "", "", "limit", "limit", "limit"]
    await database.owner("update pam.workspaces set max_files = 100 where org_id = %s", org)
    answers = await asyncio.gather(*(write(10 + number, 300) for number in range(8)))
    assert answers.count("") == 3, "950 of 1,000 bytes"
    for change in ("max_bytes = 9e9", "max_files = 1e6", "kept_bytes = 0"):
        async with database.person(owner) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(f"update pam.workspaces set {change}".encode())
            await connection.rollback()


async def test_a_place_is_pulled_again_when_there_are_a_hundred_and_no_place_more(database: Database) -> None:
    owner, org = await database.new_organization()
    began = (await database.rpc(owner, "read_workspace", org_id=org))["now"]
    given = {"org_id": org, "path": "", "ref": "main", "commit_id": "0" * 40, "since": began}
    assert "commit_id" in await database.rpc(owner, "record_checkout", **given, remote="https://example.com/0")
    await database.admin(
        "insert into pam.checkouts (org_id, remote, path, ref, commit_id, pulled_by, pulled_at)"
        " select org_id, 'https://example.com/' || n, path, ref, commit_id, pulled_by, pulled_at"
        " from pam.checkouts, generate_series(1, 99) n where org_id = %s",
        org,
    )
    assert "commit_id" in await database.rpc(owner, "record_checkout", **given, remote="https://example.com/0")
    for since in ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"):
        odd = await database.rpc(owner, "record_checkout", **{**given, "since": since}, remote="https://example.com/0")
        assert odd["refused"]["code"] == "invalid"
    answer = await database.rpc(owner, "record_checkout", **given, remote="https://example.com/new")
    assert answer["refused"]["code"] == "limit"
