"""What differs between the records and the world is found, named, and repaired on the ordinary path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog
from msgspec import structs

from mooring.controller.drift import Finding, Kind
from mooring.controller.verify import Look
from mooring.core.errors import Fenced, Refused, Retryable, StoreBusy
from mooring.core.model import BindingId, LeaseState
from mooring.core.sink import Unreadable
from mooring.core.specs import MemberSpec
from mooring.dns.records import Add, Remove, Update
from mooring.handlers.hosts import Hosts, NetworkSink
from mooring.handlers.memory_hosts import MemoryPort
from tests.unit.small_house import (
    APP_NAMES,
    EPOCH,
    HAPROXY,
    LEDGER,
    NAME,
    NAMES,
    NETWORK,
    REVERSE,
    WEB,
    WEBHOOK,
    ZONE,
    House,
)

SEAT = f"web-0.{NAME}"
STRANGER = f"printer.{ZONE}"


@pytest.fixture
async def house() -> House:
    return await House().open()


def told(found: Look) -> set[tuple[str, str, str]]:
    return {(finding.sink, finding.kind.value, finding.key) for finding in found.findings}


def one(found: Look) -> Finding:
    (finding,) = found.findings
    return finding


async def look(house: House) -> Look:
    return await house.engine.verifier.look()


async def repaired(house: House) -> None:
    """After the workers have had their turn nothing differs any more."""
    await house.work()
    assert (await look(house)).findings == ()
    assert all(binding.settled for binding in house.engine.records.all())


def port_of(house: House, number: int = 0) -> MemoryPort:
    address = house.binding(number).address
    ports = [port for host in house.hosts.hosts.values() for port in host.ports.values()]
    (found,) = [port for port in ports if port.address == address]
    return found


def lose_port(house: House, number: int = 0) -> None:
    port = port_of(house, number)
    del house.hosts.hosts[house.binding(number).host].ports[port.name]


async def by_hand(house: House, zone: str, *edits: Add | Remove) -> None:
    assert await house.server.update(Update(zone, (), edits)) == "NOERROR"


# -- what is found


async def test_nothing_differs_after_an_ordinary_start(house: House) -> None:
    house.changed()
    found = await look(house)
    assert found.findings == ()
    assert set(found.read) == {NETWORK, NAMES, APP_NAMES, HAPROXY, WEBHOOK, LEDGER}
    assert list(found.unread) == ["files"], "what cannot be read back is said, and is no difference"
    await house.work()
    assert house.changed() == {}


async def test_all_five_of_a_bad_night_are_named_and_four_are_repaired(house: House) -> None:
    address = house.binding().address
    assert address is not None
    lose_port(house)
    await by_hand(house, ZONE, Remove(SEAT, "A", address), Add(SEAT, "A", "192.0.2.9", 10))
    member = next(key for key in house.proxy.members if address.replace(".", "_") in key)
    house.proxy.members[member] = structs.replace(house.proxy.members[member], state="declared")
    row = next(key for key, item in house.cmdb.live.items() if item.address == address)
    del house.cmdb.live[row]
    await by_hand(house, ZONE, Add(STRANGER, "A", "192.0.2.77", 60))
    found = await look(house)
    assert told(found) == {
        (NETWORK, "missing", f"{address} on h1"),
        (NAMES, "different", SEAT),
        (HAPROXY, "different", member),
        (WEBHOOK, "missing", row),
        (NAMES, "foreign", f"{STRANGER} A 192.0.2.77"),
    }
    instances = {finding.instance for finding in found.findings if finding.kind is not Kind.FOREIGN}
    assert instances == {house.binding().id}
    await house.work()
    again = await look(house)
    assert one(again).key == f"{STRANGER} A 192.0.2.77"
    assert one(again).remedy == "left alone"
    assert house.server.sets[STRANGER, "A"].values == {"192.0.2.77"}
    assert house.server.sets[SEAT, "A"].values == {address}
    assert house.proxy.members[member].state == "up"
    assert row in house.cmdb.live
    assert port_of(house).address == address


async def test_repairs_and_findings_are_counted_by_sink_and_kind(house: House) -> None:
    lose_port(house)
    await by_hand(house, ZONE, Add(STRANGER, "A", "192.0.2.77", 60))
    await look(house)
    assert house.metric("drift", sink=NETWORK, kind="missing") == 1
    assert house.metric("drift", sink=NAMES, kind="foreign") == 1
    assert house.metric("repairs_total", sink=NETWORK, kind="missing") == 0, "not yet"
    await house.work()
    await look(house)
    assert house.metric("drift", sink=NETWORK, kind="missing") == 0
    assert house.metric("drift", sink=NAMES, kind="foreign") == 1
    assert house.metric("repairs_total", sink=NETWORK, kind="missing") == 1
    assert house.metric("repairs_total", sink=NAMES, kind="foreign") is None


async def test_what_is_different_is_said(house: House) -> None:
    port = port_of(house)
    ports = house.hosts.hosts[house.binding().host].ports
    ports[port.name] = replace(port, vlan=20)
    assert one(await look(house)).detail == "vlan is 20 in place of 10"
    await repaired(house)
    address = str(house.binding().address)
    pointer = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    await by_hand(house, REVERSE, Remove(pointer, "PTR", SEAT), Add(pointer, "PTR", "a.example", 10))
    finding = one(await look(house))
    assert (finding.key, finding.detail) == (pointer, f"name is a.example in place of {SEAT}")
    await repaired(house)
    row = next(iter(house.cmdb.live))
    house.cmdb.live[row] = structs.replace(house.cmdb.live[row], status="down")
    assert one(await look(house)).detail == "status is down in place of live"
    await repaired(house)


async def test_a_second_port_of_an_address_on_its_host_goes(house: House) -> None:
    port = port_of(house)
    ports = house.hosts.hosts[house.binding().host].ports
    ports["zz"] = replace(port, name="zz", instance="other", task="other", start="other")
    finding = one(await look(house))
    assert finding.kind is Kind.DIFFERENT
    assert "a second port" in finding.detail
    await repaired(house)
    assert "zz" not in ports


async def test_a_port_of_an_address_on_another_host_goes(house: House) -> None:
    port = port_of(house)
    lives = house.hosts.place("h2", "other")
    stranger = replace(port, name="zz", instance="other", task="other", start=lives.start)
    house.hosts.hosts["h2"].ports["zz"] = stranger
    finding = one(await look(house))
    assert (finding.kind, finding.key) == (Kind.SURPLUS, f"{port.address} on h2")
    await repaired(house)
    assert "zz" not in house.hosts.hosts["h2"].ports
    assert port_of(house) == port


async def test_a_port_of_ours_with_an_address_that_nobody_has_is_adopted(house: House) -> None:
    """Something lives behind it: Marathon is asked before it goes."""
    stray = stray_port(house)
    stray = replace(stray, start=house.hosts.place("h2", stray.task).start)
    house.hosts.hosts["h2"].ports["zz"] = stray
    assert one(await look(house)).kind is Kind.SURPLUS
    lease = house.engine.records.book.by_address("10.64.0.40")
    assert lease is not None
    assert (lease.state, lease.binding) == (LeaseState.BOUND, "stray")


async def test_a_dead_port_that_nobody_wants_is_named_and_left_to_the_collector(house: House) -> None:
    house.hosts.hosts["h2"].ports["zz"] = stray_port(house)
    finding = one(await look(house))
    assert (finding.kind, finding.remedy) == (Kind.SURPLUS, "is collected if it is found dead again later")
    assert house.engine.records.book.by_address("10.64.0.40") is None
    assert house.metric("repairs_total", sink=NETWORK, kind="surplus") == 0


def stray_port(house: House) -> MemoryPort:
    return replace(
        port_of(house), name="zz", address="10.64.0.40", instance="stray", task="stray._app.1", slot=9
    )


async def test_a_look_at_one_host_repairs_that_host_alone(house: House) -> None:
    lose_port(house, 0)
    lose_port(house, 1)
    found = await house.engine.verifier.look_at(NetworkSink(Hosts(house.hosts, house.clock, EPOCH), ["h2"]))
    assert told(found) == {(NETWORK, "missing", f"{house.binding(1).address} on h2")}
    assert one(found).remedy == "is being repaired"
    await house.work()
    assert port_of(house, 1).address == house.binding(1).address
    assert told(await look(house)) == {(NETWORK, "missing", f"{house.binding(0).address} on h1")}


async def test_of_two_ports_of_an_address_the_living_one_counts(house: House) -> None:
    port = port_of(house)
    ports = house.hosts.hosts["h1"].ports
    ports["aa"] = replace(port, name="aa", start="an earlier one")
    house.hosts.hosts["h1"].ports = {"aa": ports["aa"], port.name: port}
    seen = await NetworkSink(Hosts(house.hosts, house.clock, EPOCH), ["h1"]).observe()
    assert list(seen.faults.values()) == ["a second port of this address, aa, is on the same host"]
    assert seen.dead == frozenset()


async def test_names_of_ours_that_nobody_claims_are_undone(house: House) -> None:
    mark = "heritage=mooring,owner=mooring,kind=seat"
    stale = f"old-0.{NAME}"
    await by_hand(house, ZONE, Add(f"_mooring.{stale}", "TXT", mark, 10), Add(stale, "A", "10.64.0.50", 10))
    extra = Add(NAME, "A", "10.64.0.51", 10)
    await by_hand(house, ZONE, extra)
    found = await look(house)
    assert told(found) == {(NAMES, "surplus", stale), (APP_NAMES, "surplus", f"{NAME}/10.64.0.51")}
    for address in ("10.64.0.50", "10.64.0.51"):
        lease = house.engine.records.book.by_address(address)
        assert lease is not None
        assert lease.state is LeaseState.COOLING, "nobody gets it while a name leads there"
    await house.work()
    assert (stale, "A") not in house.server.sets
    assert (await look(house)).findings == ()
    assert house.metric("repairs_total", sink=NAMES, kind="surplus") == 1


async def test_rows_and_members_that_nobody_claims_are_undone(house: House) -> None:
    item = next(iter(house.cmdb.live.values()))
    house.cmdb.live["/gone/0"] = structs.replace(item, key="/gone/0", app="/gone", address="10.64.0.50")
    key, spec = next(iter(house.proxy.members.items()))
    end = structs.replace(spec.endpoints[0], address="10.64.0.50")
    stray = key.rpartition("/")[0] + "/10_64_0_50_8080"
    house.proxy.members[stray] = MemberSpec((end,), "up")
    assert told(await look(house)) == {(WEBHOOK, "surplus", "/gone/0"), (HAPROXY, "surplus", stray)}
    await house.work()
    assert "/gone/0" in house.cmdb.retired
    assert stray not in house.proxy.members
    assert (await look(house)).findings == ()


# -- what is no difference


async def test_what_is_on_its_way_is_not_judged(house: House) -> None:
    house.list(3)
    house.hosts.silent.add("h1")  # its port waits for its host
    await house.work()
    assert not house.engine.records.get(BindingId("shop_web.instance-2")).settled  # type: ignore[union-attr]
    house.hosts.silent.clear()
    assert (await look(house)).findings == ()


async def test_a_silent_host_is_not_looked_at(house: House) -> None:
    lose_port(house, 1)
    house.hosts.silent.add("h2")
    found = await look(house)
    assert found.findings == ()
    assert "cannot be reached" in found.unread["network on h2"]
    assert NETWORK in found.read
    house.hosts.silent.clear()
    assert one(await look(house)).sink == NETWORK


async def test_what_changes_during_the_look_is_no_difference(house: House) -> None:
    """The instance leaves after the name server has answered: what was read is older than what is known."""

    async def leave() -> None:
        house.sinks[NAMES].during = None
        bound = house.binding()
        state = bound.sink(NAMES)
        await house.engine.records.save(bound.with_sink(NAMES, state.want(None).want(state.wanted)))

    await by_hand(house, ZONE, Remove(SEAT, "A", str(house.binding().address)))
    house.sinks[NAMES].during = leave
    assert (await look(house)).findings == ()


async def test_what_is_not_seen_twice_is_no_difference(house: House) -> None:
    port = port_of(house)
    lose_port(house)

    async def back() -> None:
        house.hosts.hosts["h1"].ports[port.name] = port

    house.sinks[NETWORK].during = back
    assert (await look(house)).findings == ()
    assert house.sinks[NETWORK].looks == 2
    assert house.sinks[NAMES].looks == 1, "only what looked wrong is read again"
    house.changed()
    await house.work()
    assert house.changed() == {}


async def test_a_sink_that_cannot_be_read_spoils_nothing_else(house: House) -> None:
    async def away() -> None:
        raise Retryable("name server memory: gone fishing")

    async def defect() -> None:
        raise ZeroDivisionError("in our own code")

    lose_port(house)
    house.sinks[NAMES].during = away
    house.sinks[HAPROXY].during = defect
    found = await look(house)
    assert one(found).sink == NETWORK
    assert "gone fishing" in found.unread[NAMES]
    assert "ZeroDivisionError" in found.unread[HAPROXY]
    assert NAMES not in found.read


async def test_a_sink_that_stays_unread_keeps_its_last_count(house: House) -> None:
    async def never() -> None:
        raise Unreadable("offers no listing")

    house.cmdb.live.clear()
    await look(house)
    assert house.metric("drift", sink=WEBHOOK, kind="missing") == 2
    house.sinks[WEBHOOK].during = never
    await look(house)
    assert house.metric("drift", sink=WEBHOOK, kind="missing") == 2


async def test_a_newer_daemon_ends_this_one(house: House) -> None:
    async def overtaken() -> None:
        raise Fenced("epoch 9")

    house.sinks[NAMES].during = overtaken
    with pytest.raises(Fenced):
        await look(house)


# -- who waits


async def test_what_is_paused_is_named_and_waits(house: House) -> None:
    await house.engine.pause(WEB)
    lose_port(house)
    for _ in range(2):
        assert one(await look(house)).remedy == "waits: paused"
        await house.work()
    await house.engine.resume(WEB)
    assert one(await look(house)).remedy == "is being repaired"
    await repaired(house)


async def test_a_surplus_waits_while_everything_is_paused(house: House) -> None:
    await house.engine.pause(None)
    await by_hand(house, ZONE, Add(NAME, "A", "10.64.0.51", 10))
    house.commits.clear()
    assert one(await look(house)).remedy == "waits: paused"
    assert house.commits == []


async def test_nothing_is_compared_while_the_records_do_not_say_what_should_be_there() -> None:
    observer = await House(observe=True).open()
    with pytest.raises(Refused, match="only observes"):
        await look(observer)
    rebuilding = await House().open()
    rebuilding.engine.seats.close("the store does not know every lease")
    with pytest.raises(Refused, match="does not know every lease"):
        await look(rebuilding)
    rebuilding.engine.seats.open()
    rebuilding.engine.hold.begin()
    with pytest.raises(Refused, match="not every instance has been looked at"):
        await look(rebuilding)


async def test_the_members_of_other_apps_are_not_told_that_an_instance_left(house: House) -> None:
    """A doubt about a row does not take the instance from its dependents' files for a moment."""
    before = house.engine.reconciler.members(WEB)
    house.sinks[LEDGER].sink.live.clear()  # type: ignore[attr-defined]
    seen = []
    listener = house.engine.records.on_change
    house.engine.records.on_change = lambda old, new: (
        seen.append(house.engine.reconciler.members(WEB)),
        listener(old, new),
    )[1]
    assert len((await look(house)).findings) == 2
    await repaired(house)
    assert seen
    assert all(members == before for members in seen)


