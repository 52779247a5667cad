"""Stacks of a test's own: a state folder that goes away, and a Postgres that need not survive a power cut."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

FAST = (("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off"))


@contextlib.contextmanager
def temporary_state() -> Iterator[Path]:
    """A state folder that the database's account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="pam-tests-"))
    folder.chmod(0o755)
    try:
        yield folder / "stack"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
