"""Paths as an attacker spells them, at every door that takes one: tools, verbs, browsers, blobs, repositories.

Each entry is a mechanism of its own; what stopped it stands beside it. Zero may get through.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from infra.local.facts import StackFacts
from tests.database.test_organizations import audit, code
from tests.support.bench import Bench
from tests.support.database import Template
from workers.kernel.blobs import BlobAbsent, BlobBroken, FolderBlobs
from workers.kernel.envelope import Envelope
from workers.kernel.key_file import LocalKeyRing

# mechanism → (the path, a word of the sentence that stops it)
SPELLED = {
    "a parent": ("../../etc/passwd", ". or .. as a part"),
    "a parent behind a folder": ("a/../../etc/passwd", ". or .. as a part"),
    "a parent at the end": ("a/..", ". or .. as a part"),
    "the folder itself": ("./x", ". or .. as a part"),
    "the root": ("/etc/passwd", "relative"),
    "a network's root": ("//server/share", "relative"),
    "a home": ("~/.ssh/id_rsa", "relative"),
    "a drive": ("C:/Windows/win.ini", "relative"),
    "a drive's own folder": ("c:secrets.txt", "relative"),
    "a backslash": ("..\\..\\secret", "backslash"),
    "a device namespace": ("\\\\?\\C:\\secret", "backslash"),
    "a control character": ("a\x1b]0;x\x07", "control"),
    "a line that follows": ("a.txt\nb.txt", "control"),
    "an empty part": ("a//b", "empty part"),
    "a folder for a file": ("a/b/", "empty part"),
    "letters taken apart": ("cafe\u0301.txt", "NFC"),
    "a sign that composes to another": ("\u212bngstrom", "NFC"),
    "more than a path holds": ("x" * 401, "longer than 400"),
    "PAM's own folder": (".pam/results/x", "PAM's own"),
    "PAM's own folder in capitals": (".PAM/results/x", "PAM's own"),
    "PAM's own folder as a file": (".pam", "PAM's own"),
    "nothing": ("", "empty"),
}
# mechanism → a path that no JSON argument or database value can hold
UNSPEAKABLE = {"NUL": "a\0b", "NUL before an ending": "secret\0.txt", "half a character": "a\ud800b"}
# mechanism → a name that is one file of the workspace and nothing more: nobody decodes, folds or expands it
ONLY_NAMES = {
    "percent encoding": "%2e%2e%2fsecret",
    "percent encoding, twice": "%252e%252e%252fsecret",
    "overlong UTF-8 as text": "%c0%ae%c0%ae/secret",
    "a full-width dot": "\uff0e\uff0e/secret",
    "a slash that is none": "..\u2215secret",
    "a dot leader": "\u2025/secret",
    "a change of direction": "\u202etxt.exe",
    "an address": "file:/etc/passwd",
    "a shell's word": "$(id)`id`;id|id",
    "an option": "--help",
    "a query": "'; drop table pam.files; --",
    "a glob": "*",
    "a device of Windows": "CON",
    "a stream of NTFS": "a.txt::$DATA",
}


@dataclass(frozen=True)
class Attacker:
    """A run in an organisation, a victim's run in another, and what was tried."""

    own: Bench
    victim: Bench


@pytest.fixture(scope="module")
async def first(template: Template, stack: StackFacts) -> AsyncIterator[Bench]:
    """A database of this module's own."""
    async with template.clone() as cloned, Bench.open(cloned, stack) as opened:
        yield opened


@pytest.fixture
async def attacker(first: Bench) -> Attacker:
    """Two organisations; the victim's has a secret."""
    own, victim = await first.elsewhere(), await first.elsewhere()
    await victim.use("file_write", path="secret.txt", content="the word is heron")
    return Attacker(own, victim)


async def paths_in(bench: Bench) -> list[str]:
    rows = await bench.database.admin("select path from pam.files where org_id = %s order by 1", bench.org_id)
    return [row["path"] for row in rows]


@pytest.mark.parametrize("mechanism", SPELLED)
async def test_a_path_that_is_none_is_refused_at_every_door_in_one_sentence(attacker: Attacker, mechanism: str) -> None:
    path, word = SPELLED[mechanism]
    bench = attacker.own
    for tool, more in (("file_read", {}), ("file_write", {"content": "x"})):
        status, text = await bench.use(tool, path=path, **more)
        assert (status, word in text, "\n" in text) == ("refused", True, False), (tool, text)
    held = {"run_id": bench.hold.run_id, "fence": bench.hold.fence}
    given = {"call": None, "path": path, "content": "eA==", "expected_version": 0}
    assert code(await bench.database.worker("write_file", **held, **given)) == "invalid"
    assert code(await bench.database.worker("read_file", **held, path=path)) == "not_found"
    rpc, org = bench.database.rpc, bench.org_id
    assert code(await rpc(bench.user_id, "write_file", org_id=org, path=path, content="x")) == "invalid"
    (one,) = (await rpc(bench.user_id, "write_files", org_id=org, files=[{"path": path, "text": "x"}]))["files"]
    assert code(one) == "invalid"
    assert code(await rpc(bench.user_id, "read_file", org_id=org, path=path)) == "not_found"
    assert await paths_in(bench) == []
    assert await audit(bench.database, org, "file.write") == [False, False]
    assert await audit(bench.database, org, "tool.file_write") == [True, False], "the intent, and that it was refused"


