"""A daemon's inside over hosts, as far as an address conflict concerns it: records, sinks, one reconciler.

What is left out (stream, queue, workers) is played by the test: it says what Marathon says, and has keys
reconciled until nobody wants to come again.
"""

from __future__ import annotations

from collections.abc import Sequence

from mooring.controller.claims import Claims
from mooring.controller.doubts import Doubts
from mooring.controller.reconcile import Reconciler, Surroundings, Verdict
from mooring.controller.store.memory import MemoryStore
from mooring.core.batch import Batcher
from mooring.core.clock import Clock
from mooring.core.labels import Rules
from mooring.core.model import (
    App,
    AppId,
    Binding,
    BindingId,
    Epoch,
    Health,
    HostName,
    Instance,
    InstanceId,
    LeaseState,
    State,
    TaskId,
)
from mooring.core.sink import Sink
from mooring.core.store import HistoryQuery
from mooring.dns.memory import MemoryServer
from mooring.dns.sinks import SeatNames
from mooring.handlers.conflict import Conflicts
from mooring.handlers.converge import Converger
from mooring.handlers.create import Seats
from mooring.handlers.hosts import Hosts, NetworkSink, Runner
from mooring.handlers.kill import Kills
from mooring.handlers.records import Records
from mooring.handlers.restart import Restarts
from mooring.handlers.wants import Wiring
from mooring.ipam.book import LeaseBook
from mooring.ipam.pools import Pool, Pools

WEB = AppId("/shop/web")
ZONE, REVERSE = "mooring.test", "64.10.in-addr.arpa"
EPOCH = Epoch(3)
PATIENCE_S = 10.0


class Said:
    """What Marathon says."""

    def __init__(self) -> None:
        self.apps: dict[AppId, App] = {}
        self.instances: dict[InstanceId, Instance] = {}

    def instance(self, id: InstanceId) -> Instance | None:
        return self.instances.get(id)

    def app(self, id: AppId) -> App | None:
        return self.apps.get(id)

    def knows(self, app: AppId) -> bool:
        return app in self.apps

    def is_deleted(self, app: AppId) -> bool:
        return False

    def forget(self, id: InstanceId) -> None:
        self.instances.pop(id, None)

    def runs(self, name: str, host: str, incarnation: int = 1) -> Instance:
        """An instance of the app runs on the host."""
        id = InstanceId(f"shop_web.instance-{name}")
        task = TaskId(f"{id}._app.{incarnation}")
        self.instances[id] = Instance(
            id, incarnation, task, WEB, HostName(host), State.RUNNING, Health.HEALTHY
        )
        return self.instances[id]


class Inside:
    """The parts, put together as the daemon does it."""

    def __init__(
        self, runner: Runner, inventory: Sequence[str], clock: Clock, network: str, **labels: str
    ) -> None:
        self.said = Said()
        self.said.apps[WEB] = App(WEB, 8, {"MOORING_POOL": "shop", **labels})
        pool = Pool.parse("shop", network)
        self.clock = clock
        self.hosts = Hosts(runner, clock, EPOCH)
        self.server = MemoryServer([ZONE, REVERSE])
        self.store = MemoryStore()
        self.book = LeaseBook(Pools([pool]))
        self.conflicts = 0
        self.woken: list[BindingId] = []
        self._inventory = inventory
        self._pool = pool

    async def open(self) -> None:
        """Take the store and build everything on it."""
        self.records = Records(self.store, self.book, await self.store.open())
        await self.store.begin(EPOCH)
        network = NetworkSink(self.hosts, self._inventory)
        sinks: list[Sink] = [
            network,
            SeatNames(self.server, zones=[ZONE], reverse_zones=[REVERSE], owner="test"),
        ]
        self.reconciler = Reconciler(
            view=self.said,
            claims=Claims(Rules(pools={"shop": self._pool}, zone=ZONE)),
            records=self.records,
            seats=Seats(self.records, self.clock, PATIENCE_S),
            restarts=Restarts(self.records, self.clock, PATIENCE_S),
            kills=Kills(self.records, self.clock),
            conflicts=Conflicts(
                network, self.records, self.clock, PATIENCE_S, self.woken.append, self._count
            ),
            converger=Converger(
                {sink.name: Batcher(sink, self.clock) for sink in sinks},
                self.records,
                EPOCH,
                lambda binding, step, outcome: None,
            ),
            surroundings=Surroundings(lambda address: Wiring(29), ZONE, lambda host: None),
            wake=self.woken.append,
            doubts=Doubts(),
            expect=network.expect,
        )

    def _count(self) -> None:
        self.conflicts += 1

    async def reconcile(self, instance: Instance, *, turns: int = 20) -> Verdict:
        """As the queue would: until the key waits or is settled, with everything that is woken meanwhile."""
        key = BindingId(instance.id)
        for _ in range(turns):
            verdict = await self.reconciler.reconcile(key)
            woken, self.woken[:] = [*self.woken], []
            for other in woken:
                await self.reconciler.reconcile(other)
            if not verdict.again or verdict.after_s != 0.0:
                return verdict
        raise AssertionError(f"{key} does not come to rest: {verdict}")

    def binding(self, instance: Instance) -> Binding:
        found = self.records.get(BindingId(instance.id))
        assert found is not None
        return found

    def state(self, address: str) -> LeaseState | None:
        lease = self.book.by_address(address)
        return lease.state if lease else None

    def note(self, address: str) -> str:
        lease = self.book.by_address(address)
        assert lease is not None
        return lease.note or ""

    async def events(self, address: str) -> list[str]:
        """The history of an address, oldest first."""
        return [note.event for note in reversed(await self.store.history(HistoryQuery(address)))]

    def names(self, address: str) -> list[str]:
        """Names that lead to the address."""
        return [
            name
            for (name, kind), rrset in self.server.sets.items()
            if kind == "A" and address in rrset.values
        ]
