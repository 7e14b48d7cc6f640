"""`mooring adopt` on a whole engine over twins: containers that others have wired become ours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mooring.controller.adoption import Adopter, Adoption, AdoptionRow
from mooring.core.errors import Refused, Retryable
from mooring.core.model import BindingId, LeaseState, PoolName, PoolSpec
from mooring.core.specs import NameSpec, PortSpec
from mooring.handlers.hosts import Hosts
from mooring.handlers.memory_hosts import HostSilent
from mooring.handlers.memory_wired import Wired
from mooring.ipam.reach import Reach
from tests.unit.small_house import LABELS, NAMES, NETWORK, WEB, House, _id, _instance

ADDRESS = "10.64.0.20"
PAIRED, PARTNER = "10.66.0.2", "fd00:66::a42:2"
PAIR = PoolSpec(PoolName("pair"), "10.66.0.0/28", "10.66.0.1", ipv6="fd00:66::/64", gateway6="fe80::1")


class Over:
    """Stands for a rebuild that is not needed."""

    is_over = True


async def house_with(*addresses: str, observe: bool = False, **how: Any) -> tuple[House, Adopter]:
    """Instances of the app that somebody else has wired, each with an address; workers have not seen them."""
    house = await House(observe=observe).open(0)
    for number, address in enumerate(addresses):
        wire(house, number, address, **how)
    house.list(len(addresses))
    house.engine.rebuild = Over()  # type: ignore[assignment]
    house.engine.watch.complete.set()
    network = house.sinks[NETWORK].sink
    hosts: Hosts = network._hosts  # type: ignore[attr-defined]
    return house, Adopter(house.engine, hosts, ("h1", "h2"), fences=not observe)


def wire(house: House, number: int, address: str, **how: Any) -> Wired:
    instance = _instance(number)
    host, task = str(instance.host), str(instance.task)
    if task not in house.hosts.hosts[host].containers:
        house.hosts.place(host, task, listens=[8080])
    return house.hosts.wire(host, task, address, **{"prefix": 26, "gateway": "10.64.0.1", "vlan": 10, **how})


def only(found: Adoption) -> AdoptionRow:
    (row,) = found.rows
    return row


def ports(house: House) -> dict[str, tuple[str, bool]]:
    """Port and whether it was adopted, by address."""
    found = (port for host in house.hosts.hosts.values() for port in host.ports.values())
    return {port.address: (port.name, port.adopted_mac is not None) for port in found}


async def test_a_container_keeps_port_and_address_and_is_like_any_other_then() -> None:
    house, adopter = await house_with(ADDRESS)
    (wired,) = house.hosts.hosts["h1"].wired.values()
    planned = only(await adopter.plan([]))
    assert (planned.action, planned.address, planned.instance, planned.app, planned.reason) == (
        "adopt", ADDRESS, _id(0), WEB, ""
    )  # fmt: skip
    assert ports(house) == {}
    assert house.engine.records.get(BindingId(_id(0))) is None, "a plan changes nothing"
    done = await adopter.apply([])
    assert (only(done).action, only(done).slot, done.complete) == ("adopted", 0, True)
    assert ports(house) == {ADDRESS: (wired.port, True)}
    await house.work()
    binding = house.binding()
    assert (binding.address, binding.slot, binding.settled) == (ADDRESS, 0, True)
    port = binding.sink(NETWORK).applied
    assert isinstance(port, PortSpec)
    assert (port.gateway, port.vlan) == ("10.64.0.1", 10)
    name = binding.sink(NAMES).applied
    assert isinstance(name, NameSpec)
    assert name.address == ADDRESS
    assert ports(house) == {ADDRESS: (wired.port, True)}, "its worker found the port in its place"
    assert (await adopter.apply([])).rows == ()
    house.engine.queue.add(binding.id)
    house.changed()
    await house.work()
    assert house.changed() == {}


async def test_an_attach_waits_for_the_operator_and_its_seat_is_given_back() -> None:
    house, adopter = await house_with(ADDRESS)
    await house.work()
    waiting = house.binding()
    assert waiting.address not in (None, ADDRESS)
    assert waiting.sink(NETWORK).applied is None
    assert "`mooring adopt`" in house.engine.reconciler.problems[waiting.id]
    assert only(await adopter.apply([])).action == "adopted"
    await house.work()
    assert (house.binding().address, house.binding().settled) == (ADDRESS, True)
    assert house.engine.reconciler.problems == {}
    assert waiting.address is not None
    former = house.engine.records.book.by_address(waiting.address)
    assert former is not None
    assert (former.state, former.binding) == (LeaseState.COOLING, None)
    assert list(ports(house)) == [ADDRESS]


async def test_it_works_while_everything_is_paused_and_beside_the_workers() -> None:
    house, adopter = await house_with(ADDRESS, "10.64.0.21")
    await house.engine.pause(None)
    await adopter.apply(["h1"])
    await house.work()
    assert list(ports(house)) == [ADDRESS], "h2 was not named"
    await house.engine.resume(None)
    await asyncio.gather(adopter.apply([]), house.work())
    await house.work()
    assert set(ports(house)) == {ADDRESS, "10.64.0.21"}
    assert all(adopted for _, adopted in ports(house).values())
    assert all(house.binding(number).settled for number in range(2))
    assert sorted(house.binding(number).slot or 0 for number in range(2)) == [0, 1]


async def test_an_adopted_container_that_restarts_keeps_its_address() -> None:
    house, adopter = await house_with(ADDRESS)
    await adopter.apply([])
    await house.work()
    house.hosts.place("h1", str(_instance(0).task), listens=[8080])
    binding = house.binding()
    await house.engine.records.save(binding.with_sink(NETWORK, binding.sink(NETWORK).doubted()))
    house.engine.queue.add(binding.id)
    await house.work()
    assert [adopted for _, adopted in ports(house).values()] == [False]
    assert list(ports(house)) == [ADDRESS]


async def test_a_host_that_fails_in_between_is_asked_again() -> None:
    house, adopter = await house_with(ADDRESS)
    asked = 0

    async def silent(host: str) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:  # the survey was answered
            raise HostSilent("its cable is out")

    house.hosts.before = silent
    failed = only(await adopter.apply([]))
    assert (failed.action, "its cable is out" in failed.reason) == ("failed", True)
    house.hosts.before = lambda host: asyncio.sleep(0)
    await house.work()
    assert house.binding().address == ADDRESS, "the seat is kept, and its attach refused"
    assert "`mooring adopt`" in house.engine.reconciler.problems[house.binding().id]
    assert only(await adopter.apply([])).action == "adopted"
    await house.work()
    assert house.binding().settled


async def test_hosts_that_do_not_answer_are_named() -> None:
    house, adopter = await house_with(ADDRESS, "10.64.0.21")
    house.hosts.silent.add("h2")
    done = await adopter.apply([])
    assert [(row.host, row.action) for row in done.rows] == [("h1", "adopted")]
    assert list(done.silent) == ["h2"]
    assert not done.complete
    adopter._hosts.fenced["h2"] = "burnt"
    assert (await adopter.plan(["h2"])).silent == {"h2": "fenced: burnt"}


async def test_a_host_in_maintenance_is_not_asked() -> None:
    house, adopter = await house_with(ADDRESS)
    adopter._hosts.maintained["h1"] = "new disks"
    done = await adopter.apply([])
    assert (done.rows, done.silent) == ((), {"h1": "in maintenance: new disks"})
    assert ports(house) == {}


async def test_the_mark_tells_at_once_what_the_port_is_barred_from() -> None:
    """Else it could reach another group's pool until its first attach."""
    house, adopter = await house_with(ADDRESS)
    reach = Reach()
    reach.barred = lambda pools, pool: ("10.99.0.0/24",)  # type: ignore[method-assign]
    house.engine._reach = reach
    await adopter.apply([])
    assert [port.barred for port in house.hosts.hosts["h1"].ports.values()] == [("10.99.0.0/24",)]