@pytest.mark.parametrize("mechanism", UNSPEAKABLE)
async def test_what_is_no_text_reaches_no_door(attacker: Attacker, mechanism: str) -> None:
    path, bench = UNSPEAKABLE[mechanism], attacker.own
    assert (await bench.use("file_write", path=path, content="x"))[0] == "failed"
    with pytest.raises((psycopg.Error, UnicodeEncodeError)):
        await bench.database.rpc(bench.user_id, "write_file", org_id=bench.org_id, path=path, content="x")
    with pytest.raises((psycopg.Error, UnicodeEncodeError)):
        await bench.database.rpc(bench.user_id, "write_files", org_id=bench.org_id, files=[{"path": path, "text": "x"}])
    assert await paths_in(bench) == []


@pytest.mark.parametrize("mechanism", ONLY_NAMES)
async def test_a_name_that_only_looks_like_a_way_out_is_one_file(attacker: Attacker, mechanism: str) -> None:
    name, bench = ONLY_NAMES[mechanism], attacker.own
    assert (await bench.use("file_write", path=name, content=mechanism))[0] == "succeeded"
    assert await paths_in(bench) == [name]
    assert (await bench.use("file_read", path=name))[1].endswith(f":\n{mechanism}")
    assert code(await bench.database.rpc(bench.user_id, "read_file", org_id=bench.org_id, path="secret")) == "not_found"


async def test_another_organisations_file_cannot_be_named_by_any_argument(attacker: Attacker) -> None:
    own, victim = attacker.own, attacker.victim
    for path in ("secret.txt", f"{victim.org_id}/secret.txt", f"org/{victim.org_id}/secret.txt"):
        assert (await own.use("file_read", path=path))[0] == "failed"
    assert "org_id: Extra inputs" in (await own.use("file_read", path="secret.txt", org_id=str(victim.org_id)))[1]
    assert (await own.use("file_list", search="heron"))[1] == "0 lines match in 0 files"
    assert (await own.use("file_list", pattern="*secret*"))[1].startswith("0 files match")
    for function, more in (("read_file", {"path": "secret.txt"}), ("read_workspace", {})):
        answer = await own.database.rpc(own.user_id, function, org_id=victim.org_id, **more)
        assert code(answer) == "not_found"
    for function in ("list_workspace", "explain_changes"):
        more = ", array['secret.txt'], '2020-01-01'" if function == "explain_changes" else ""
        for bench, sees in ((own, False), (victim, True)):
            async with bench.database.person(bench.user_id) as connection:
                asked = f"select pam.{function}(%s{more}) as answer"
                row = await (await connection.execute(asked.encode(), [victim.org_id])).fetchone()
            assert row is not None
            assert ("secret" in json.dumps(row["answer"])) is sees, function
    async with own.database.person(own.user_id) as connection:
        for table in ("files", "file_versions", "workspaces", "checkouts"):
            rows = await connection.execute(f"select 1 from pam.{table} where org_id = %s".encode(), [victim.org_id])
            assert await rows.fetchall() == [], table


async def test_a_version_of_another_file_is_not_guessed(attacker: Attacker) -> None:
    own = attacker.own
    await own.use("file_write", path="a.txt", content="one")
    for version in (0, -1, 2, 2**31 - 1, 2**31, 2**63, "1 or 1=1", 1.5):
        assert (await own.use("file_read", path="a.txt", version=version))[0] == "failed", version
        assert (await own.use("file_write", path="a.txt", content="x", version=version))[0] == "failed", version


async def test_a_stored_result_of_another_organisation_is_not_there(attacker: Attacker) -> None:
    own, victim = attacker.own, attacker.victim
    call = await victim.carry_out(await victim.planned("file_read", {"path": "secret.txt"}))
    said = [(await own.use("file_read", path=f".pam/results/{name}"))[1] for name in (call.id, uuid4())]
    assert [text.replace(str(call.id), "?")[:26] for text in said] == ["There is no stored result "] * 2
    for odd in (f"{call.id}/../x", f"../{call.id}", str(call.id).upper(), f"{call.id}\n", "*"):
        assert (await own.use("file_read", path=f".pam/results/{odd}"))[0] == "refused", odd


