"""file_read, file_write, file_list: a workspace of paths that are names, versions that are kept, and limits."""

import asyncio
import base64
import random
import re
import time
from itertools import product
from typing import Any

import pytest

from tests.support.bench import Bench
from workers.tools import workspace_path
from workers.tools.path_pattern import PathPattern

# (what is tried, the path, a word of the reason)
PATHS = [
    ("nothing", "", "empty"),
    ("a parent", "../secret", ". or .."),
    ("a parent in the middle", "a/../../secret", ". or .."),
    ("a parent at the end", "a/..", ". or .."),
    ("here", ".", ". or .."),
    ("here in the middle", "a/./b", ". or .."),
    ("the root", "/etc/passwd", "relative"),
    ("the root twice", "//etc/passwd", "relative"),
    ("a process", "/proc/self/environ", "relative"),
    ("a home", "~/.ssh/id_rsa", "relative"),
    ("somebody's home", "~root/x", "relative"),
    ("a drive", "C:/Windows/x", "relative"),
    ("a drive's own folder", "c:x", "relative"),
    ("a backslash", "a\\b", "backslash"),
    ("parents by backslash", "..\\..\\secret", "backslash"),
    ("a share", "\\\\server\\share", "backslash"),
    ("a line end", "a\nb", "control"),
    ("a carriage return", "a\rb", "control"),
    ("a tabulator", "a\tb", "control"),
    ("an escape", "a\x1b[2Jb", "control"),
    ("a delete", "a\x7fb", "control"),
    ("a bell", "\x07", "control"),
    ("an empty part", "a//b", "empty part"),
    ("a folder", "a/", "empty part"),
    ("a very long name", "x" * 401, "longer than 400"),
    ("many parts", "a/" * 300 + "b", "longer than 400"),
    ("letters taken apart", "cafe\u0301.txt", "NFC"),
    ("a sign with two codes", "\u212bngstrom", "NFC"),
    ("Korean taken apart", "\u1100\u1161", "NFC"),
]
MALFORMED = [("NUL", "a\0b"), ("NUL and an ending", "secret\0.txt"), ("half a character", "a\ud800b")]
# Names that only look dangerous: each is one file of the workspace and nothing else.
NAMES = [
    "..secret",
    "a/...",
    "a/..b/c",
    ".env",
    "%2e%2e/secret",
    "..%2fsecret",
    "file:etc/passwd",
    "$(id)",
    "`id`",
    "a;b|c&d",
    "-rf",
    "'; drop table pam.files; --",
    "CON",
    "a b",
    "\u2025/secret",
    "\uff0e\uff0e/secret",
    "a\u2215b",
    "\u202egnp.exe",
    "x" * 400,
    "\U0001f4c4.txt",
]


@pytest.mark.parametrize(("path", "word"), [pytest.param(path, word, id=name) for name, path, word in PATHS])
async def test_what_is_no_path_is_refused_by_the_tool_and_by_the_database(bench: Bench, path: str, word: str) -> None:
    for tool, more in (("file_read", {}), ("file_write", {"content": "x"})):
        status, text = await bench.use(tool, path=path, **more)
        assert (status, word in text) == ("refused", True), text
    said = await bench.database.admin("select pam_private.path_fault(%s) as fault", path)
    assert said[0]["fault"] == workspace_path.fault(path), "one rule, in two places"


@pytest.mark.parametrize("path", [pytest.param(path, id=name) for name, path in MALFORMED])
async def test_what_is_no_text_is_no_path(bench: Bench, path: str) -> None:
    assert workspace_path.fault(path)
    assert (await bench.use("file_write", path=path, content="x"))[0] == "failed"


async def test_an_odd_name_is_a_name_and_nothing_more(bench: Bench) -> None:
    for name in NAMES:
        said = await bench.database.admin("select pam_private.path_fault(%s) as fault", name)
        assert said[0]["fault"] is None
        assert (await bench.use("file_write", path=name, content=f"I am {name}"))[0] == "succeeded", name
        assert (await bench.use("file_read", path=name))[1].endswith(f":\nI am {name}")
    _, listing = await bench.use("file_list")
    assert listing.startswith(f"{len(NAMES)} files match **")


