"""The work queue: which keys need a look, and who is looking.

After client-go's: a key is *waiting* (in line, once however often it was added), *processing* (with
exactly one worker), or both at once, in which case it runs once more when that worker is done.  So a key
is never worked on by two workers, and nothing that happened while it was worked on is lost.  Whoever else
must not meet a worker at a key's records holds the key (`held`) and counts as one.

Two lines.  LIVE keys go before RESYNC keys, so that a snapshot of everything does not delay the change
that just happened; a waiting key that is added with the higher priority moves up.

A failed key comes back after a delay drawn from 0 to base * 2^failures (full jitter), or after the delay
that the failure asked for.  Keys carry nothing but their name: losing the queue at a stop loses nothing,
because the next start looks at every key.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from typing import Generic, TypeVar

from mooring.core.clock import Clock, full_jitter
from mooring.core.errors import MooringError

K = TypeVar("K", bound=str)


class Priority(IntEnum):
    """Lower goes first."""

    LIVE = 0
    RESYNC = 1


class QueueClosed(MooringError):
    """The queue hands out no more keys."""


class WorkQueue(Generic[K]):
    """Keys in line for any number of workers, all in one event loop."""

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        *,
        base_s: float = 0.25,
        cap_s: float = 120.0,
        waited: Callable[[float], None] = lambda seconds: None,
        worked: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Back-off from `base_s` to `cap_s` seconds.

        `waited` and `worked` are told each key's seconds in line and with its worker.
        """
        self._clock = clock
        self._chance = chance
        self._base_s = base_s
        self._cap_s = cap_s
        self._waited = waited
        self._worked = worked
        self._lines: dict[Priority, OrderedDict[K, float]] = {each: OrderedDict() for each in Priority}
        self._processing: dict[K, float] = {}
        self._again: dict[K, Priority] = {}
        self._failures: dict[K, int] = {}
        self._due: dict[K, tuple[float, Priority]] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._timer_number = 0
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = float("inf")
        self._idle_workers: deque[asyncio.Future[None]] = deque()
        self._done = asyncio.Event()
        self._freed = asyncio.Event()
        self._closed = False
        self.adds = 0
        self.retries = 0

    def add(self, key: K, priority: Priority = Priority.LIVE) -> None:
        """Have the key looked at as soon as a worker is free."""
        if self._closed:
            return
        self.adds += 1
        if key in self._processing:
            self._again[key] = min(priority, self._again.get(key, priority))
        elif key in self._lines[Priority.RESYNC] and priority is Priority.LIVE:
            self._lines[Priority.LIVE][key] = self._lines[Priority.RESYNC].pop(key)
        elif not any(key in line for line in self._lines.values()):
            self._lines[priority][key] = self._clock.monotonic()
            self._wake_one()

    def add_after(self, key: K, seconds: float, priority: Priority = Priority.LIVE) -> None:
        """Add the key in that many seconds; of several such wishes for a key the earliest counts."""
        if self._closed:
            return
        due = self._clock.monotonic() + seconds
        planned = self._due.get(key)
        if seconds <= 0:
            self.add(key, priority)
        elif planned is None or due < planned[0]:
            self._due[key] = (due, priority)
            self._timer_number += 1
            heapq.heappush(self._timers, (due, self._timer_number, key))
            self._set_alarm()

    def retry(self, key: K, after_s: float | None = None) -> float:
        """Add a failed key again after `after_s` seconds, or else its back-off. Returns the delay."""
        attempt = self._failures.get(key, 0)
        self._failures[key] = attempt + 1
        self.retries += 1
        delay = full_jitter(self._base_s, attempt, self._cap_s, self._chance) if after_s is None else after_s
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Forget the key's failures."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How often the key failed since it last succeeded."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key; the caller must call `done` with it. Raises `QueueClosed` after `close`."""
        while True:
            if self._closed:
                raise QueueClosed
            for line in self._lines.values():
                if line:
                    key, since = line.popitem(last=False)
                    now = self._clock.monotonic()
                    self._processing[key] = now
                    self._waited(now - since)
                    return key
            await self._sleep_idle()

    def done(self, key: K) -> None:
        """The worker has finished with the key, well or badly."""
        self._worked(self._clock.monotonic() - self._processing[key])
        self._release(key)

    def _release(self, key: K) -> None:
        del self._processing[key]
        self._freed.set()
        again = self._again.pop(key, None)
        if again is not None and not self._closed:
            self._lines[again][key] = self._clock.monotonic()
            self._wake_one()
        if not self._processing:
            self._done.set()

    @asynccontextmanager
    async def held(self, key: K) -> AsyncIterator[None]:
        """Keep every worker off the key for the time of the body; one that has it is waited for.

        What is added meanwhile is worked on afterwards.
        """
        while key in self._processing:
            self._freed.clear()
            await self._freed.wait()
        waiting = [priority for priority, line in self._lines.items() if line.pop(key, None) is not None]
        self._processing[key] = self._clock.monotonic()
        try:
            yield
        finally:
            for priority in waiting:
                self._again[key] = min(priority, self._again.get(key, priority))
            self._release(key)

    def depth(self, priority: Priority | None = None) -> int:
        """Keys in line, of one priority or of both."""
        return sum(len(line) for each, line in self._lines.items() if priority in (None, each))

    def delayed(self) -> int:
        """Keys that wait for their time."""
        return len(self._due)

    def processing(self) -> int:
        """Keys with a worker."""
        return len(self._processing)

    def running_s(self) -> tuple[float, ...]:
        """For how many seconds each key being worked on has been with its worker."""
        now = self._clock.monotonic()
        return tuple(now - since for since in self._processing.values())

    def close(self) -> None:
        """Hand out no more keys and take none."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        for sleeper in self._idle_workers:
            if not sleeper.done():
                sleeper.set_result(None)

    async def drain(self) -> None:
        """Close, and wait until every worker has finished with its key."""
        self.close()
        while self._processing:
            self._done.clear()
            await self._done.wait()

    async def _sleep_idle(self) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle_workers.append(sleeper)
        try:
            await sleeper
        except asyncio.CancelledError:
            with suppress(ValueError):  # woken and cancelled at once: it is out of the line already
                self._idle_workers.remove(sleeper)
            if sleeper.done() and not sleeper.cancelled() and self.depth():
                self._wake_one()  # pass on the call that this worker cannot answer
            raise

    def _wake_one(self) -> None:
        while self._idle_workers:
            sleeper = self._idle_workers.popleft()
            if not sleeper.done():
                sleeper.set_result(None)
                return

    def _set_alarm(self) -> None:
        """Keep one task asleep until the earliest timer."""
        if not self._timers or (self._alarm is not None and self._alarm_at <= self._timers[0][0]):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = self._timers[0][0]
        self._alarm = asyncio.get_running_loop().create_task(self._ring(), name="queue timer")

    async def _ring(self) -> None:
        await self._clock.sleep(max(0.0, self._alarm_at - self._clock.monotonic()))
        self._alarm = None
        # The alarm's own time counts as reached, should the clock read a hair less.
        now = max(self._alarm_at, self._clock.monotonic())
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            planned = self._due.get(key)
            if planned is not None and planned[0] == due:  # else replaced by an earlier one
                del self._due[key]
                self.add(key, planned[1])
        self._set_alarm()