async def test_a_repair_has_a_generation_of_its_own(house: House) -> None:
    before = house.binding().sink(WEBHOOK).generation
    house.cmdb.live.clear()
    house.changed()
    await look(house)
    await house.work()
    (change,) = [c for c in house.sinks[WEBHOOK].changes if c.binding == house.binding().id]
    assert change.generation == before + 1


async def test_a_hundred_looks_at_a_quiet_world_write_nothing(house: House) -> None:
    house.commits.clear()
    for _ in range(100):
        await look(house)
        await house.work()
    assert house.commits == []


async def test_an_observation_of_nothing_makes_everything_missing(house: House) -> None:
    """An emptied balancer is put right by one look, whatever it lost."""
    house.proxy.members.clear()
    found = await look(house)
    assert {finding.kind for finding in found.findings} == {Kind.MISSING}
    assert len(found.findings) == 2
    await repaired(house)
    assert {spec.state for spec in house.proxy.members.values()} == {"up"}


async def test_a_busy_store_puts_off_only_what_needs_it(house: House) -> None:
    async def busy(writes: object) -> None:
        raise StoreBusy("the disk is at work")

    await by_hand(house, ZONE, Add(NAME, "A", "10.64.0.51", 10))
    house.cmdb.live.clear()
    commit, house.store.commit = house.store.commit, busy  # type: ignore[method-assign]
    remedies = {finding.sink: finding.remedy for finding in (await look(house)).findings}
    assert remedies == {
        APP_NAMES: "not repaired now: the disk is at work",
        WEBHOOK: "is being repaired",
    }
    house.store.commit = commit  # type: ignore[method-assign]
    await look(house)
    await repaired(house)


async def test_the_log_tells_each_thing_once_and_of_many_only_some(house: House) -> None:
    for number in range(30):
        await by_hand(house, ZONE, Add(f"printer-{number}.{ZONE}", "A", "192.0.2.77", 60))
    with structlog.testing.capture_logs() as lines:
        await look(house)
        await look(house)
    assert [line["event"] for line in lines].count("drift") == 20
    assert [line["more"] for line in lines if line["event"] == "more drift"] == [10]
    assert [line["place"] for line in lines if line["event"] == "not verified"] == ["files"]
