"""The ways between hosts: what each host is told, when, and what becomes of a host that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mooring.core.errors import Fenced
from mooring.core.model import Epoch
from mooring.handlers.fabric import AGAIN_S, Deviance, Fabric, Mesh, fabric_of, gateways_of, mtu_of
from mooring.handlers.hosts import Hosts
from mooring.handlers.memory_hosts import MemoryHosts
from mooring.ipam.pools import Pool
from tests.unit.fake_time import SteppedClock

NAMES = ["h1", "h2", "h3"]
MESH = Mesh({name: f"192.0.2.{number}" for number, name in enumerate(NAMES, 1)}, 77, 4789, 1446)


class PatientClock(SteppedClock):
    """Long sleeps end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.later = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds >= AGAIN_S:
            await self.later.wait()
        await super().sleep(seconds)


class Bench:
    """Three hosts in memory and the fabric that is kept on them."""

    def __init__(self, mesh: Mesh = MESH) -> None:
        self.world = MemoryHosts(NAMES)
        self.world.before = self._count
        self.clock = PatientClock()
        self.hosts = Hosts(self.world, self.clock, Epoch(3))
        self.pools: list[Pool] = []
        self.paused = False
        self.plays: list[str] = []
        self.fabric = Fabric(
            self.hosts, NAMES, mesh, lambda: self.pools, self.clock, lambda: self.paused
        )  # fmt: skip
        self.task: asyncio.Task[None] | None = None

    async def _count(self, host: str) -> None:
        self.plays.append(host)

    async def begin(self) -> None:
        """As a daemon does: every host is asked what it has, then the fabric is kept."""
        await asyncio.gather(*map(self.hosts.marks, NAMES))
        self.plays.clear()
        self.task = asyncio.create_task(self.fabric.run())
        await self.settle()

    async def settle(self) -> None:
        """Until nothing moves any more."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def later(self) -> None:
        """The time after which unsettled hosts are told again has passed."""
        self.clock.later.set()
        await asyncio.sleep(0)
        self.clock.later.clear()
        await self.settle()

    def tunnels(self) -> dict[str, list[str]]:
        return {name: sorted(host.ways.tunnels) for name, host in self.world.hosts.items()}

    def gateways(self) -> dict[str, list[str]]:
        return {name: sorted(host.ways.gateways) for name, host in self.world.hosts.items()}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    if made.task is not None:
        made.task.cancel()


def pool(name: str = "web", host: str | None = "h1", network: str = "10.64.0.0/24", **more: Any) -> Pool:
    return Pool.parse(name, network, gateway_host=host, **more)


FULL = {"h1": ["h2", "h3"], "h2": ["h1", "h3"], "h3": ["h1", "h2"]}


async def test_every_host_gets_a_tunnel_to_every_other(bench: Bench) -> None:
    await bench.begin()
    assert bench.tunnels() == FULL
    assert sorted(bench.plays) == NAMES  # one play each


async def test_a_silent_host_delays_nobody_and_is_tried_again(bench: Bench) -> None:
    bench.world.silent.add("h2")
    bench.task = asyncio.create_task(bench.fabric.run())
    await bench.settle()
    assert bench.tunnels() == {**FULL, "h2": []}
    bench.world.silent.clear()
    await bench.later()
    assert bench.tunnels() == FULL


async def test_a_host_that_answers_again_is_told_again(bench: Bench) -> None:
    await bench.begin()
    bench.world.silent.add("h2")
    with pytest.raises(Exception, match="cannot be reached"):
        await bench.hosts.marks("h2")
    bench.world.silent.clear()
    bench.world.hosts["h2"].ways.tunnels.clear()  # it was installed anew
    await bench.hosts.marks("h2")
    await bench.settle()
    assert bench.tunnels() == FULL


async def test_with_a_flat_fabric_and_no_gateway_no_play_is_made() -> None:
    bench = Bench(Mesh())
    await bench.begin()
    assert bench.plays == []
    assert bench.task is not None
    bench.task.cancel()


async def test_tunnels_of_an_earlier_configuration_go() -> None:
    bench = Bench(Mesh())
    bench.world.hosts["h2"].ways.tunnels["h1"] = ("192.0.2.1",)
    await bench.begin()
    assert bench.tunnels() == {name: [] for name in NAMES}
    assert bench.plays == ["h2"]
    assert bench.task is not None
    bench.task.cancel()


async def test_a_pool_gets_its_gateway_and_loses_it() -> None:
    bench = Bench(Mesh())
    await bench.begin()
    bench.pools = [pool()]
    bench.fabric.wake()
    await bench.settle()
    assert bench.gateways() == {"h1": ["web"], "h2": [], "h3": []}
    bench.pools = []
    bench.fabric.wake()
    await bench.settle()
    assert bench.gateways() == {"h1": [], "h2": [], "h3": []}
    assert bench.plays == ["h1", "h1"]  # the others have nothing to do with it
    assert bench.task is not None
    bench.task.cancel()


async def test_a_fenced_host_is_no_peer_and_is_told_nothing(bench: Bench) -> None:
    bench.hosts.fenced["h3"] = "it burnt"
    await bench.begin()
    assert bench.tunnels() == {"h1": ["h2"], "h2": ["h1"], "h3": []}
    del bench.hosts.fenced["h3"]
    bench.fabric.wake()
    await bench.settle()
    assert bench.tunnels() == FULL


async def test_while_everything_is_paused_nothing_is_done(bench: Bench) -> None:
    bench.paused = True
    await bench.begin()
    assert bench.plays == []
    bench.paused = False
    bench.fabric.wake()
    await bench.settle()
    assert bench.tunnels() == FULL


async def test_a_look_finds_and_mends_a_missing_tunnel(bench: Bench) -> None:
    await bench.begin()
    assert (await bench.fabric.look()).deviances == []
    del bench.world.hosts["h1"].ways.tunnels["h2"]
    bench.world.hosts["h2"].ways.tunnels["h9"] = ("192.0.2.9",)
    expected = [Deviance("missing", "fabric", "h2 on h1"), Deviance("surplus", "fabric", "h9 on h2")]
    seen = await bench.fabric.look(repair=False)
    assert sorted(seen.deviances, key=lambda one: one.kind) == expected
    assert bench.tunnels() != FULL
    assert sorted((await bench.fabric.look()).deviances, key=lambda one: one.kind) == expected
    assert bench.tunnels() == FULL
    assert (await bench.fabric.look()).read == {"fabric", "gateway"}


async def test_a_look_tells_from_whom_nothing_is_heard_and_who_is_silent(bench: Bench) -> None:
    await bench.begin()
    bench.world.hosts["h1"].ways.deaf.add("h3")
    bench.world.silent.add("h2")
    assert (await bench.fabric.look()).unsure == {
        "fabric on h1": "nothing is heard from h3",
        "fabric on h2": "not read now: host h2 cannot be reached",
    }


async def test_a_newer_daemon_ends_it(bench: Bench) -> None:
    bench.world.hosts["h1"].epoch = 9
    bench.task = asyncio.create_task(bench.fabric.run())
    with pytest.raises(ExceptionGroup) as raised:
        await bench.task
    assert raised.value.subgroup(Fenced) is not None


# -- what is told


def test_the_order_of_a_host_names_the_others() -> None:
    order = fabric_of("h2", MESH)
    assert order["local"] == "192.0.2.2"
    assert order["peers"] == [
        {"name": "h1", "address": "192.0.2.1"},
        {"name": "h3", "address": "192.0.2.3"},
    ]
    assert (order["vni"], order["port"]) == (77, 4789)


@pytest.mark.parametrize("mesh", [Mesh(), Mesh({"h1": "192.0.2.1"}), Mesh({"h9": "192.0.2.9"})])
def test_without_anybody_to_reach_there_are_no_tunnels(mesh: Mesh) -> None:
    assert (fabric_of("h1", mesh)["local"], fabric_of("h1", mesh)["peers"]) == (None, [])


def test_the_gateways_of_a_host_are_those_of_the_pools_that_name_it() -> None:
    pools = [
        pool(vlan=100, gateway_nat=True),
        pool("other", "h2", "10.65.0.0/24"),
        pool("own", None, "10.66.0.0/24", gateway="10.66.0.1"),
        pool("six", "h1", "fd00:64::/64", gateway="fd00:64::ff", mtu=9000),
    ]
    assert gateways_of("h1", pools, 1446)["gateways"] == [
        {"pool": "six", "address": "fd00:64::ff", "prefix": 64, "vlan": None, "mtu": 1446, "nat": False},
        {"pool": "web", "address": "10.64.0.1", "prefix": 24, "vlan": 100, "mtu": 1446, "nat": True},
    ]


@pytest.mark.parametrize(
    ("wanted", "limit", "given"),
    [(None, None, None), (1400, None, 1400), (None, 1446, 1446), (1400, 1446, 1400), (1500, 1446, 1446)],
)
def test_a_pool_gets_the_mtu_that_the_fabric_carries(
    wanted: int | None, limit: int | None, given: int | None
) -> None:
    assert mtu_of(wanted, limit) == given
