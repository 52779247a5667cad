"""Start the scripted model on loopback; prints one line with its address once it can be reached."""

import argparse
import logging
import socket
import sys
from collections import Counter
from pathlib import Path

import uvicorn

from infra.local.rehearsal.scripts import Script, ScriptRefused, load_scripts
from infra.local.rehearsal.server import create_rehearsal
from infra.local.rehearsal.stage import Stage

LOOPBACK = "127.0.0.1"


def main() -> int:
    """Read the scripts, bind, announce, serve; 2 if a script is refused."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.rehearsal", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one")
    parser.add_argument("--scripts", type=Path, action="append", default=[], help="a folder of *.yaml; may repeat")
    arguments = parser.parse_args()
    try:
        scripts = [script for folder in arguments.scripts for script in load_scripts(folder)]
        _require_own_names(scripts)
    except ScriptRefused as refused:
        print(refused, file=sys.stderr)
        return 2
    # Named TCP, or asyncio leaves Nagle's algorithm on for what it accepts: 40 ms on every answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((LOOPBACK, arguments.port))
    listener.listen(512)
    print(f"rehearsal ready on http://{LOOPBACK}:{listener.getsockname()[1]}/v1", flush=True)
    # A scripted drop leaves its answer open, which uvicorn would report as an error each time.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: "without completing response" not in record.getMessage()
    )
    config = uvicorn.Config(
        create_rehearsal(stage=Stage(scripts=scripts)),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _require_own_names(scripts: list[Script]) -> None:
    for name, count in Counter(script.name for script in scripts).items():
        if count > 1:
            raise ScriptRefused(f"{count} scripts are named {name}: give each a name of its own")


if __name__ == "__main__":
    sys.exit(main())
