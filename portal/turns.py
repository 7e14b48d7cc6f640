"""How long each turn of the event loop takes, measured exactly.

A turn is everything the loop does between two questions to the operating system.  Whatever becomes ready
during a turn waits for its end, so the longest turn is the longest stall.  The loop puts its question
through a selector, and asyncio lets us give it one: this one takes the time when the answer comes and
when the next question is asked.  That costs less than a microsecond and misses nothing, unlike a task that
wakes up now and then and looks how late it is (`pulse`), which sees a part of some stalls.
"""

from __future__ import annotations

import asyncio
import selectors
from bisect import bisect_left

from mooring.core.clock import Clock

BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Turns:
    """Counts turns by their length. Times are seconds."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)  # by upper bound, the last one unbounded
        self.total_s = 0.0
        self.longest_s = 0.0  # since the start

    def took(self, seconds: float) -> None:
        """One turn has ended."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds
        self.longest_s = max(self.longest_s, seconds)


class _TimedSelector(selectors.DefaultSelector):
    """The platform's selector, which also tells `turns` how long the loop was away."""

    def __init__(self, turns: Turns, clock: Clock) -> None:
        super().__init__()
        self._turns = turns
        self._clock = clock
        self._answered_at: float | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._answered_at is not None:
            self._turns.took(self._clock.monotonic() - self._answered_at)
        ready = super().select(timeout)
        self._answered_at = self._clock.monotonic()
        return ready


def timed_loop(turns: Turns, clock: Clock) -> asyncio.AbstractEventLoop:
    """A new event loop whose turns are measured; for `asyncio.Runner(loop_factory=...)`."""
    return asyncio.SelectorEventLoop(_TimedSelector(turns, clock))
