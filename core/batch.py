"""One flight per lane: gathering in front of anything slow.

A play, a DNS message, a reload cost about the same for one change as for fifty.  So the first item of an
idle lane leaves after a short gathering window, which may begin anew while company keeps arriving, and while
it is in flight everything that arrives for the same lane gathers and leaves together afterwards.  A lane (a
host, a zone, a balancer) never has two flights at once, and a slow or dead lane never holds up another.

`Lanes` is that mechanism for any item; `Batcher` puts it in front of a sink and turns the errors of a
whole flight into an outcome for each change in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from mooring.core.clock import Clock
from mooring.core.errors import Fatal, Refused, Retryable
from mooring.core.sink import Change, NotPossible, Outcome, RetryAfter, Sink

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes(Generic[Item, Result]):
    """Gathers items by lane and sends each lane's together."""

    def __init__(
        self,
        send: Callable[[str, Sequence[Item]], Awaitable[Sequence[Result]]],
        clock: Clock,
        *,
        window_s: float = 0.02,
        windows: int = 1,
        largest: int = 200,
    ) -> None:
        """`send` gets a lane and its items and gives one result each, in order; if it raises, all fail.

        An idle lane waits `window_s` seconds for company, and for so long again after each window in which
        somebody came, but no longer than for `windows` of them; at most `largest` items fly together.
        """
        self._send = send
        self._clock = clock
        self._window_s = window_s
        self._windows = windows
        self._largest = largest
        self._waiting: dict[str, deque[tuple[Item, asyncio.Future[Result]]]] = {}
        self._flights: dict[str, asyncio.Task[None]] = {}

    async def submit(self, lane: str, item: Item) -> Result:
        """Send the item with the next flight of its lane; what became of it."""
        landed: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, deque()).append((item, landed))
        if lane not in self._flights:
            self._flights[lane] = asyncio.create_task(self._fly(lane), name=f"lane {lane}")
        return await landed

    def depth(self) -> int:
        """Items that wait for a flight."""
        return sum(len(queue) for queue in self._waiting.values())

    async def close(self) -> None:
        """Let the flights in the air land; what still waits for one fails with `Retryable`."""
        for queue in self._waiting.values():
            while queue:
                _, landed = queue.popleft()
                if not landed.done():
                    landed.set_exception(Retryable("the daemon is stopping"))
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    async def _fly(self, lane: str) -> None:
        await self._gather(lane)
        while queue := self._waiting.get(lane):
            flight = [queue.popleft() for _ in range(min(self._largest, len(queue)))]
            # Who no longer waits has been cancelled, and may have put a newer item into the same line.
            wanted = [waiting for waiting in flight if not waiting[1].done()]
            if wanted:
                await self._one_flight(lane, wanted)
        self._waiting.pop(lane, None)
        del self._flights[lane]

    async def _gather(self, lane: str) -> None:
        """Wait for company, as long as it keeps coming."""
        queue = self._waiting[lane]
        for _ in range(self._windows):
            before = len(queue)
            await self._clock.sleep(self._window_s)
            if len(queue) == before or len(queue) >= self._largest:
                return

    async def _one_flight(self, lane: str, flight: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._send(lane, [item for item, _ in flight])
            if len(results) != len(flight):
                raise RuntimeError(f"{len(results)} results for {len(flight)} items")
        except Exception as error:
            # Also a defect must reach those who wait: a lane that dies in silence hangs them for ever.
            for _, landed in flight:
                if not landed.done():
                    landed.set_exception(error)
            return
        for (_, landed), result in zip(flight, results, strict=True):
            if not landed.done():  # the worker that waited may have been cancelled
                landed.set_result(result)


class Batcher:
    """Gathers changes for one sink and sends them lane by lane."""

    def __init__(self, sink: Sink, clock: Clock, *, window_s: float = 0.02, largest: int = 200) -> None:
        """See `Lanes` for `window_s` and `largest`."""
        self.sink = sink
        self._lanes: Lanes[Change, Outcome] = Lanes(
            lambda _, changes: sink.apply(changes), clock, window_s=window_s, largest=largest
        )

    async def submit(self, change: Change) -> Outcome:
        """Send the change with the next flight of its lane; what went wrong is an outcome, unless `Fatal`."""
        try:
            return await self._lanes.submit(self.sink.lane(change), change)
        except Retryable as error:
            return RetryAfter(str(error), error.after_s)
        except Refused as error:
            return NotPossible(str(error))
        except Fatal:
            raise
        except Exception as error:
            return RetryAfter(f"{self.sink.name}: unexpected {type(error).__name__}: {error}")

    def depth(self) -> int:
        """Changes that wait for a flight."""
        return self._lanes.depth()

    async def close(self) -> None:
        """Let the flights in the air land; what waits is answered with `RetryAfter`."""
        await self._lanes.close()
