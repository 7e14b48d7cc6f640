"""Group commit: transactions that wait for the same flush travel together.

Making something durable costs the same for one transaction as for many.  Whatever is committed while a
group is under way waits and forms the next group, so callers never queue for more than two flushes and the
rate grows with the number of callers.

The group runs in a task of its own: a caller that is cancelled while it waits does not tear its transaction,
which is kept whole or not at all.  Each caller is told its own verdict; what goes wrong with a group as a
whole goes to all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mooring.core.store import Write

MOST_TOGETHER = 1024  # bounds how long a group holds up the reads behind it

Verdict = Exception | None
Apply = Callable[[Sequence[Sequence[Write]]], Awaitable[Sequence[Verdict]]]
_Waiting = tuple[Sequence[Write], "asyncio.Future[None]"]


class GroupCommit:
    """Collects commits and hands them on in groups, one group at a time, in the order given."""

    def __init__(self, apply: Apply) -> None:
        """`apply` makes a group durable and says for each commit why it was refused, or None."""
        self._apply = apply
        self._waiting: list[_Waiting] = []
        self._flight: asyncio.Task[None] | None = None

    async def commit(self, writes: Sequence[Write]) -> None:
        """Return when the writes are durable; raises the verdict about them."""
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple(writes), landed))
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly(), name="store commits")
        await landed

    async def settle(self) -> None:
        """Wait until nothing waits any more."""
        while self._flight is not None:
            await asyncio.wait({self._flight})

    async def _fly(self) -> None:
        group: list[_Waiting] = []
        try:
            while self._waiting:
                group = self._waiting[:MOST_TOGETHER]
                del self._waiting[:MOST_TOGETHER]
                for (_, landed), verdict in zip(group, await self._verdicts(group), strict=True):
                    if landed.done():  # its caller was cancelled
                        continue
                    if verdict is None:
                        landed.set_result(None)
                    else:
                        landed.set_exception(verdict)
        finally:
            self._flight = None
            for _, landed in (*group, *self._waiting):
                landed.cancel()  # none is left, unless the flight itself was cancelled
            self._waiting = []

    async def _verdicts(self, group: Sequence[_Waiting]) -> Sequence[Verdict]:
        try:
            return await self._apply([writes for writes, _ in group])
        except Exception as error:
            return [error] * len(group)
