"""Whether the event loop still turns, and how late it is.

A task sleeps for a fixed time and compares when it woke with when it should have: the difference is what
every other callback had to wait as well.  One blocking call somewhere shows here and nowhere else.
"""

from __future__ import annotations

import asyncio

from mooring.core.clock import Clock

EVERY_S = 0.5


class Pulse:
    """Beats in the loop. Start `run` as a task."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beat_at = clock.monotonic()
        self._last_lag_s = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self._clock.sleep(EVERY_S)
            self._last_lag_s = max(0.0, self.silence_s - EVERY_S)
            self._beat_at = self._clock.monotonic()

    @property
    def silence_s(self) -> float:
        """Seconds since the last beat."""
        return self._clock.monotonic() - self._beat_at

    @property
    def lag_s(self) -> float:
        """How late the newest beat was, or how late the next one is already."""
        return max(self._last_lag_s, self.silence_s - EVERY_S)


def start(pulse: Pulse) -> asyncio.Task[None]:
    """The pulse as a task of the running loop; cancel it to stop."""
    return asyncio.create_task(pulse.run(), name="pulse")
