"""What is dead and nobody's, and what is kept: the table of `handlers.dead_ports`, and the collector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from mooring.controller.collector import Collector
from mooring.core.model import Binding, Epoch, Lease, LeaseState, SinkState
from mooring.core.specs import PortSpec
from mooring.handlers.dead_ports import Dead, dead_in, keeper, removals, ripe, suspects_after
from mooring.handlers.hosts import Hosts
from mooring.handlers.memory_hosts import MemoryPort
from mooring.playbooks.module_utils.mooring_host.planning import instance_mark
from tests.unit.small_house import EPOCH, NETWORK, WEB, House

GRACE_S = 60.0
RAW: Mapping[str, Any] = {
    "port": "mo1", "address": "10.64.0.2", "prefix": 26, "instance": "web.instance-1",
    "task": "web.instance-1._app.1", "app": "/shop/web", "slot": 0, "generation": 4, "epoch": 3,
    "container": "c1@start", "vlan": None, "alive": False, "device": True, "connected": True,
}  # fmt: skip


def observed(*changes: Mapping[str, Any], orphans: Any = ()) -> dict[str, Any]:
    return {"ports": [{**RAW, **change} for change in changes], "orphans": list(orphans)}


def dead(**changes: Any) -> Dead:
    (found,) = dead_in("h1", observed(changes))
    return found


# -- seen twice


def test_only_what_does_not_live_is_dead() -> None:
    told = observed({}, {"port": "mo2", "alive": True, "address": "10.64.0.3"})
    assert [one.name for one in dead_in("h1", told)] == ["mo1"]


def test_what_is_dead_ripens_by_being_seen_so_again_after_the_grace() -> None:
    found = [dead()]
    first = suspects_after({}, found, 100.0)
    assert ripe(found, first, 100.0, GRACE_S) == []
    soon = suspects_after(first, found, 159.0)
    assert ripe(found, soon, 159.0, GRACE_S) == []
    late = suspects_after(soon, found, 160.0)
    assert ripe(found, late, 160.0, GRACE_S) == found


def test_what_was_seen_alive_in_between_or_started_anew_begins_anew() -> None:
    first = suspects_after({}, [dead()], 100.0)
    assert suspects_after(first, [], 130.0) == {}
    again = [dead(container="c1@another start")]
    assert ripe(again, suspects_after(first, again, 200.0), 200.0, GRACE_S) == []


# -- who keeps it


def record(**changes: Any) -> Binding:
    port = PortSpec("h1", RAW["task"], "/shop/web", 0, RAW["instance"], "10.64.0.2", 26, lease_generation=4)
    state = changes.pop("state", SinkState(port, port))
    whole = Binding(id=RAW["instance"], app=WEB, instance=RAW["instance"], incarnation=1,  # type: ignore[arg-type]
                    task=RAW["task"], host="h1", sinks={NETWORK: state})  # type: ignore[arg-type]  # fmt: skip
    return replace(whole, **changes)


def spec(**changes: Any) -> PortSpec:
    applied = record().sink(NETWORK).applied
    assert isinstance(applied, PortSpec)
    return structs.replace(applied, **changes)


LEASE = Lease("10.64.0.2", "blue", LeaseState.BOUND, WEB, 0, None, "h1", 4, 0.0)  # type: ignore[arg-type]
NEWER = spec(task="web.instance-1._app.2")
AWAY = spec(host="h2")


@pytest.mark.parametrize(
    ("records", "changes", "kept"),
    [
        ([], {}, ""),
        ([record(state=SinkState(NEWER, NEWER))], {}, ""),
        ([record(state=SinkState(AWAY, AWAY))], {}, ""),
        ([record()], {}, "attached again"),
        ([record()], {"replaced": True}, ""),
        ([record(state=SinkState(None, spec()))], {}, "on its way"),
        ([record(state=SinkState(NEWER, spec()))], {}, "on its way"),
        ([record(state=SinkState(NEWER, None, (spec(),)))], {}, "on its way"),
        ([record(state=SinkState(AWAY, None))], {}, "on its way"),
        ([record(instance="other", state=SinkState(AWAY, None))], {}, ""),
        ([record(instance="other", state=SinkState(spec(instance="other"), None))], {}, "on its way"),
        ([], {"epoch": 4}, "epoch 4"),
        ([], {"generation": 5}, "generation 5"),
    ],
)  # fmt: skip
def test_who_keeps_a_dead_port(records: list[Binding], changes: dict[str, Any], kept: str) -> None:
    replaced = changes.pop("replaced", False)
    one = replace(dead(**changes), replaced=replaced)
    reason = keeper(one, "h1", records, LEASE, Epoch(3))
    assert kept in reason
    assert bool(reason) == bool(kept)


def test_another_port_of_the_same_task_that_lives_is_noticed() -> None:
    told = observed({}, {"port": "mo2", "container": "c1@later", "alive": True})
    assert [(one.name, one.replaced) for one in dead_in("h1", told)] == [("mo1", True)]


def test_a_device_without_a_port_is_kept_for_its_instance() -> None:
    mark = "e8d1e8ed5ed2c8ea"
    orphan = {"device": "mo9", "address": "10.64.0.2", "instance": mark}
    (one,) = dead_in("h1", observed(orphans=[orphan]))
    assert keeper(one, "h1", [record()], None, Epoch(3)) == "", "of another instance"
    own = {**orphan, "instance": instance_mark(RAW["instance"])}
    (one,) = dead_in("h1", observed(orphans=[own]))
    assert "has that address" in keeper(one, "h1", [record()], None, Epoch(3))
    assert list(removals([one])) == [{"op": "detach", "id": "mo9", "port": "mo9", "container": None}]


# -- the collector


@pytest.fixture
async def house() -> House:
    return await House().open()


def collector_of(house: House) -> Collector:
    hosts = Hosts(house.hosts, house.clock, EPOCH)
    engine = house.engine
    return Collector(
        hosts, engine.records, house.clock, grace_s=GRACE_S,
        waits=lambda app: app == "/paused", collected=engine.metrics.port_collected,
    )  # fmt: skip


async def round_of(collector: Collector, host: str) -> int:
    await collector._hosts.marks(host)
    return await collector.collect(host)


def stray(house: House, **changes: Any) -> MemoryPort:
    (own,) = house.hosts.hosts["h2"].ports.values()
    lost = replace(own, name="zz", address="10.64.0.40", instance="stray", task="stray._app.1", slot=9)
    port = replace(lost, **changes)
    house.hosts.hosts["h2"].ports[port.name] = port
    return port


async def test_a_dead_port_of_nobody_is_collected_and_its_address_rests(house: House) -> None:
    collector, ports = collector_of(house), house.hosts.hosts["h2"].ports
    port = stray(house)
    assert await round_of(collector, "h2") == 0
    assert await round_of(collector, "h2") == 0, "twice at once is not twice"
    house.clock.step(GRACE_S)
    assert await round_of(collector, "h2") == 1
    assert port.name not in ports
    assert len(ports) == 1, "the living one stays"
    lease = house.engine.records.book.by_address("10.64.0.40")
    assert lease is not None
    assert lease.state is LeaseState.COOLING
    assert house.metric("ports_collected_total", kind="port") == 1


async def test_what_came_to_life_between_the_look_and_the_removal_stays(house: House) -> None:
    collector = collector_of(house)
    port = stray(house)
    await round_of(collector, "h2")
    house.clock.step(GRACE_S)
    await collector._hosts.marks("h2")
    lives = house.hosts.place("h2", port.task)
    house.hosts.hosts["h2"].ports[port.name] = replace(port, start=lives.start)
    assert await collector.collect("h2") == 0
    assert port.name in house.hosts.hosts["h2"].ports


async def test_a_record_that_wants_it_elsewhere_loses_it_and_one_that_wants_it_there_does_not(
    house: House,
) -> None:
    collector = collector_of(house)
    mine, theirs = house.binding(0), house.binding(1)
    moved = stray(house, address=mine.address, instance=mine.instance, task=mine.task)
    (own,) = [port for port in house.hosts.hosts["h2"].ports.values() if port.address == theirs.address]
    house.hosts.stop("h2", theirs.task)
    await round_of(collector, "h2")
    house.clock.step(GRACE_S)
    assert await round_of(collector, "h2") == 1
    assert moved.name not in house.hosts.hosts["h2"].ports
    assert own.name in house.hosts.hosts["h2"].ports
    lease = house.engine.records.book.by_address(str(mine.address))
    assert lease is not None
    assert lease.state is LeaseState.BOUND


async def test_a_paused_app_keeps_its_ports_and_a_device_goes_alone(house: House) -> None:
    collector = collector_of(house)
    port = stray(house, app="/paused")
    house.hosts.hosts["h2"].orphans["mo9"] = {"address": "10.64.0.50", "instance": "f00d"}
    await round_of(collector, "h2")
    house.clock.step(GRACE_S)
    assert await round_of(collector, "h2") == 1
    assert port.name in house.hosts.hosts["h2"].ports
    assert house.hosts.hosts["h2"].orphans == {}
    assert house.metric("ports_collected_total", kind="device") == 1
