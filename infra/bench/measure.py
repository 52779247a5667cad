"""How a figure is made: a warm-up that does not count, then medians of a thing and of its yardstick, taken in turn."""

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Timed = Callable[[], Awaitable[float]]  # does the thing once and answers the seconds that count
MILLISECOND, MICROSECOND = "ms", "µs"
_IN_A_SECOND = {MILLISECOND: 1e3, MICROSECOND: 1e6}


@dataclass(frozen=True)
class Row:
    """One line of the table; medians are in the unit, ratio is median by yardstick_median.

    must, aim: the greatest ratio that is allowed, and the one that is wanted; None where neither was agreed.
    """

    name: str
    unit: str
    median: float
    yardstick: str
    yardstick_median: float
    ratio: float
    runs: int
    note: str = ""
    must: float | None = None
    aim: float | None = None

    @property
    def verdict(self) -> str:
        """What became of must and aim: reached, met or missed; nothing where there are none."""
        if self.must is None or self.aim is None:
            return ""
        if self.ratio <= self.aim:
            return f"aim {self.aim:g} reached"
        return f"must {self.must:g} met" if self.ratio <= self.must else f"must {self.must:g} MISSED"


async def compared(
    name: str,
    thing: Timed,
    yardstick: str,
    other: Timed,
    *,
    unit: str = MILLISECOND,
    runs: int = 9,
    note: str = "",
    must: float | None = None,
    aim: float | None = None,
) -> Row:
    """Measure both in turn, so that a slow moment of the machine meets both."""
    await thing()
    await other()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        seconds[0].append(await thing())
        seconds[1].append(await other())
    median, yardstick_median = (statistics.median(taken) * _IN_A_SECOND[unit] for taken in seconds)
    ratio = median / yardstick_median
    made = round(median, 2), yardstick, round(yardstick_median, 2), round(ratio, 3)
    return Row(name, unit, *made, runs, note, must, aim)


def timed(work: Callable[[], Awaitable[object]]) -> Timed:
    """The whole of an awaited call counts."""

    async def once() -> float:
        began = time.perf_counter()
        await work()
        return time.perf_counter() - began

    return once


def repeated(work: Callable[[], object], times: int) -> Timed:
    """A plain call that is too short for one look at the clock: the mean of many."""

    async def once() -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - began) / times

    return once