async def test_what_must_not_begin_is_refused() -> None:
    house, adopter = await house_with(ADDRESS)
    with pytest.raises(Refused, match="not in the inventory: h9"):
        await adopter.plan(["h1", "h9"])
    house.engine.watch.complete.clear()
    with pytest.raises(Retryable, match="not been listed yet"):
        await adopter.plan([])
    house.engine.rebuild.is_over = False  # type: ignore[misc]
    with pytest.raises(Refused, match="`mooring rebuild` comes first"):
        await adopter.plan([])
    _, observer = await house_with(ADDRESS, observe=True)
    with pytest.raises(Refused, match="only observes"):
        await observer.apply([])


# -- what cannot be taken over


@pytest.mark.parametrize(
    ("address", "how", "reason"),
    [
        (ADDRESS, {"problem": "its port is on bridge br9, not on br-mooring"}, "its port is on bridge br9"),
        ("192.0.2.7", {"prefix": 24}, "no pool contains 192.0.2.7"),
        ("10.64.0.1", {}, "10.64.0.1 is the gateway (pool blue)"),
        (ADDRESS, {"prefix": 24}, "its prefix is /24, that of pool blue is /26"),
        (ADDRESS, {"vlan": None}, "its port is untagged, pool blue is in VLAN 10"),
        (ADDRESS, {"gateway": "10.64.0.2"}, "its gateway is 10.64.0.2, that of pool blue is 10.64.0.1"),
    ],
)
async def test_what_would_have_to_change_is_left_alone(
    address: str, how: dict[str, Any], reason: str
) -> None:
    house, adopter = await house_with(address, **how)
    before = dict(house.hosts.hosts["h1"].wired)
    for found in (await adopter.plan([]), await adopter.apply([])):
        assert (only(found).action, reason in only(found).reason) == ("leave", True), only(found)
        assert not found.complete
    assert house.hosts.hosts["h1"].wired == before
    assert ports(house) == {}


