"""An operator changes pools while the engine runs, and everything that depends on them follows."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from mooring.controller.daemon import _records
from mooring.controller.pools import wiring_at
from mooring.core.errors import ConfigRefused, Refused, Retryable
from mooring.core.model import AppId, BindingId, LeaseState, PoolName, PoolSpec
from mooring.core.readmodel import Phase
from mooring.core.specs import NameSpec, PortSpec
from mooring.handlers.wants import NAMES, without_seat
from mooring.ipam.errors import PoolInUse, PoolUnknown, SupernetExhausted
from mooring.ipam.pools import Pool, Pools
from mooring.ipam.reach import Reach
from tests.unit.small_house import NETWORK, WEB, House

SMALL = PoolSpec(PoolName("small"), "10.65.0.0/30", "10.65.0.1", vlan=20)


async def house(instances: int = 0, **labels: str) -> House:
    opened = await House().open(0)
    opened.list(instances, **labels)
    await opened.work()
    return opened


def port(it: House, number: int) -> PortSpec:
    spec = it.binding(number).sink(NETWORK).applied
    assert isinstance(spec, PortSpec)
    return spec


async def test_an_app_that_asked_for_a_pool_that_was_missing_is_served_when_it_is_added() -> None:
    it = await house(1, MOORING_POOL="small")
    assert "no pool 'small'" in it.engine.report.refusals()[WEB]
    await it.engine.pools.add(SMALL)
    assert it.engine.report.refusals() == {}
    await it.work()
    assert (port(it, 0).address, port(it, 0).vlan, port(it, 0).prefix) == ("10.65.0.2", 20, 30)
    assert it.engine.report.pools()[1].configured is False


async def test_who_waits_is_shown_and_served_when_the_pool_grows() -> None:
    it = await house()
    await it.engine.pools.add(SMALL)
    it.list(3, MOORING_POOL="small")
    await it.work()
    waiting = [row for row in it.engine.report.instances() if row.phase is Phase.WAITING]
    assert [row.problem for row in waiting] == ["pool small has no address left for /shop/web (1 in all)"] * 2
    assert [(row.name, row.waiting) for row in it.engine.report.pools()] == [("blue", 0), ("small", 2)]
    assert [row.exhausted_in_s for row in it.engine.report.pools()] == [None, 0.0]
    await it.engine.pools.resize("small", "10.65.0.0/29")
    await it.work()
    assert [port(it, number).address for number in range(3)] == ["10.65.0.2", "10.65.0.3", "10.65.0.4"]
    assert {port(it, number).prefix for number in range(3)} == {29}, "ports that stand are wired anew"
    assert [(row.name, row.waiting) for row in it.engine.report.pools()] == [("blue", 0), ("small", 0)]


async def test_who_waits_is_served_when_an_address_has_cooled() -> None:
    it = await house()
    await it.engine.pools.add(SMALL)
    await it.engine.pools.reserve("10.65.0.2", "the printer")
    it.list(1, MOORING_POOL="small")
    await it.work()
    assert it.engine.report.pools()[1].waiting == 1
    await it.engine.pools.unreserve("10.65.0.2")
    await it.work()
    assert it.engine.report.pools()[1].waiting == 1
    end = it.engine.settings.leases.cooling_s
    for _ in range(int(end // 20)):
        it.clock.step(20)
        it.engine.queue.add(BindingId("shop_web.instance-0"))
        await it.work()
    await it.engine.janitor.tidy()
    await it.work()
    assert port(it, 0).address == "10.65.0.2"


async def test_a_pool_of_other_owners_is_barred_on_running_ports_and_nothing_else_moves() -> None:
    it = await house()
    await it.engine.pools.add(msgspec.structs.replace(SMALL, groups=(AppId("/shop"),)))
    it.list(1, MOORING_POOL="small")
    await it.work()
    changes = {name: len(sink.changes) for name, sink in it.sinks.items()}
    await it.engine.pools.add(PoolSpec(PoolName("ops"), "10.66.0.0/24", groups=(AppId("/ops"),)))
    await it.work()
    assert port(it, 0).barred == ("10.66.0.0/24",)
    [there] = [one for host in it.hosts.hosts.values() for one in host.ports.values()]
    assert there.barred == ("10.66.0.0/24",)
    moved = {name for name, sink in it.sinks.items() if len(sink.changes) > changes[name]}
    assert moved == {NETWORK}, "no balancer and no name has heard of it"
    await it.engine.pools.remove("ops")
    await it.work()
    assert port(it, 0).barred == ()


async def test_while_not_every_lease_is_known_pools_may_only_be_added() -> None:
    it = await house(1)
    await it.engine.pools.add(SMALL)
    it.engine.seats.close("the store is new")
    mine = it.engine.pools
    for work in (
        mine.reserve("10.64.0.9", "printer"),
        mine.resize("small", "10.65.0.0/29"),
        mine.remove("small"),
    ):
        with pytest.raises(Refused, match=r"stays as it is, because somebody unknown .*: the store is new"):
            await work
    assert it.engine.records.book.by_address("10.64.0.9") is None
    await mine.add(PoolSpec(PoolName("other"), "10.66.0.0/30", "10.66.0.1", vlan=21))
    it.engine.seats.open()
    await mine.reserve("10.64.0.9", "printer")


async def test_an_address_in_conflict_is_released_when_nothing_leads_there_any_more() -> None:
    it = await house(2)
    lost, other = port(it, 0).address, it.binding(1)
    book = it.engine.records.book
    shown = replace(other.sink(NAMES), residue=(NameSpec("web-0.web.test", lost, 10),))
    await it.engine.records.save(other.with_sink(NAMES, shown))
    await it.engine.records.commit(book.plan_conflict(lost, 1.0, "a stranger"))
    await it.engine.records.save(without_seat(replace(it.binding(0), sinks={})))
    with pytest.raises(Retryable, match=rf"{lost} is still shown for shop_web\.instance-1"):
        await it.engine.pools.release(lost)
    await it.engine.records.save(other)
    await it.engine.pools.release(lost)
    assert book.by_address(lost).state is LeaseState.COOLING  # type: ignore[union-attr]


async def test_a_pool_with_live_leases_stays_and_labels_follow_a_pool_that_goes() -> None:
    it = await house()
    await it.engine.pools.add(SMALL)
    it.list(1, MOORING_POOL="small")
    await it.work()
    with pytest.raises(PoolInUse, match=r"10\.65\.0\.2 \(bound for shop_web\.instance-0 on h1\)"):
        await it.engine.pools.remove("small")
    await it.engine.pools.add(PoolSpec(PoolName("other"), "10.66.0.0/30"))
    await it.engine.pools.remove("other")
    assert [spec.name for spec in it.engine.pools.specs()] == ["blue", "small"]
    assert [pool.name for pool in it.store.tables.pools.values()] == ["small"]


async def test_an_app_whose_pool_goes_is_refused_from_then_on() -> None:
    it = await house()
    await it.engine.pools.add(SMALL)
    it.list(0, MOORING_POOL="small")
    app = it.engine.view.app(WEB)
    assert app is not None
    it.engine.claims.of(app)
    assert it.engine.report.refusals() == {}
    await it.engine.pools.remove("small")
    assert "no pool 'small'" in it.engine.report.refusals()[WEB]


async def test_a_start_with_a_live_address_in_no_pool_is_refused() -> None:
    it = await house()
    await it.engine.pools.add(SMALL)
    it.list(1, MOORING_POOL="small")
    await it.work()
    await it.store.close()
    contents = await it.store.open()
    book = _records(it.engine.settings, it.store, contents).book
    assert [pool.name for pool in book.pools] == ["blue", "small"]
    with pytest.raises(ConfigRefused, match=r"pool small: no pool contains 10\.65\.0\.2 \(bound for"):
        _records(it.engine.settings, it.store, replace(contents, pools=()))


async def test_a_pool_is_generated_from_a_supernet_of_the_configuration() -> None:
    it = await house()
    made = await it.engine.pools.generate("one", "big", ("/shop",))
    assert (made.network, made.vlan, made.gateway) == ("10.70.0.0/24", 100, "10.70.0.1")
    assert (made.groups, made.supernet) == (("/shop",), "big")
    second = await it.engine.pools.generate("two", "big", ())
    assert (second.network, second.vlan) == ("10.70.1.0/24", 101)
    with pytest.raises(SupernetExhausted, match="each of its 2 VLANs is in use"):
        await it.engine.pools.generate("three", "big", ())
    with pytest.raises(PoolUnknown, match=r"no supernet 'nope' \(configured: big\)"):
        await it.engine.pools.generate("three", "nope", ())
    history = [note.event for note in it.store.tables.history]
    assert history == ["pool added", "pool added"]


def test_wiring_goes_by_the_address_and_not_by_a_name() -> None:
    renamed = Pool.parse("renamed", "10.0.0.0/24", gateway="10.0.0.1", vlan=7, mtu=1400)
    pools = Pools([renamed, Pool.parse("six", "fd00::/64")])
    found = wiring_at(pools, "10.0.0.9", Reach())
    assert found is not None
    assert (found.prefix, found.gateway, found.vlan, found.mtu) == (24, "10.0.0.1", 7, 1400)
    assert found.barred == ()
    bare = wiring_at(pools, "fd00::9", Reach())
    assert bare is not None
    assert (bare.prefix, bare.gateway, bare.vlan) == (64, None, None)
    assert wiring_at(pools, "10.9.0.9", Reach()) is None
    narrow = wiring_at(pools, "10.0.0.9", Reach(), 1300)
    assert narrow is not None
    assert narrow.mtu == 1300
