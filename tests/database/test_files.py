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
    assert code(await database.rpc(owner, "write_file", org_id=org, path="big", content="x" * 1_048_577)) == "too_large"
    assert code(await database.rpc(owner, "write_file", org_id=org, path="fits", content="x" * 1_048_576)) == ""
    assert (await audit(database, org, "file.write")) == [False] * (len(bad) + 1) + [True]


async def test_the_workspace_is_bounded_in_bytes_and_in_files(database: Database) -> None:
    owner, org = await database.new_organization()
    other, there = await database.new_organization()
    insert = (
        "insert into pam.files (org_id, path, version, sha256, size_bytes, is_text, kept_bytes, updated_by)"
        " select %s, 'f' || n, 1, '', 1, true, %s, %s from generate_series(1, %s) n"
    )
    await database.admin(insert, org, 1_073_741_824 // 4, owner, 4)
    await database.admin(insert, there, 1, other, 20_000)
    assert code(await database.rpc(owner, "write_file", org_id=org, path="more", content="x")) == "limit"
    assert code(await database.rpc(owner, "write_file", org_id=org, path="none", content="")) == ""
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
