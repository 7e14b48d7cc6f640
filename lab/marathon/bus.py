"""Carries events from Marathon's parts to the open streams.

Publishing never waits.  Every event passes the fault rules first (tests drop, duplicate, delay or
reorder through them), then lands in each stream's queue.  A queue counts all events, also those its
reader filters away, because Marathon counts them while one batch is being written; the event that
would exceed the limit closes the stream instead, as Marathon does since 1.8.
"""

from __future__ import annotations

import asyncio
from collections import deque

from mooring.lab.marathon.faults import Faults
from mooring.lab.marathon.model import Json
from mooring.lab.marathon.wire import encode


class Subscription:
    """The outstanding events of one stream."""

    def __init__(self, event_types: frozenset[str], limit: int) -> None:
        """Want only these types (empty: all); close beyond `limit` outstanding events."""
        self.closed = False
        self._broken = asyncio.Event()
        self._event_types = event_types
        self._limit = limit
        self._outstanding: deque[bytes | None] = deque()  # None: counted, but filtered away
        self._wakeup = asyncio.Event()

    def offer(self, event_type: str, frame: bytes) -> None:
        """Queue one event, or close when the reader is too far behind."""
        if len(self._outstanding) >= self._limit:
            self.abort()
            return
        wanted = not self._event_types or event_type in self._event_types
        self._outstanding.append(frame if wanted else None)
        self._wakeup.set()

    def offer_raw(self, chunk: bytes) -> None:
        """Queue bytes that are no event, past filter and limit."""
        self._outstanding.append(chunk)
        self._wakeup.set()

    def close(self) -> None:
        """End the stream after what is queued."""
        self.closed = True
        self._wakeup.set()

    def abort(self) -> None:
        """End the stream at once; what waits is lost."""
        self.closed = True
        self._outstanding.clear()
        self._broken.set()
        self._wakeup.set()

    async def broken(self) -> None:
        """Return once the stream has to end at once."""
        await self._broken.wait()

    async def batch(self, timeout_s: float) -> bytes:
        """The next frames to write, joined; empty when none came within `timeout_s` or on close."""
        if not self._outstanding and not self.closed:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wakeup.wait()
            except TimeoutError:
                return b""
        self._wakeup.clear()
        frames = [frame for frame in self._outstanding if frame is not None]
        self._outstanding.clear()
        return b"".join(frames)


class Bus:
    """All streams, and the fault rules in front of them."""

    def __init__(self, max_outstanding: int) -> None:
        """Close a stream that has more than `max_outstanding` events waiting."""
        self.faults = Faults(self._deliver)
        self.flowing = asyncio.Event()  # cleared while streams are stalled
        self.flowing.set()
        self._max_outstanding = max_outstanding
        self._subscriptions: set[Subscription] = set()

    def publish(self, event: Json) -> None:
        """Send one event to every stream, through the fault rules."""
        self.faults.pass_through(event)

    def subscribe(self, event_types: frozenset[str]) -> Subscription:
        """Open a stream's queue; it sees what is published from now on."""
        subscription = Subscription(event_types, self._max_outstanding)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a stream."""
        self._subscriptions.discard(subscription)

    def send_raw(self, chunk: bytes, *, last: bool) -> int:
        """Put raw bytes into every stream and, if `last`, end it there; how many streams there were."""
        for subscription in self._subscriptions:
            subscription.offer_raw(chunk)
            if last:
                subscription.close()
        return len(self._subscriptions)

    def cut(self) -> int:
        """End every stream at once, as a crash does; how many there were."""
        for subscription in self._subscriptions:
            subscription.abort()
        return len(self._subscriptions)

    def _deliver(self, event: Json) -> None:
        frame = encode(event)
        for subscription in tuple(self._subscriptions):
            subscription.offer(str(event.get("eventType", "")), frame)
