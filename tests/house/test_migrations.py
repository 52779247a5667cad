"""Migrations that somebody may have applied stay as they were: a change of them is a new migration."""

import hashlib

from infra.local.stack import ROOT

LANDED = "20261124001070"  # the newest of them
SHA256 = "36161410a88d1a0b7478b669070d85477be0083154094848a77fbf5e962a8a56"  # of all of them, joined


def test_no_migration_that_has_landed_is_changed() -> None:
    """`upgrade` refuses a database whose migrations differ from these; the two values move on with what lands."""
    files = sorted((ROOT / "supabase" / "migrations").glob("*.sql"))
    landed = [file.read_bytes() for file in files if file.name[: len(LANDED)] <= LANDED]
    assert hashlib.sha256(b"".join(landed)).hexdigest() == SHA256