def test_the_attacks_are_many() -> None:
    assert len(PATHS) + len(MALFORMED) >= 30


async def test_a_file_is_created_overwritten_and_edited_and_every_version_is_kept(bench: Bench) -> None:
    status, text = await bench.use("file_write", path="a.txt", content="one\ntwo\n")
    assert (status, text.splitlines()[0]) == ("succeeded", "a.txt is written, version 1, 8 bytes.")
    status, text = await bench.use("file_write", path="a.txt", content="one\n2\n", version=1)
    assert status == "succeeded"
    assert "-two\n+2" in text
    status, text = await bench.use("file_write", path="a.txt", replace="2", replacement="zwei")
    assert (status, text.splitlines()[0]) == ("succeeded", "a.txt is written, version 3, 9 bytes.")
    assert (await bench.use("file_read", path="a.txt"))[1] == "a.txt (version 3, lines 1–2 of 2):\none\nzwei\n"
    kept = await bench.database.admin(
        "select v.version, v.content from pam.file_versions v where v.org_id = %s order by v.version", bench.org_id
    )
    assert [bytes(row["content"]) for row in kept] == [b"one\ntwo\n", b"one\n2\n", b"one\nzwei\n"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"content": "new"}, "exists already, at version 1: read it, then give version=1"),
        ({"content": "new", "version": 2}, "is at version 1, not 2: read it again"),
        ({"replace": "x", "replacement": "y", "version": 7}, "is at version 1, not 7"),
        ({"replace": "a", "replacement": "b"}, "stands in f.txt 3 times; it must stand there exactly once: take more"),
        ({"replace": "nowhere", "replacement": "b"}, "0 times; it must stand there exactly once: copy it exactly"),
        ({"replace": "", "replacement": "b"}, "0 times"),
        ({}, "Give either content (the whole text) or replace and replacement"),
        ({"content": "x", "replace": "a"}, "Give either content (the whole text) or replace and replacement"),
        ({"content": "x" * 1_048_577, "version": 1}, "may hold 1 MiB"),
        ({"content": "é" * 600_000, "version": 1}, "may hold 1 MiB"),
    ],
)
async def test_a_write_that_does_not_fit_is_told_and_changes_nothing(
    bench: Bench, arguments: dict[str, Any], told: str
) -> None:
    await bench.use("file_write", path="f.txt", content="a a a")
    status, text = await bench.use("file_write", path="f.txt", **arguments)
    assert status == "failed"
    assert told in text
    assert (await bench.use("file_read", path="f.txt"))[1] == "f.txt (version 1, lines 1–1 of 1):\na a a"


async def test_an_edit_of_a_file_that_is_not_there_is_told(bench: Bench) -> None:
    status, text = await bench.use("file_write", path="none.txt", replace="a", replacement="b")
    assert (status, text) == ("failed", "There is no file none.txt to edit: give content to create it.")
    status, text = await bench.use("file_write", path="none.txt", content="a", version=3)
    assert (status, "at version 0, not 3" in text) == ("failed", True)


async def test_of_two_runs_that_write_one_file_at_once_one_wins_and_the_others_are_told(bench: Bench) -> None:
    rivals = [bench] + [await bench.beside() for _ in range(3)]
    told = await asyncio.gather(
        *(rival.use("file_write", path="race.txt", content=f"by {place}") for place, rival in enumerate(rivals))
    )
    assert sorted(status for status, _ in told) == ["failed", "failed", "failed", "succeeded"]
    assert all("exists already, at version 1" in text for status, text in told if status == "failed")
    winner = next(place for place, (status, _) in enumerate(told) if status == "succeeded")
    assert (await bench.use("file_read", path="race.txt"))[1].endswith(f"by {winner}")
    told = await asyncio.gather(
        *(
            rival.use("file_write", path="race.txt", content=f"now {place}", version=1)
            for place, rival in enumerate(rivals)
        )
    )
    assert sorted(status for status, _ in told) == ["failed", "failed", "failed", "succeeded"]


async def test_a_write_repeated_after_its_worker_was_lost_finds_its_own_version(bench: Bench) -> None:
    call = await bench.effect_without_outcome("file_write", path="once.txt", content="x")
    await bench.use("file_write", path="once.txt", content="later", version=1)
    done = await bench.carry_out(call)
    assert done.result == "once.txt is written, version 1 (by this call, before its worker was lost)."
    assert (await bench.use("file_read", path="once.txt"))[1].endswith("(version 2, lines 1–1 of 1):\nlater")