async def test_a_blob_cannot_be_read_or_found_by_its_digest_from_another_organisation(attacker: Attacker) -> None:
    own, victim = attacker.own, attacker.victim
    while await victim.services.workspace.store(victim.hold.gateway):
        pass
    secret = b"the word is heron"
    blobs = own.services.workspace._blobs  # what a tool has in its hands
    for sha256 in (hashlib.sha256(secret).hexdigest(), hashlib.sha256(b"nobody's").hexdigest()):
        with pytest.raises(BlobAbsent):
            await blobs.get(own.org_id, sha256)
    # Writing the same bytes tells nothing either: the answer is as for any other, and both are kept.
    answers = [
        await own.use("file_write", path=name, content=text) for name, text in (("a", secret.decode()), ("b", "x" * 17))
    ]
    assert [text.splitlines()[0][1:] for _, text in answers] == [" is written, version 1, 17 bytes."] * 2
    while await own.services.workspace.store(own.hold.gateway):
        pass
    assert await blobs.get(own.org_id, hashlib.sha256(secret).hexdigest()) == secret


async def test_a_digest_is_nobodys_word_but_the_databases(attacker: Attacker) -> None:
    own = attacker.own
    await own.database.rpc(
        own.user_id, "write_files", org_id=own.org_id, files=[{"path": "a", "text": "good", "sha256": "0" * 64}]
    )
    (handed,) = [one for one in await own.database.worker("list_unstored") if one["org_id"] == str(own.org_id)]
    assert handed["sha256"] == hashlib.sha256(b"good").hexdigest()
    named = {key: handed[key] for key in ("org_id", "file_id", "version", "sha256")}
    for wrong in (
        {"sha256": "0" * 64},
        {"version": 2},
        {"org_id": str(attacker.victim.org_id)},
        {"file_id": str(uuid4())},
    ):
        assert await own.database.worker("mark_stored", **{**named, **wrong}) is False
    rows = await own.database.admin("select content from pam.file_versions where org_id = %s", own.org_id)
    assert [bytes(row["content"]) for row in rows] == [b"good"], "nothing was let go of"
    with pytest.raises(BlobBroken):
        await own.services.workspace._blobs.put(own.org_id, handed["sha256"], b"evil")


async def test_what_was_exchanged_in_the_storage_is_never_handed_to_the_model(
    attacker: Attacker, tmp_path: Path
) -> None:
    own = attacker.own
    folder = Path(own.services.workspace._blobs._folder)  # type: ignore[attr-defined]
    for version, text in enumerate(("one", "two")):
        await own.use("file_write", path="a.txt", content=text, **({"version": version} if version else {}))
    while await own.services.workspace.store(own.hold.gateway):
        pass
    one, two = (folder / "org" / str(own.org_id) / hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    exchanged = await own.use("file_read", path="a.txt", version=1)
    one.unlink()
    os.symlink("/etc/passwd", one)
    linked = await own.use("file_read", path="a.txt", version=1)
    one.unlink()
    gone = await own.use("file_read", path="a.txt", version=1)
    told = ("failed", "file_read could not be carried out now: a.txt, version 1, cannot be read from object storage.")
    assert [exchanged, linked, gone] == [told] * 3
    one.write_bytes(kept)
    assert (await own.use("file_read", path="a.txt", version=1))[1].endswith("one")


async def test_blobs_of_a_copied_folder_do_not_open_without_its_key(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        LocalKeyRing.make_file(tmp_path / name / "keys.json")
    ours, thief = (
        FolderBlobs(folder=tmp_path / "files", envelope=Envelope(ring=LocalKeyRing(file=tmp_path / name / "keys.json")))
        for name in ("ours", "theirs")
    )
    org, sha256 = uuid4(), hashlib.sha256(b"x").hexdigest()
    await ours.put(org, sha256, b"x")
    with pytest.raises(BlobBroken, match="holds no key"):
        await thief.get(org, sha256)


async def test_a_quota_is_not_raced_past_from_eight_connections(attacker: Attacker) -> None:
    own = attacker.own
    await own.database.owner(
        "insert into pam.workspaces (org_id, max_files, max_bytes) values (%s, 100, 1000)", own.org_id
    )
    rivals = [own] + [await own.beside() for _ in range(7)]
    told = await asyncio.gather(
        *(rival.use("file_write", path=f"f{n}", content="x" * 300) for n, rival in enumerate(rivals))
    )
    assert sorted(status for status, _ in told) == ["failed"] * 5 + ["succeeded"] * 3
    assert {text for status, text in told if status == "failed"} == {
        "The workspace and its earlier versions hold 900 bytes of 1000: 300 more do not fit."
    }
    (row,) = await own.database.admin("select files, kept_bytes from pam.workspaces where org_id = %s", own.org_id)
    assert (row["files"], row["kept_bytes"]) == (3, 900)


async def test_a_file_larger_than_the_workspace_takes_is_refused_before_it_is_kept(attacker: Attacker) -> None:
    own = attacker.own
    big = {"call": None, "path": "big", "content": "A" * (45 * 1_048_576), "expected_version": 0}
    held = {"run_id": own.hold.run_id, "fence": own.hold.fence}
    assert code(await own.database.worker("write_file", **held, **big)) == "too_large"
    assert await paths_in(own) == []


def test_the_mechanisms_are_many_and_each_is_its_own() -> None:
    spelled = [*SPELLED, *UNSPEAKABLE, *ONLY_NAMES]
    others = [name for name in globals() if name.startswith("test_")]
    assert len(spelled) >= 36
    assert len(others) >= 12
