"""An app in a paired pool, through the whole engine: both addresses live and die by one lease."""

from __future__ import annotations

import pytest

from mooring.controller.drift import Kind
from mooring.controller.shown import observe_shown
from mooring.core.model import LeaseState, PoolName, PoolSpec
from mooring.dns.records import Add, Remove, Update
from tests.unit.small_house import APP_NAMES, NAME, NAMES, ZONE, House

FIRST, PARTNER = "10.66.0.2", "fd00:66::a42:2"
FREE, ITS_PARTNER = "10.66.0.9", "fd00:66::a42:9"
SEAT = f"web-0.{NAME}"
MARK = "heritage=mooring,owner=mooring,kind=seat"
PAIR = PoolSpec(PoolName("pair"), "10.66.0.0/28", "10.66.0.1", ipv6="fd00:66::/64", gateway6="fe80::1")


@pytest.fixture
async def house() -> House:
    made = await House().open(0)
    await made.engine.pools.add(PAIR)
    return made


async def served(house: House, instances: int = 1) -> None:
    house.list(instances, MOORING_POOL="pair")
    await house.work()


async def by_hand(house: House, *edits: Add | Remove) -> None:
    assert await house.server.update(Update(ZONE, (), edits)) == "NOERROR"


async def findings(house: House) -> list[tuple[str, str, str]]:
    found = await house.engine.verifier.look()
    return [(one.sink, one.kind.value, one.key) for one in found.findings]


def state_of(house: House, address: str) -> LeaseState | None:
    lease = house.engine.records.book.by_address(address)
    return lease.state if lease else None


async def test_both_addresses_are_shown_everywhere_and_one_is_leased(house: House) -> None:
    await served(house)
    [port] = house.hosts.hosts["h1"].ports.values()
    assert (port.addresses, port.prefix6) == ((FIRST, PARTNER), 64)
    assert port.inside[:2] == ("10.66.0.1", "fe80::1")
    for name in (SEAT, NAME):
        assert house.server.sets[name, "A"].values == {FIRST}
        assert house.server.sets[name, "AAAA"].values == {PARTNER}
    assert [(item.address, item.address6) for item in house.cmdb.live.values()] == [(FIRST, PARTNER)]
    [member] = house.proxy.members.values()
    assert [end.address for end in member.endpoints] == [FIRST], "balancers use IPv4"
    assert (state_of(house, FIRST), state_of(house, PARTNER)) == (LeaseState.BOUND, None)
    [row] = [row for row in house.engine.occupancy.rows() if row.name == "pair"]
    assert (row.network, row.ipv6, row.gateway6) == (PAIR.network, PAIR.ipv6, PAIR.gateway6)
    assert await findings(house) == []


async def test_what_leads_to_either_address_leads_to_the_lease(house: House) -> None:
    await served(house)
    sinks = [house.sinks[NAMES], house.sinks[APP_NAMES]]
    assert set(await observe_shown(sinks, house.engine.records.book.pools)) == {FIRST}


async def test_a_half_that_was_taken_away_comes_back(house: House) -> None:
    await served(house)
    await by_hand(house, Remove(SEAT, "AAAA", PARTNER), Remove(NAME, "AAAA", PARTNER))
    wrong = [(NAMES, Kind.DIFFERENT, SEAT), (APP_NAMES, Kind.MISSING, f"{NAME}/{PARTNER}")]
    assert sorted(await findings(house)) == sorted(wrong)
    await findings(house)  # seen twice: it is repaired
    await house.work()
    assert house.server.sets[SEAT, "AAAA"].values == house.server.sets[NAME, "AAAA"].values == {PARTNER}
    assert await findings(house) == []


async def test_a_name_that_leads_to_a_partner_keeps_its_lease_from_others(house: House) -> None:
    stale = f"old-0.{NAME}"
    await by_hand(house, Add(f"_mooring.{stale}", "TXT", MARK, 10), Add(stale, "AAAA", ITS_PARTNER, 10))
    assert (NAMES, "surplus", stale) in await findings(house)
    await findings(house)
    assert state_of(house, FREE) is LeaseState.COOLING
    await house.work()
    assert (stale, "AAAA") not in house.server.sets


async def test_a_stranger_on_the_partner_takes_the_pair_from_us(house: House) -> None:
    house.hosts.strangers[PARTNER] = "0e:00:00:00:00:01"
    await served(house)
    lease = house.engine.records.book.by_address(FIRST)
    assert lease is not None
    assert lease.state is LeaseState.CONFLICTED
    assert lease.note == f"answered by 0e:00:00:00:00:01 on {PARTNER}"
    await served(house)
    [port] = house.hosts.hosts["h1"].ports.values()
    assert port.addresses == ("10.66.0.3", "fd00:66::a42:3")
    assert await findings(house) == []
