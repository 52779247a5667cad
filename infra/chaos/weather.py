"""Which fault strikes what and when, drawn from a seed alone: the same seed is the same weather, whatever PAM does."""

import random
from dataclasses import dataclass

WORKERS = 3
_PAUSE_SECONDS = (0.4, 1.6)
_FREEZE_SECONDS = (1.0, 4.0)
_PAST_THE_LEASE = (3.0, 6.0)  # leases are two seconds long
_REST_SECONDS = 61.0  # until the same part is struck again: its supervisor then starts it without a longer pause

# (how often, what is done, to whom)
_FAULTS = (
    (10, "kill", "worker"),
    (5, "freeze", "worker"),
    (2, "restart", "worker"),
    (1, "kill", "postgres"),
    (1, "kill", "redis"),
    (1, "flush", "redis"),
    (1, "freeze", "redis"),
    (2, "kill", "gateway"),
    (1, "kill", "rehearsal"),
    (1, "freeze", "rehearsal"),
    (1, "kill", "functions"),
    (1, "kill", "lite"),
)


@dataclass(frozen=True)
class Fault:
    """One thing that befalls a part (or the worker at a place) so many seconds after the storm began."""

    at_seconds: float
    act: str
    part: str
    place: int = 0
    lasts_seconds: float = 0.0

    @property
    def is_kill(self) -> bool:
        """Whether a process dies by it without a word."""
        return self.act == "kill"


def forecast(seed: int, *, seconds: float) -> list[Fault]:
    """All faults of a storm, in order."""
    draw = random.Random(seed)  # noqa: S311 - a seed is the point of it
    found: list[Fault] = []
    struck: dict[str, float] = {}
    at = draw.uniform(*_PAUSE_SECONDS)
    weights = [often for often, _, _ in _FAULTS]
    while at < seconds:
        _, act, part = draw.choices(_FAULTS, weights)[0]
        place, lasts = draw.randrange(WORKERS), 0.0
        if act == "freeze":
            lasts = draw.uniform(*(_PAST_THE_LEASE if part == "worker" else _FREEZE_SECONDS))
        if part == "worker" or at - struck.get(part, -_REST_SECONDS) >= _REST_SECONDS:
            found.append(Fault(round(at, 3), act, part, place if part == "worker" else 0, round(lasts, 3)))
            struck[part] = at
        at += draw.uniform(*_PAUSE_SECONDS)
    return found
