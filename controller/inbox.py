"""What has been read from the stream and is not applied yet, and the task that applies it.

The reader puts whole slices of events in and never waits; `apply` hands them to the listener one by one,
in order, together with the marks attached, lost and detached that were put between them.

    reader --put(slice), mark--> [ slice | mark | slice ... ] --apply--> listener.event, .attached ...

  * Applying goes in turns of a few milliseconds, and of so many batches in a world whose clock stands
    still; between two turns everybody else runs, the reader first of all.
  * The inbox is bounded in bytes.  A slice that does not fit is dropped and counted, and the listener
    hears `lost("overflow")` at that place in the order; the stream goes on.
  * A listener that raises has a defect.  All waiting events are dropped, the marks stay, and the reader
    is told to end its attachment: the next one brings a snapshot, which makes up for what was dropped.
    Reconnecting also slows a defect down that comes with every event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from operator import itemgetter
from typing import NoReturn, Protocol

import structlog

from mooring.cext import Frame
from mooring.core.clock import Clock
from mooring.core.errors import Fatal

log = structlog.get_logger()

DEFAULT_INBOX = 64 * 1024 * 1024  # bytes

_TURN_S = 0.005
_TURN_BATCHES = 32
_BATCH_EVENTS = 16  # between two looks at the clock, which cost as much as a small event
_BATCH_BYTES = 64 * 1024  # the same for large events, on the average of their slice
_FRAME_BYTES = 128  # what a frame takes besides its data
_data = itemgetter(1)


class Listener(Protocol):
    """Who hears the stream. Called in order, synchronously; must not block and not raise."""

    def attached(self) -> None:
        """From now on every event arrives: a snapshot is due."""

    def event(self, frame: Frame) -> None:
        """One event."""

    def lost(self, reason: str) -> None:
        """An event's content was lost ("oversized", "overflow", ...): a snapshot is due."""

    def detached(self, reason: str) -> None:
        """The stream that had been attached ended."""


class _Lost:
    """The mark of a loss, known by its type so that losses in a row share one."""

    def __init__(self, listener: Listener, reason: str) -> None:
        self._listener = listener
        self.reason = reason

    def __call__(self) -> None:
        self._listener.lost(self.reason)


class Inbox:
    """Events and marks on their way from the reader to the listener."""

    def __init__(self, listener: Listener, clock: Clock, limit: int, broken: Callable[[str], None]) -> None:
        """Hold at most `limit` bytes; `broken` is told why whenever the listener raised."""
        self._listener = listener
        self._clock = clock
        self._limit = limit
        self._broken = broken
        self._waiting: deque[tuple[list[Frame], int] | Callable[[], None]] = deque()
        self._slice: Iterator[Frame] = iter(())  # the rest of the slice being applied
        self._slice_bytes = 0
        self._batch = _BATCH_EVENTS
        self._bytes = 0  # of all slices, also of the one being applied
        self._overflowing = False
        self._filled = asyncio.Event()
        self.behind = 0  # events read and not yet applied
        self.max_behind = 0
        self.overflowed = 0  # events dropped because the inbox was full

    def put(self, frames: list[Frame]) -> None:
        """Take a slice of events, or drop it if there is no room."""
        if not frames:
            return
        weight = sum(map(len, map(_data, frames))) + _FRAME_BYTES * len(frames)
        if self._bytes and self._bytes + weight > self._limit:
            self._overflow(len(frames))
            return
        self._waiting.append((frames, weight))
        self._bytes += weight
        self.behind += len(frames)
        self.max_behind = max(self.max_behind, self.behind)
        self._filled.set()

    def attached(self) -> None:
        """Have the listener hear it, once everything before is applied."""
        self._mark(self._listener.attached)

    def lost(self, reason: str) -> None:
        """Have the listener hear it in its place; the same loss twice running is told once."""
        last = self._waiting[-1] if self._waiting else None
        if not (isinstance(last, _Lost) and last.reason == reason):
            self._mark(_Lost(self._listener, reason))

    def detached(self, reason: str) -> None:
        """Have the listener hear it, once everything before is applied."""
        self._mark(lambda: self._listener.detached(reason))

    def _mark(self, tell: Callable[[], None]) -> None:
        self._waiting.append(tell)
        self._filled.set()

    def _overflow(self, events: int) -> None:
        self.overflowed += events
        self.lost("overflow")
        if not self._overflowing:  # one line until the inbox has been empty again
            self._overflowing = True
            log.warning("events dropped", reason="overflow", limit=self._limit, behind=self.behind)

    async def apply(self) -> NoReturn:
        """Tell the listener everything, turn by turn, until cancelled. Only a `Fatal` of its ends this."""
        while True:
            await self._filled.wait()
            try:
                self._take_turn()
            except Fatal:
                raise
            except Exception as error:
                log.exception("listener failed")
                self._drop_events()
                self._broken(f"listener failed: {type(error).__name__}: {error}")
            await asyncio.sleep(0)

    def _take_turn(self) -> None:
        until = self._clock.monotonic() + _TURN_S
        for _ in range(_TURN_BATCHES):
            if not self._apply_batch() or self._clock.monotonic() >= until:
                return

    def _apply_batch(self) -> bool:
        """Apply some events or one mark; False once there is nothing left."""
        if batch := list(islice(self._slice, self._batch)):
            apply = self._listener.event
            for frame in batch:
                apply(frame)
            self.behind -= len(batch)
            return True
        self._bytes -= self._slice_bytes
        self._slice_bytes = 0
        if not self._waiting:
            self._overflowing = False
            self._filled.clear()
            return False
        first = self._waiting.popleft()
        if isinstance(first, tuple):
            frames, self._slice_bytes = first
            self._slice = iter(frames)
            self._batch = max(1, min(_BATCH_EVENTS, len(frames) * _BATCH_BYTES // self._slice_bytes))
        else:
            first()
        return True

    def _drop_events(self) -> None:
        self._waiting = deque(item for item in self._waiting if not isinstance(item, tuple))
        self._slice = iter(())
        self._slice_bytes = self._bytes = self.behind = 0
