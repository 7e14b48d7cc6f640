"""A whole engine over twins and a stepped clock, whose workers are driven by hand.

The app `/shop/web` runs some instances with a port, names, balancer members and inventory rows each.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from mooring.cmdb.memory import MemoryInventory
from mooring.controller.engine import Engine, Outside
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.settings import Settings, pools_of
from mooring.controller.store.memory import MemoryStore
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
    Port,
    SinkName,
    State,
    TaskId,
)
from mooring.core.sink import Change, Observation, Outcome, Sink
from mooring.core.store import Contents
from mooring.dns.memory import MemoryServer
from mooring.dns.sinks import SeatNames, SharedNames
from mooring.handlers.hosts import FilesSink, Hosts, NetworkSink
from mooring.handlers.memory_hosts import MemoryHosts
from mooring.handlers.records import Records
from mooring.ipam.book import LeaseBook
from mooring.lb.memory import MemoryBalancer, MemoryProxy
from mooring.portal.metrics import Metrics
from tests.unit.fake_time import SteppedClock

ZONE, REVERSE = "mooring.test", "64.10.in-addr.arpa"
WEB = AppId("/shop/web")
NAME = f"web.shop.{ZONE}"
EPOCH = Epoch(3)
LABELS = {"MOORING_POOL": "blue", "HAPROXY_GROUP": "external", "HAPROXY_0_VHOST": "web.example.org"}
_HOSTS = ("h1", "h2")


class Watched:
    """A sink with its changes counted, and a way to put something between the question and the answer."""

    def __init__(self, sink: Sink) -> None:
        self.name = sink.name
        self.sink = sink
        self.changes: list[Change] = []
        self.looks = 0
        self.during: Callable[[], Awaitable[None]] | None = None

    def lane(self, change: Change) -> str:
        return self.sink.lane(change)

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        self.changes += changes
        return await self.sink.apply(changes)

    async def observe(self) -> Observation:
        self.looks += 1
        seen = await self.sink.observe()
        if self.during is not None:
            await self.during()
        return seen

    async def prime(self, shown: Any) -> None:
        await self.sink.prime(shown)

    async def check(self) -> str:
        return await self.sink.check()


class House:
    """Everything, in memory."""

    def __init__(self, *, observe: bool = False) -> None:
        self.clock = SteppedClock()
        self.hosts = MemoryHosts(_HOSTS)
        self.server = MemoryServer([ZONE, REVERSE])
        self.proxy = MemoryProxy()
        self.cmdb = MemoryInventory("webhook")
        self.store = MemoryStore()
        self.commits: list[Any] = []
        self._observe = observe
        hosts = self.lanes = Hosts(self.hosts, self.clock, EPOCH)
        sinks: list[Sink] = [
            NetworkSink(hosts, _HOSTS),
            FilesSink(hosts, _HOSTS),
            self.cmdb,
            SeatNames(self.server, zones=[ZONE], reverse_zones=[REVERSE], owner="mooring"),
            SharedNames(self.server, zones=[ZONE], owner="mooring"),
            MemoryBalancer(self.proxy),
            MemoryInventory("ledger"),
        ]
        self.sinks = {sink.name: Watched(sink) for sink in sinks}
        self.engine: Engine

    async def open(self, instances: int = 2) -> House:
        """Start, with so many instances of the app running and shown everywhere."""
        contents = await self.store.open()
        await self.store.begin(EPOCH)
        commit = self.store.commit

        async def counted(writes: Sequence[Any]) -> None:
            self.commits += writes
            await commit(writes)

        self.store.commit = counted  # type: ignore[method-assign]
        self.engine = self._engine(contents)
        self.engine.grounded.set()
        await self.engine.prime()
        self.list(instances)
        await self.work()
        return self

    def _engine(self, contents: Contents) -> Engine:
        settings = _settings()
        records = Records(self.store, LeaseBook(pools_of(settings), contents.leases), contents)
        metrics = Metrics(CollectorRegistry(), "test", list(self.sinks), framer="c")
        outside = Outside(
            self.clock, random.Random(1), _NoMarathon(), list(self.sinks.values()), EPOCH, metrics,  # type: ignore[arg-type]
            self._observe,
        )  # fmt: skip
        return Engine(settings, records, outside)

    def list(self, instances: int, **labels: str) -> None:
        """Marathon lists so many instances, and every key is queued."""
        running = [_instance(number) for number in range(instances)]
        for one in running:
            host = self.hosts.hosts[str(one.host)]
            if one.task not in host.containers:
                self.hosts.place(str(one.host), one.task, listens=[8080])
        app = App(WEB, instances, {**LABELS, **labels}, (Port(8080, 10080),), checked=True)
        self.clock.step(1)
        now = self.clock.monotonic()
        listing = {WEB: AppListing(WEB, app, tuple(running), now)}
        self.engine.view.apply_snapshot(Snapshot(now, listing), now)
        for one in running:
            self.engine.queue.add(BindingId(one.id))

    async def work(self) -> None:
        """What workers would do, one key after the other, until none is left in line."""
        queue = self.engine.queue
        while queue.depth():
            key = await queue.get()
            if not self.engine.is_paused(key):
                await self.engine.reconciler.reconcile(key)
            queue.done(key)

    def changed(self) -> dict[str, int]:
        """How many changes each sink was asked for since the last question; sinks without any left out."""
        counted = {name: len(sink.changes) for name, sink in self.sinks.items() if sink.changes}
        for sink in self.sinks.values():
            sink.changes.clear()
        return counted

    def binding(self, number: int = 0) -> Binding:
        found = self.engine.records.get(BindingId(_id(number)))
        assert found is not None
        return found

    def metric(self, name: str, **labels: str) -> float | None:
        return self.engine.metrics.registry.get_sample_value(f"mooring_{name}", labels)


class _NoMarathon:
    framework = None


def _id(number: int) -> str:
    return f"shop_web.instance-{number}"


def _instance(number: int) -> Instance:
    id = InstanceId(_id(number))
    host = HostName(_HOSTS[number % len(_HOSTS)])
    return Instance(id, 1, TaskId(f"{id}._app.1"), WEB, host, State.RUNNING, Health.HEALTHY, (31000,), "v1")


def _settings() -> Settings:
    return Settings.model_validate(
        {
            "store": Path("unused.db"),
            "hosts": {host: f"192.0.2.{n}" for n, host in enumerate(_HOSTS)},
            "marathon": {"endpoints": ["http://m:1"]},
            "pools": {"blue": {"network": "10.64.0.0/26", "gateway": "10.64.0.1", "vlan": 10}},
            "supernets": {"big": {"network": "10.70.0.0/16", "vlans": "100-101"}},
            "ansible": {"inventory": Path("unused")},
            "dns": {"server": "memory", "zone": ZONE, "key_name": "k", "secret_file": Path("unused")},
        }
    )


NETWORK, NAMES, APP_NAMES, HAPROXY, WEBHOOK, LEDGER = map(
    SinkName, ("network", "names", "app_names", "haproxy", "webhook", "ledger")
)
