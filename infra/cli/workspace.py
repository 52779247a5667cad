"""The workspace as `workspace pull | push` know it: what is in it, and how paths are told."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from infra.cli.person import CommandFailed, Person
from infra.cli.repository import LINK, SUBMODULE
from workers.tools import workspace_path

NAMED = 10
LEFT_OUT = {LINK: "links", SUBMODULE: "submodules"}


@dataclass(frozen=True)
class Known:
    """A file as the workspace has it."""

    version: int
    size_bytes: int
    sha256: str
    updated_at: datetime


def sha256_of(content: bytes) -> str:
    """As the workspace names contents."""
    return hashlib.sha256(content).hexdigest()


async def known_files(person: Person, org_id: str, folder: str) -> dict[str, Known]:
    """What of the workspace lies in this folder, by path."""
    rows = (await person.call("list_workspace", org_id=org_id, folder=folder))["files"]
    return {
        path: Known(version, size_bytes, sha256, datetime.fromisoformat(updated_at))
        for path, version, size_bytes, sha256, updated_at in rows
    }


def folder_of(given: str) -> str:
    """A folder as paths begin with it. Raises CommandFailed."""
    folder = given.strip("/")
    if folder and (fault := workspace_path.fault(folder)):
        raise CommandFailed(f"--path: {fault}")
    return folder


def some(paths: list[str]) -> str:
    """The first of these paths, fit for a terminal."""
    shown = ("".join(letter if letter.isprintable() else "?" for letter in path) for path in paths[:NAMED])
    return ", ".join(shown) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
