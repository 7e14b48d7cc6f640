"""When will a pool be empty, if it goes on like this?

The number of addresses taken is sampled over a sliding window, and a straight line is laid through the
samples (least squares).  Where it rises, the distance from the newest sample to the pool's size, at that
slope, is the forecast; where it is flat or falls, there is none.  A line through many samples does not
follow single restarts, which take an address for a moment and give it back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

WINDOW_S = 3600.0
_SAMPLES = 60
_FEWEST = 5  # samples; fewer say nothing about a trend


def seconds_left(samples: Sequence[tuple[float, int]], size: int) -> float | None:
    """Seconds from the newest sample until `size` addresses are taken; None if none is in sight.

    `samples` are (seconds of a clock that never jumps, addresses taken), oldest first.
    """
    if not samples:
        return None
    taken = samples[-1][1]
    if taken >= size:
        return 0.0
    slope = _slope(samples)
    return (size - taken) / slope if slope > 0 else None


def _slope(samples: Sequence[tuple[float, int]]) -> float:
    """Addresses each second; 0 if there are too few samples to tell."""
    count = len(samples)
    if count < _FEWEST:
        return 0.0
    mean_at = sum(at for at, _ in samples) / count
    mean_taken = sum(taken for _, taken in samples) / count
    spread = sum((at - mean_at) ** 2 for at, _ in samples)
    together = sum((at - mean_at) * (taken - mean_taken) for at, taken in samples)
    return together / spread if spread > 0 else 0.0


class Trend:
    """The samples of one pool."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()

    def observe(self, now: float, taken: int) -> None:
        """So many addresses are taken now. Kept at most once in a sixtieth of the window."""
        if self._samples and now - self._samples[-1][0] < self._window_s / _SAMPLES:
            return
        self._samples.append((now, taken))
        while self._samples[0][0] < now - self._window_s:
            self._samples.popleft()

    def seconds_left(self, now: float, taken: int, size: int) -> float | None:
        """Until `size` addresses are taken, when `taken` are taken now; None if that is not in sight."""
        return seconds_left([*self._samples, (now, taken)], size)
