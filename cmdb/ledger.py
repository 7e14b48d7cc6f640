"""The local ledger: an inventory in our own store, always there.

A batch is one transaction.  Both writes are idempotent in the store itself: putting a live item again keeps
its start, retiring a retired one keeps its end.  An item comes back to life when its seat is taken again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mooring.cmdb.items import Entry, Roll
from mooring.core.clock import Clock
from mooring.core.model import BindingId, SinkName
from mooring.core.sink import Change, Done, Observation, Outcome
from mooring.core.specs import Spec
from mooring.core.store import PutItem, RetireItem, Store, Write


class Ledger:
    """The sink over `Store`'s ledger. Observed by item key."""

    name = SinkName("ledger")

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._roll = Roll()

    def lane(self, change: Change) -> str:
        """One: the store has one writer."""
        return "ledger"

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """See `core.sink`; raises what the store raises, and then nothing of the batch was written."""
        entries = self._roll.entries(changes)
        now = self._clock.now()
        writes = [write for entry in entries for write in _writes(entry, now)]
        if writes:
            await self._store.commit(writes)
        outcomes = [Done(changed=not entry.empty) for entry in entries]
        self._roll.settled(changes, outcomes)
        return outcomes

    async def observe(self) -> Observation:
        """All live items."""
        return Observation({row.item.key: row.item for row in await self._store.ledger(live_only=True)})

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """See `core.sink`."""
        self._roll.prime(shown)

    async def check(self) -> str:
        """Count what is there."""
        return f"ledger: {len(await self._store.ledger(live_only=True))} live items"


def _writes(entry: Entry, now: float) -> list[Write]:
    writes: list[Write] = [RetireItem(item.key, now) for item in entry.retire]
    if entry.put is not None:
        writes.append(PutItem(entry.put, now))
    return writes