async def test_another_organisations_files_are_not_there(bench: Bench) -> None:
    await bench.use("file_write", path="mine.txt", content="secret")
    other = await bench.elsewhere()
    assert (await other.use("file_read", path="mine.txt"))[0] == "failed"
    assert (await other.use("file_list"))[1] == "0 files match **"
    assert (await other.use("file_list", search="secret"))[1] == "0 lines match in 0 files"
    assert (await other.use("file_write", path="mine.txt", content="theirs"))[0] == "succeeded"
    assert (await bench.use("file_read", path="mine.txt"))[1].endswith("secret")
    found = await other.use("file_list", search="secret|theirs")
    assert found[1] == "1 lines match in 1 files\nmine.txt:1: theirs", "both have the path, each its own lines"


async def test_ranges_of_lines(bench: Bench) -> None:
    await bench.use("file_write", path="n.txt", content="".join(f"line {n}\n" for n in range(1, 11)))
    read = await bench.use("file_read", path="n.txt", first_line=3, last_line=4)
    assert read == ("succeeded", "n.txt (version 1, lines 3–4 of 10):\nline 3\nline 4\n")
    assert (await bench.use("file_read", path="n.txt", first_line=10, last_line=99))[1].endswith(
        "10–10 of 10):\nline 10\n"
    )
    assert "line 11 is beyond its end" in (await bench.use("file_read", path="n.txt", first_line=11))[1]
    assert "must not lie behind" in (await bench.use("file_read", path="n.txt", first_line=5, last_line=4))[1]
    assert (await bench.use("file_read", path="n.txt", first_line=0))[0] == "failed"
    await bench.use("file_write", path="empty.txt", content="")
    assert await bench.use("file_read", path="empty.txt") == ("succeeded", "empty.txt (version 1, empty):\n")


async def test_too_much_text_is_read_by_ranges(bench: Bench) -> None:
    await bench.use("file_write", path="long.txt", content="0123456789\n" * 10_000)
    status, text = await bench.use("file_read", path="long.txt")
    head = "long.txt (version 1, lines 1–5454 of 10000; 60,000 characters can be read at once, go on with first_line 5455):"
    assert (status, text.splitlines()[0], text.count("0123456789")) == ("succeeded", head, 5454)
    status, text = await bench.use("file_read", path="long.txt", first_line=5455)
    assert (status, text.splitlines()[0]) == ("succeeded", "long.txt (version 1, lines 5455–10000 of 10000):")


async def put_bytes(bench: Bench, path: str, content: bytes) -> None:
    """A file that no tool could write: put there by the database's owner."""
    await bench.database.admin(
        "select pam_private.write_file(%s, %s, null, %s, %s, 0)", bench.org_id, bench.user_id, path, content
    )


async def test_binary_files_are_shown_as_base64_while_they_are_small(bench: Bench) -> None:
    small, large = b"\x89PNG\x00\xff" * 10, b"\x00" * 32_769
    await put_bytes(bench, "small.png", small)
    await put_bytes(bench, "large.bin", large)
    status, text = await bench.use("file_read", path="small.png")
    assert (status, base64.b64decode(text.split("\n")[1])) == ("succeeded", small)
    status, text = await bench.use("file_read", path="large.bin")
    assert (status, text) == ("failed", "large.bin is binary and holds 32,769 bytes; up to 32,768 can be shown.")
    assert "large.bin  32769 bytes  version 1  binary" in (await bench.use("file_list"))[1]
    assert (await bench.use("file_list", search="PNG"))[1].startswith("0 lines match")
    status, _ = await bench.use("file_write", path="small.png", replace="PNG", replacement="JPG")
    assert status == "failed", "an edit never garbles what is no text"


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("**", ["a.py", "app/b.py", "app/deep/c.py", "app/x.txt", "[odd].py"]),
        ("*.py", ["a.py", "[odd].py"]),
        ("**/*.py", ["a.py", "app/b.py", "app/deep/c.py", "[odd].py"]),
        ("app/*", ["app/b.py", "app/x.txt"]),
        ("app/**", ["app/b.py", "app/deep/c.py", "app/x.txt"]),
        ("app/**/c.py", ["app/deep/c.py"]),
        ("app/**/b.py", ["app/b.py"]),
        ("?.py", ["a.py"]),
        ("app?b.py", []),
        ("[odd].py", ["[odd].py"]),
        ("[a-z].py", []),
        ("a.p.", []),
        ("(a|b).py", []),
        ("../**", []),
        ("**/app/*.txt", ["app/x.txt"]),
        ("a**/b.py", ["app/b.py"]),
        ("a.py", ["a.py"]),
        ("*[odd]*", ["[odd].py"]),
    ],
)
async def test_globs_are_over_whole_paths(bench: Bench, pattern: str, paths: list[str]) -> None:
    for path in ("a.py", "app/b.py", "app/deep/c.py", "app/x.txt", "[odd].py"):
        await bench.use("file_write", path=path, content="x")
    status, text = await bench.use("file_list", pattern=pattern)
    assert status == "succeeded"
    assert sorted(line.split("  ")[0] for line in text.splitlines()[1:]) == sorted(paths)


