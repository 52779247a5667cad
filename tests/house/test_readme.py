"""README's `.env` names every setting that the programs read, and each once."""

import re
from collections import Counter

from tests.house.tree import ROOT

# For the embedded stack alone, which sets it; and the command line's own folder, which no .env can name.
NOT_FOR_ENV_FILES = {"PAM_OUTBOUND_LOOPBACK", "PAM_HOME"}


def test_every_setting_stands_in_the_annotated_env_file_once() -> None:
    told = (ROOT / "README.md").read_text().split("# .env: every name", 1)[1].split("```", 1)[0]
    lines = Counter(re.findall(r"^([A-Z][A-Z0-9_]+)=", told, re.MULTILINE))
    assert [name for name, count in lines.items() if count > 1] == []

    read: set[str] = set()
    for folder in ("workers", "functions", "infra/cli", "infra/owner"):
        for file in (ROOT / folder).rglob("*.py"):
            read |= set(
                re.findall(r'(?:get\(|required\(\s*\w+(?:\.\w+)?, |_whole\(\w+, )"(PAM_[A-Z_]+)"', file.read_text())
            )
    assert len(read) > 20
    assert {name for name in read - NOT_FOR_ENV_FILES if not re.search(rf"\b{name}\b", told)} == set()
