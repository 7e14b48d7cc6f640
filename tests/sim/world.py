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
from mooring.dns.records import Question, RRset, Update
from mooring.lb.memory import MemoryProxy
from tests.sim import pairs
from tests.sim.agents import Agents
from tests.sim.loop import SimClock
from tests.sim.marathon import SimMarathon

ZONE, REVERSE_ZONE = "mooring.test", "64.10.in-addr.arpa"
REVERSE_ZONES = (REVERSE_ZONE, pairs.REVERSE_ZONE)
FOREIGN: Mapping[Question, RRset] = {
    ("printer." + ZONE, "A"): RRset(frozenset({"10.65.0.9"}), 300),
    ("printer." + ZONE, "TXT"): RRset(frozenset({"second floor"}), 300),
    ("60.0." + REVERSE_ZONE, "PTR"): RRset(frozenset({"router.elsewhere.test"}), 300),
}


class Violation(AssertionError):
    """A promise was broken."""


class Defect(Violation):
    """No promise was seen broken, but the daemon ended by itself or met an error that nobody expected."""


@dataclass
class Faults:
    """How often, as a share of one, and how long in seconds."""

    drop: float = 0.0  # events
    duplicate: float = 0.0
    late: float = 0.0
    latest_s: float = 3.0
    listing: float = 0.0  # a listing fails
    slow: float = 0.0  # a play takes very long
    given_up: float = 0.0  # a play is given up by its sender and lands later
    before: float = 0.0  # an effect does not happen
    after: float = 0.0  # an effect happens, and its answer is lost
    store: float = 0.0  # the store is busy

    def calm(self) -> None:
        """Nothing goes wrong any more."""
        self.drop = self.duplicate = self.late = self.listing = 0.0
        self.before = self.after = self.store = self.slow = self.given_up = 0.0


@dataclass
class Trace:
    """What happened, in order; shown when a seed fails."""

    clock: SimClock
    lines: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        self.lines.append(f"{self.clock.monotonic():9.3f}  {text}")


@dataclass(frozen=True)
class Lie:
    """A wrong listing that Marathon gives for a while, and the living that it must not cost their address."""

    what: str  # it does
    living: Mapping[str, str]  # instance: its task when the lie began
    still_lives: Callable[[str, str], bool]  # instance and task

    def protects(self, instance: str) -> bool:
        """Whether it lived all the time."""
        return instance in self.living and self.still_lives(instance, self.living[instance])


class World:
    """The outside, whole."""

    def __init__(self, clock: SimClock, seed: int, names: Sequence[str]) -> None:
        self.clock = clock
        self.chance = random.Random(f"world {seed}")
        self.trace = Trace(clock)
        self.faults = Faults()
        self.agents = Agents(names, clock, self.trace, self.landed, self.breach)
        self.marathon = SimMarathon(clock, random.Random(f"marathon {seed}"), self.agents)
        self.server = MemoryServer([ZONE, *REVERSE_ZONES])
        self.server.sets.update(FOREIGN)
        self.proxies = {name: MemoryProxy() for name in ("haproxy", "nginx")}
        self.inventory: dict[str, ItemSpec] = {}
        self.away: set[str] = set()  # sinks that do not answer at all for a while
        self.unread: dict[
            str, int
        ] = {}  # balancers that did not answer in a rebuild: looks until that is made up
        self.effects = 0  # that were asked of any sink
        self.broken: list[str] = []
        self.defects: list[str] = []
        self.pools: dict[str, str] = {}  # name: network
        self.kept: set[str] = set()  # addresses that are set aside and may never be given out
        self.may_be_fenced = False  # there were two daemons, or a store was lost
        self.lie: Lie | None = None
        self.jumps: list[tuple[float, float]] = []  # of the wall clock: when (monotonic), and how far
        self.foreign: dict[Question, RRset] = dict(FOREIGN)  # what others have in our zones
        self.after_effect: Callable[[], None] = lambda: None
        self._newest: dict[str, int] = {}

    def landed(self, where: str, epoch: int) -> None:
        """An effect took place there: nothing older may follow something newer, and all promises hold."""
        newest = self._newest.get(where, 0)
        if epoch < newest:
            self.breach(f"{where}: epoch {epoch} wrote after epoch {newest}")
        self._newest[where] = max(newest, epoch)
        self.after_effect()

    def heard(self, where: str, epoch: int) -> None:
        """A daemon has begun on what it was told there; nothing older may change that afterwards."""
        self._newest[where] = max(self._newest.get(where, 0), epoch)

    def breach(self, what: str) -> None:
        """A promise was broken; whoever directs the simulation ends it at the next moment."""
        self.trace(f"BROKEN: {what}")
        self.broken.append(what)

    def defect(self, what: str) -> None:
        """The daemon did something that no program should do, whatever it promises."""
        self.trace(f"DEFECT: {what}")
        self.defects.append(what)

    def jump(self, seconds: float) -> None:
        """The wall clock is set."""
        self.jumps.append((self.clock.monotonic(), seconds))
        self.clock.step(seconds)

    def quiet_for(self, address: str) -> float | None:
        """How long no port has had the address, by a wall clock at most; None: none ever had it."""
        left = self.agents.left.get(address)
        if left is None:
            return None
        ahead = sum(far for at, far in self.jumps if at >= left and far > 0)
        return self.clock.monotonic() - left + ahead

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
            for question, rrset in self.foreign.items():
                if self.server.sets.get(question) != rrset:
                    self.breach(f"the record {question}, which is not ours, was changed")
            self.landed(f"zone {update.zone}", epoch)
        return code

    def make_inventory(self) -> MemoryInventory:
        """A sink in front of the inventory that outlives it."""
        made = MemoryInventory("webhook")
        made.live = self.inventory
        return made

    def names(self) -> Mapping[str, frozenset[str]]:
        """Every name that is not somebody else's, with its addresses of both families."""
        four, six = self._shown("A"), self._shown("AAAA")
        nothing: frozenset[str] = frozenset()
        return {name: four.get(name, nothing) | six.get(name, nothing) for name in four | six}

    def pointers(self) -> Mapping[str, frozenset[str]]:
        """The same for every PTR."""
        return self._shown("PTR")

    def _shown(self, wanted: str) -> dict[str, frozenset[str]]:
        return {
            name: rrset.values
            for (name, kind), rrset in self.server.sets.items()
            if kind == wanted and (name, kind) not in self.foreign
        }