@pytest.mark.parametrize("pattern", ["*a" * 199 + "b", "**/" * 133 + "b", "*" * 399 + "b", "**a" * 133])
async def test_a_glob_of_many_stars_takes_no_time(pattern: str) -> None:
    wanted = PathPattern(pattern)
    began = time.process_time()
    for _ in range(100):
        wanted.matches("a" * 400)
        wanted.matches("a/" * 199 + "a")
    assert time.process_time() - began < 5


def test_the_globs_one_pass_finds_what_trying_every_way_finds() -> None:
    spelled = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    paths = ["".join(letters) for size in range(1, 6) for letters in product("ab/", repeat=size)]
    pieces = ["a", "b", "/", "?", "*", "**", "**/"]
    for pattern in ("".join(chosen) for size in range(1, 5) for chosen in product(pieces, repeat=size)):
        parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
        slow = re.compile("".join(spelled.get(part, re.escape(part)) for part in parts))
        fast = PathPattern(pattern)
        for path in random.Random(pattern).sample(paths, 12):
            assert fast.matches_in_one_pass(path) == bool(slow.fullmatch(path)), (pattern, path)
            assert fast.matches(path) == fast.matches_in_one_pass(path), (pattern, path)
            if fast.matches(path):
                assert path.startswith(fast.beginning), (pattern, path)
                assert path.endswith(fast.ending), (pattern, path)


async def test_lines_are_searched_by_expression(bench: Bench) -> None:
    await bench.use("file_write", path="a.py", content="import os\n\ndef one():\n    return 1\n")
    await bench.use("file_write", path="b.txt", content="def two\n")
    _, text = await bench.use("file_list", search=r"^def \w+")
    assert text == "2 lines match in 2 files\na.py:3: def one():\nb.txt:1: def two"
    assert (await bench.use("file_list", pattern="*.py", search="def"))[
        1
    ] == "1 lines match in 1 files\na.py:3: def one():"
    status, text = await bench.use("file_list", search="(unclosed")
    assert (status, "'(unclosed' is no regular expression" in text) == ("failed", True)


async def test_more_lines_than_can_be_shown_are_said_to_be_more(bench: Bench) -> None:
    await bench.use("file_write", path="many.txt", content="same\n" * 300)
    _, text = await bench.use("file_list", search="same")
    assert text.startswith("200 lines match")
    assert text.endswith("[at least 200 lines: narrow the glob or the expression]")


async def test_an_expression_that_never_ends_is_stopped(bench: Bench) -> None:
    await bench.use("file_write", path="long.txt", content="a" * 2001 + "b")
    began = time.monotonic()
    status, text = await bench.use("file_list", search=r"^(a+)(a+)(a+)\1\2\3b$")
    assert (status, "took longer than 5 s" in text) == ("failed", True)
    assert time.monotonic() - began < 8
    searching = "select pid from pg_stat_activity where state = 'active' and query like '%search_files%' and pid <> pg_backend_pid()"
    assert await bench.database.admin(searching) == [], "the server has stopped, too"
    assert (await bench.use("file_list"))[0] == "succeeded"
