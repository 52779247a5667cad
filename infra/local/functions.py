"""The functions of PAM in one local process: the HTTP API and the hook, as Lambda runs them apart."""

import argparse
import os

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from functions.hooks import create_hooks_from
from functions.main import create_app
from functions.settings import ApiSettings, HookSettings
from workers.kernel import telemetry


def composed(api: ASGIApp, hooks: ASGIApp) -> ASGIApp:
    """Paths below /hooks go to the hook's app, all others to the API."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = hooks if scope["type"] == "http" and str(scope["path"]).startswith("/hooks/") else api
        await chosen(scope, receive, send)

    return dispatch


def main() -> None:
    """Serve on 127.0.0.1 until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.functions", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    telemetry.configure("functions")
    api = create_app(ApiSettings.read(os.environ, hold_events=True))
    hooks = create_hooks_from(HookSettings.read(os.environ))
    uvicorn.run(
        composed(api, hooks),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
