"""`python -m workers.sandbox` says which sandbox holds here; `… install` fetches the fallback, once, with network."""

import asyncio
import os
import sys

from workers.sandbox import pyodide
from workers.sandbox.probe import probe, sandbox_home
from workers.sandbox.sandbox import SandboxRefused


async def main(words: list[str]) -> int:
    """Exit status 1 when nothing holds or the fallback could not be fetched."""
    home = sandbox_home(os.environ.get("PAM_HOME"))
    if words == ["install"]:
        try:
            print(f"Pyodide is in {await pyodide.install(home)}.")
        except SandboxRefused as why:
            print(f"pam sandbox: {why}", file=sys.stderr)
            return 1
        return 0
    if words:
        print("usage: python -m workers.sandbox [install]", file=sys.stderr)
        return 2
    sandbox = await probe(home=home)
    print(sandbox.summary)
    return 0 if sandbox.languages else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
