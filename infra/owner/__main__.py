"""`python -m infra.owner`: the operator as a process, with the owner's connection from PAM_OWNER_DATABASE_URL."""

import asyncio
import os
import sys

from infra.owner.service import serve
from workers.kernel import telemetry
from workers.kernel.errors import SettingMissing
from workers.kernel.settings import required


def main() -> int:
    """Work until told to stop. Exit status 2 when the setting is missing."""
    telemetry.configure("operator", level=os.environ.get("PAM_LOG_LEVEL", "info"))
    try:
        dsn = required(os.environ, "PAM_OWNER_DATABASE_URL", "the project owner's direct connection, postgresql://…")
    except SettingMissing as missing:
        print(f"pam operator: {missing}", file=sys.stderr)
        return 2
    asyncio.run(serve(dsn))
    return 0


if __name__ == "__main__":
    sys.exit(main())
