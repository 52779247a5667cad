"""How long and how much a request may take; a test sets its own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OutboundLimits:
    """`total_seconds` covers everything from the first name to the last byte, repeats and redirects included."""

    total_seconds: float = 50
    connect_seconds: float = 8
    read_seconds: float = 30
    attempts: int = 3
    backoff_seconds: float = 0.3
    longest_pause_seconds: float = 15
    max_redirects: int = 5
    max_body_bytes: int = 4_000_000
