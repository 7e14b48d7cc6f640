"""How long one call may take for what depends on other people's programs.

A command that an app asked for, or a file system that hangs, may take any time; the caller of the whole
call does not wait for ever and, if it gives up, loses the results of everybody's operations.  So the time
is shared by all operations of a kind, and what does not get its turn is told to come again.
"""

from __future__ import annotations

import time

from .errors import Retry


class Budget:
    """Some seconds for all operations of one kind in one call, running from now."""

    def __init__(self, seconds: float, kind: str) -> None:
        self._seconds = seconds
        self._kind = kind
        self._ends_at = time.monotonic() + seconds

    def left(self, wish_s: float) -> float:
        """The seconds that an operation gets of those it wishes; raises Retry when none are left."""
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise Retry(
                f"the {self._seconds:g} s for all {self._kind} of one call are used up; try again later"
            )
        return min(wish_s, left)
