"""Long work in the event loop, taken in short strokes.

Whoever decodes, merges or works through thousands of things calls `draw()` after each of them.  Mostly that
costs a look at the clock.  When the stroke of this turn of the loop has lasted `stroke_s`, the caller
waits for a later turn, and everybody else runs first.

Tasks that do the same kind of work share one breath: together they get one stroke a turn, not one each.
"""

from __future__ import annotations

import asyncio

from mooring.core.clock import Clock

STROKE_S = 0.005


class Breath:
    """The pauses of one kind of long work."""

    def __init__(self, clock: Clock, stroke_s: float = STROKE_S) -> None:
        self._clock = clock
        self._stroke_s = stroke_s
        self._since = clock.monotonic()
        self._spent = False

    async def draw(self) -> None:
        """Let others run if it is time."""
        while self._is_spent():  # noqa: ASYNC110  (the next turn of the loop is what is waited for)
            await asyncio.sleep(0)

    def _is_spent(self) -> bool:
        if not self._spent and self._clock.monotonic() - self._since >= self._stroke_s:
            self._spent = True
            # First in the next turn, before those who will have waited for it.
            asyncio.get_running_loop().call_soon(self._renew)
        return self._spent

    def _renew(self) -> None:
        self._since = self._clock.monotonic()
        self._spent = False
