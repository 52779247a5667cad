"""The API as a process of its own says in a sentence why it cannot start."""

import asyncio
import os
import sys

import pytest

SETTINGS = {
    "SUPABASE_URL": "https://ref.supabase.co",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_1",
}


async def started(**settings: str) -> tuple[int | None, str]:
    """The exit status of `python -m functions.main` with these settings, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "functions.main"),
        env={"PATH": os.environ["PATH"], **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "pam api: SUPABASE_URL is not set: the project's URL, https://<ref>.supabase.co"),
        ({**SETTINGS, "PAM_HTTP_PORT": "http"}, "pam api: PAM_HTTP_PORT must be a port, 1 to 65535, not 'http'"),
    ],
)
async def test_what_is_not_set_is_named(settings: dict[str, str], sentence: str) -> None:
    assert await started(**settings) == (2, f"{sentence}\n")


async def test_a_port_that_is_taken_is_named() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        status, said = await started(**SETTINGS, PAM_HTTP_PORT=str(port))
    assert (status, f"('127.0.0.1', {port}): address already in use" in said) == (3, True), said
    assert "Traceback" not in said