async def test_two_containers_with_one_address_are_both_left_alone() -> None:
    _, adopter = await house_with(ADDRESS, ADDRESS)
    done = await adopter.apply([])
    assert [row.reason for row in done.rows] == [f"2 interfaces have {ADDRESS}; stop all but one"] * 2


async def test_a_container_with_two_addresses_of_its_pool_is_left_alone() -> None:
    house, adopter = await house_with(ADDRESS)
    wire(house, 0, "10.64.0.21", interface="eth2")
    done = await adopter.apply([])
    assert {row.reason for row in done.rows} == {f"the container has {ADDRESS}, 10.64.0.21 of pool blue"}


async def test_an_address_that_the_guards_would_silence_keeps_a_container_from_being_taken_over() -> None:
    _, adopter = await house_with(ADDRESS, beside=(("192.0.2.7", 24),))
    done = await adopter.apply([])
    assert [(row.address, row.action) for row in done.rows] == [(ADDRESS, "leave"), ("192.0.2.7", "leave")]
    assert "eth1 has 192.0.2.7 as well, which the guards" in done.rows[0].reason


async def house_with_pair(prefix6: int) -> tuple[House, Adopter]:
    """Somebody else has given a container both addresses of a paired pool."""
    house, adopter = await house_with()
    await house.engine.pools.add(PAIR)
    wire(house, 0, PAIRED, prefix=28, gateway="10.66.0.1", vlan=None, beside=((PARTNER, prefix6),))
    house.list(1, MOORING_POOL="pair")
    return house, adopter


async def test_a_pair_of_addresses_is_taken_over_as_one() -> None:
    house, adopter = await house_with_pair(64)
    assert (only(await adopter.plan([])).address, only(await adopter.apply([])).action) == (PAIRED, "adopted")
    assert [port.addresses for port in house.hosts.hosts["h1"].ports.values()] == [(PAIRED, PARTNER)]
    await house.work()
    assert house.binding().settled
    assert ports(house)[PAIRED][1], "its worker found the port in its place"


async def test_a_partner_with_another_prefix_is_left_alone() -> None:
    _, adopter = await house_with_pair(80)
    reason = only(await adopter.apply([])).reason
    assert reason == f"the prefix of {PARTNER} is /80, that of pool pair is fd00:66::/64"


async def test_who_is_not_in_marathon_is_left_alone() -> None:
    house, adopter = await house_with()
    house.hosts.place("h1", "stray")
    house.hosts.wire("h1", "stray", ADDRESS, prefix=26, vlan=10)
    assert only(await adopter.apply([])).reason == "Marathon lists no such task on this host"


async def test_a_host_that_shares_its_engine_does_not_speak_for_others() -> None:
    house, adopter = await house_with(ADDRESS)
    task = str(_instance(0).task)
    house.hosts.place("h2", task)
    house.hosts.wire("h2", task, ADDRESS, prefix=26, problem="eth1 does not lead to a device of this host")
    done = await adopter.apply([])
    assert [(row.host, row.action) for row in done.rows] == [("h1", "adopted")]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"MOORING_POOL": ""}, "MOORING_POOL"),
        ({"MOORING_POOL": "red"}, "red"),
        (
            {"MOORING_IP_POLICY": "pinned", "MOORING_IPS": "10.64.0.30,10.64.0.31"},
            "asks for 10.64.0.30, 10.64.0.31 only",
        ),
    ],
)
async def test_an_app_that_does_not_ask_for_it_is_left_alone(labels: dict[str, str], reason: str) -> None:
    house, adopter = await house_with(ADDRESS)
    house.list(1, **{**LABELS, **labels})
    row = only(await adopter.apply([]))
    assert (row.action, reason in row.reason) == ("leave", True), row
    assert ports(house) == {}


async def test_an_address_in_another_hand_is_left_alone() -> None:
    house, adopter = await house_with()
    house.list(1)
    await house.work()
    held = house.binding().address
    assert held is not None
    wire(house, 1, held)
    house.list(2)
    row = only(await adopter.apply([]))
    assert row.reason == f"{held} is bound for {_id(0)}"


async def test_an_instance_that_is_reached_elsewhere_is_reported_and_not_touched() -> None:
    house, adopter = await house_with()
    house.list(1)
    await house.work()
    held = house.binding().address
    wire(house, 0, ADDRESS)
    row = only(await adopter.apply([]))
    assert row.reason == f"Mooring has given it {held} already; it is reached there, and nothing is touched"
    assert list(ports(house)) == [held]


async def test_an_address_that_was_taken_for_a_strangers_is_given_to_who_has_it() -> None:
    house, adopter = await house_with(ADDRESS)
    records = house.engine.records
    async with records.changing():
        await records.commit(records.book.plan_quarantine(ADDRESS, 0.0, "seen"))
        await records.commit(records.book.plan_conflict(ADDRESS, 0.0, "somebody answered"))
    assert only(await adopter.apply([])).action == "adopted"
    lease = records.book.by_address(ADDRESS)
    assert lease is not None
    assert (lease.state, lease.binding) == (LeaseState.BOUND, _id(0))
