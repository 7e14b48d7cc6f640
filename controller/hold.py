"""What is shown to clients stays as it is until every instance has been looked at once.

After a rebuild the daemon knows which ports there are, but nothing of what balancers, apps' names and the
files of dependents show: it finds that out again instance by instance.  A balancer written after the first of
them would lose all others, and get them back a moment later.  So those sinks are held: what they shall show
is worked out and stored as ever, and when all instances have been looked at, the sinks are told of everything
at once and then take their first changes.

One instance that hangs cannot hold the rest for ever (`_AT_MOST_S`).
"""

from __future__ import annotations

from collections.abc import Collection

from mooring.core.clock import Clock
from mooring.core.model import BindingId, SinkName
from mooring.handlers.wants import APP_NAMES, BALANCERS, FILES

HELD = frozenset({*BALANCERS, APP_NAMES, FILES})
_AT_MOST_S = 300.0
_BEAT_S = 0.25


class Hold:
    """Whether it is on, and who has been looked at since."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: set[BindingId] = set()
        self.active = False

    def begin(self) -> None:
        """From now on the held sinks take no step."""
        self.active = True
        self._seen.clear()

    def end(self) -> None:
        """They may go on."""
        self.active = False
        self._seen.clear()

    def seen(self, key: BindingId) -> None:
        """An instance has been looked at."""
        if self.active:
            self._seen.add(key)

    def keeps(self, sink: SinkName) -> bool:
        """Whether that sink is held now."""
        return self.active and sink in HELD

    async def until_seen(self, keys: Collection[BindingId]) -> bool:
        """Wait for all of them; whether they all came in time."""
        deadline = self._clock.monotonic() + _AT_MOST_S
        while not self._seen.issuperset(keys):
            if self._clock.monotonic() >= deadline:
                return False
            await self._clock.sleep(_BEAT_S)
        return True
