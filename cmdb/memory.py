"""An inventory in memory, for simulation and tests: the twin of the ledger and the webhook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mooring.cmdb.items import Roll
from mooring.core.model import BindingId, SinkName
from mooring.core.sink import Change, Done, Observation, Outcome
from mooring.core.specs import ItemSpec, Spec


class MemoryInventory:
    """Keeps items in two dictionaries that whoever owns the simulation may read. Observed by item key."""

    def __init__(self, name: str = "ledger") -> None:
        self.name = SinkName(name)
        self.live: dict[str, ItemSpec] = {}
        self.retired: dict[str, ItemSpec] = {}
        self._roll = Roll()

    def lane(self, change: Change) -> str:
        """One for all."""
        return str(self.name)

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """See `core.sink`."""
        outcomes = []
        for entry in self._roll.entries(changes):
            for item in entry.retire:
                self.retired[item.key] = self.live.pop(item.key, item)
            if entry.put is not None:
                self.retired.pop(entry.put.key, None)
                self.live[entry.put.key] = entry.put
            outcomes.append(Done(changed=not entry.empty))
        self._roll.settled(changes, outcomes)
        return outcomes

    async def observe(self) -> Observation:
        """All live items."""
        return Observation(dict(self.live))

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """See `core.sink`."""
        self._roll.prime(shown)

    async def check(self) -> str:
        """Count what is there."""
        return f"{self.name}: {len(self.live)} live items in memory"
