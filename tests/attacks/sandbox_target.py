"""What an attacker of the sandbox is told of the machine, all of it really there; and the attacks as an ordinary user.

Run as a program it carries out every attack and prints what got through, as JSON.
"""

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.attacks.sandbox_attacks import ATTACKS, CANARY, Attack, breach
from workers.sandbox.bubblewrap import Bubblewrap
from workers.sandbox.sandbox import InputFile, Program, Sandbox

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def target() -> AsyncIterator[InputFile]:
    """Servers, files and secrets to be reached for; they end with the context."""
    abstract = f"pam-target-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="pam-target-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        canary, door = folder / "canary", folder / "door"
        canary.write_text(CANARY)
        canary.chmod(0o644)
        tcp = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        unix = await asyncio.start_unix_server(lambda _, writer: writer.close(), door)
        door.chmod(0o777)
        hidden = socket.socket(socket.AF_UNIX)
        hidden.bind(f"\0{abstract}")
        hidden.listen()
        os.environ["PAM_CANARY"] = CANARY
        here = {
            "port": tcp.sockets[0].getsockname()[1],
            "abstract": abstract,
            "socket": str(door),
            "canary": str(canary),
            "state": str(folder),
            "checkout": str(ROOT),
            "packages": next(path for path in sys.path if (Path(path) / "psycopg").exists()),
            "pid": os.getpid(),
        }
        try:
            yield InputFile("here.json", json.dumps(here).encode())
        finally:
            del os.environ["PAM_CANARY"]
            hidden.close()
            unix.close()
            tcp.close()


async def attempted(sandbox: Sandbox, attack: Attack, here: InputFile) -> str | None:
    """Carry out one attack; what got through, or None."""
    outcome = await sandbox.run(Program(attack.language, attack.program), (here,), attack.limits)
    return breach(attack, outcome)


async def main(home: Path) -> None:
    """Every attack, two at a time, as whoever runs this."""
    sandbox = Bubblewrap(home=home)
    at_once = asyncio.Semaphore(2)

    async def one(attack: Attack) -> tuple[str, str | None]:
        async with at_once:
            return attack.tried, await attempted(sandbox, attack, here)

    async with target() as here:
        found = dict(await asyncio.gather(*(one(attack) for attack in ATTACKS)))
    breaches = {tried: what for tried, what in found.items() if what}
    print(json.dumps({"uid": os.getuid(), "tried": len(found), "breaches": breaches}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
