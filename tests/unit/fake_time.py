"""A clock that moves only when it is told to, or when somebody sleeps on it."""

from __future__ import annotations

import asyncio


class SteppedClock:
    """Implements `Clock`; sleeping takes no real time."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.step(seconds)
        await asyncio.sleep(0)

    def step(self, seconds: float) -> None:
        self.time += seconds
