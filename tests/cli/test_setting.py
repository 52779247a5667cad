"""Where a command works: what .env may say, what stands above it, and which organisation is meant."""

from pathlib import Path

import pytest

from infra.cli.person import CommandFailed
from infra.cli.setting import Place, environment, read_dotenv
from infra.local.facts import StackFacts
from tests.cli.test_workspace import Desk

ENV = """
# a comment

PLAIN=a value   # and why
export EXPORTED=yes
QUOTED="a # b"
SINGLE='it is = "this"'
ODD="
HALF="half
URL=postgresql://me:p#w@host/db?a=b
EMPTY=
"""


def test_lines_of_an_env_file_are_read_as_shells_read_them(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(ENV)

    assert read_dotenv(tmp_path / ".env") == {
        "PLAIN": "a value",
        "EXPORTED": "yes",
        "QUOTED": "a # b",
        "SINGLE": 'it is = "this"',
        "ODD": '"',
        "HALF": '"half',
        "URL": "postgresql://me:p#w@host/db?a=b",
        "EMPTY": "",
    }
    assert read_dotenv(tmp_path / "none") == {}


@pytest.mark.parametrize("line", ["what is this", "word", "two words=x", "=x", "PAM-MODEL=x", "1A=x"])
def test_a_line_that_is_no_setting_is_named_and_nothing_is_guessed(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"A=1\n\n{line}\n")

    with pytest.raises(CommandFailed, match=r"/\.env:3: expected NAME=value$") as caught:
        read_dotenv(tmp_path / ".env")
    assert line not in str(caught.value), "it may be a secret"


def test_the_environment_stands_above_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PAM_ORG_ID=file\nPAM_EMAIL=file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAM_ORG_ID", "environment")
    monkeypatch.delenv("PAM_EMAIL", raising=False)

    told = environment()

    assert (told["PAM_ORG_ID"], told["PAM_EMAIL"]) == ("environment", "file")


async def test_of_several_organisations_one_is_named_and_no_foreign_one_is_taken(
    stack: StackFacts, tmp_path: Path
) -> None:
    desk, other = await Desk.sit(stack, tmp_path), await Desk.sit(stack, tmp_path)

    async def chosen(**env: str) -> str:
        place = Place(stack.url, stack.publishable_key, None, {**desk.env, **env})
        return await place.organization(desk.person)

    assert await chosen() == desk.org_id
    second = str((await desk.person.call("create_organization", name="Second"))["org_id"])
    with pytest.raises(CommandFailed, match="set PAM_ORG_ID to one of") as caught:
        await chosen()
    assert desk.org_id in str(caught.value)
    assert await chosen(PAM_ORG_ID=second) == second
    with pytest.raises(CommandFailed, match="PAM_ORG_ID names no organisation that you belong to"):
        await chosen(PAM_ORG_ID=other.org_id)
