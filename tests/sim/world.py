"""Everything outside the daemon: agents, name server, balancers, inventory, and the trouble with each.

The world outlives every daemon.  What a daemon has sent is carried out by the world's own tasks: a play in
the air or an update on the wire lands even if its sender is killed meanwhile, perhaps after its successor
has begun to write.  `Faults` says how often things go wrong; `calm()` ends all of it.

Every effect that lands is written to the trace, checked for its epoch and followed by the invariants, so a
violation is reported at the very step that caused it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mooring.cmdb.memory import MemoryInventory
from mooring.core.specs import ItemSpec
from mooring.dns.memory import MemoryServer
from mooring.dns.records import Update
from mooring.handlers.hosts import Answer, Operation
from mooring.handlers.memory_hosts import MemoryHosts
from mooring.lb.memory import MemoryProxy
from tests.sim.loop import SimClock
from tests.sim.marathon import SimMarathon

ZONE, REVERSE_ZONE = "mooring.test", "64.10.in-addr.arpa"


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Faults:
    """How often, as a share of one, and how long in seconds."""

    drop: float = 0.0  # events
    duplicate: float = 0.0
    late: float = 0.0
    latest_s: float = 3.0
    listing: float = 0.0  # a listing fails
    slow: float = 0.0  # a play takes very long
    before: float = 0.0  # an effect does not happen
    after: float = 0.0  # an effect happens, and its answer is lost
    store: float = 0.0  # the store is busy

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self.drop = self.duplicate = self.late = self.listing = 0.0
        self.before = self.after = self.store = self.slow = 0.0


@dataclass
class Trace:
    """What happened, in order; shown when a seed fails."""

    clock: SimClock
    lines: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        self.lines.append(f"{self.clock.monotonic():9.3f}  {text}")


class Agents(MemoryHosts):
    """Hosts that write down what lands on them, and by which epoch."""

    def __init__(self, names: Sequence[str], trace: Trace, landed: Callable[[str, int], None]) -> None:
        super().__init__(names)
        self._trace = trace
        self._landed = landed

    def play(self, host: str, operations: Sequence[Operation], epoch: int) -> list[Answer]:
        before = dict(self.hosts[host].ports)
        answers = super().play(host, operations, epoch)
        after = self.hosts[host].ports
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                self._trace(f"{host} epoch {epoch}: {_port(before.get(name))} -> {_port(after.get(name))}")
                self._landed(host, epoch)
        return answers


def _port(port: object) -> str:
    return "nothing" if port is None else f"{getattr(port, 'address', '')} for {getattr(port, 'task', '')}"


class World:
    """The outside, whole."""

    def __init__(self, clock: SimClock, seed: int, names: Sequence[str]) -> None:
        self.clock = clock
        self.chance = random.Random(f"world {seed}")
        self.trace = Trace(clock)
        self.faults = Faults()
        self.agents = self._agents(names)
        self.marathon = SimMarathon(clock, random.Random(f"marathon {seed}"), self.agents)
        self.server = MemoryServer([ZONE, REVERSE_ZONE])
        self.proxies = {name: MemoryProxy() for name in ("haproxy", "nginx")}
        self.inventory: dict[str, ItemSpec] = {}
        self.away: set[str] = set()  # sinks that do not answer at all for a while
        self.effects = 0  # that were asked of any sink
        self.broken: list[str] = []
        self.after_effect: Callable[[], None] = lambda: None
        self._newest: dict[str, int] = {}

    def _agents(self, names: Sequence[str]) -> Agents:
        return Agents(names, self.trace, self.landed)

    def landed(self, where: str, epoch: int) -> None:
        """An effect took place there: nothing older may follow something newer, and all promises hold."""
        newest = self._newest.get(where, 0)
        if epoch < newest:
            self.breach(f"{where}: epoch {epoch} wrote after epoch {newest}")
        self._newest[where] = max(newest, epoch)
        self.after_effect()

    def breach(self, what: str) -> None:
        """A promise was broken; whoever directs the simulation ends it at the next moment."""
        self.trace(f"BROKEN: {what}")
        self.broken.append(what)

    def hit(self, share: float) -> bool:
        """Whether a fault of that likelihood strikes now."""
        return share > 0.0 and self.chance.random() < share

    async def pause(self, least: float, most: float) -> None:
        """Some time passes."""
        await self.clock.sleep(self.chance.uniform(least, most))

    async def update(self, update: Update, epoch: int) -> str:
        """One message reaches the name server."""
        before = self.server.sets
        code = await self.server.update(update)
        if self.server.sets != before:
            edits = ", ".join(f"{type(edit).__name__} {edit.name} {edit.type}" for edit in update.edits)
            self.trace(f"dns epoch {epoch}: {edits}")
            self.landed(f"zone {update.zone}", epoch)
        return code

    def make_inventory(self) -> MemoryInventory:
        """A sink in front of the inventory that outlives it."""
        made = MemoryInventory("webhook")
        made.live = self.inventory
        return made

    def names(self) -> Mapping[str, frozenset[str]]:
        """Every name of ours with its addresses."""
        return {name: rrset.values for (name, kind), rrset in self.server.sets.items() if kind == "A"}

    def pointers(self) -> Mapping[str, frozenset[str]]:
        """Every PTR."""
        return {name: rrset.values for (name, kind), rrset in self.server.sets.items() if kind == "PTR"}
