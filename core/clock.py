"""Time and chance, injected.

Nothing else in the daemon asks the operating system for the time or for a random number, so that a
simulation can run days in seconds and repeat them from a seed.  `now` is wall-clock time for records
that people read; `monotonic` is for durations and deadlines and never jumps.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Protocol


class Clock(Protocol):
    """What the daemon may know about time."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Give the loop away for that long."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def full_jitter(base_s: float, attempt: int, cap_s: float, chance: random.Random) -> float:
    """A delay drawn evenly from 0 to `base_s * 2**attempt`, at most `cap_s` seconds.

    Full jitter spreads the retries of many clients that failed at the same instant.
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt, 32))
    return chance.uniform(0.0, ceiling)
