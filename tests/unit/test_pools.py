"""Pools: what may be configured, and which addresses follow from it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import ConfigRefused
from mooring.core.model import AppId
from mooring.core.specs import Route
from mooring.ipam.errors import PoolUnknown
from mooring.ipam.pools import Pool, Pools

NETWORK = "10.20.0.0/28"


def test_a_full_pool_keeps_what_it_was_given() -> None:
    pool = Pool.parse(
        "shop",
        NETWORK,
        gateway="10.20.0.1",
        vlan=7,
        routes=[Route("10.30.0.0/16", "10.20.0.2")],
        mtu=1450,
        exclude=["10.20.0.2", "10.20.0.4-10.20.0.6", " 10.20.0.14 - 10.20.0.15 "],
        reservations={"10.20.0.8": "the printer"},
        groups=["/shop/", "/ops"],
    )
    assert (pool.network, pool.gateway, pool.vlan, pool.mtu) == (
        IPv4Network(NETWORK),
        IPv4Address("10.20.0.1"),
        7,
        1450,
    )
    assert [str(address) for address in pool.assignable()] == [
        f"10.20.0.{last}" for last in (3, 7, 9, 10, 11, 12, 13)
    ]
    assert pool.size == 7
    assert pool.groups == ("/shop", "/ops")


def test_groups_hold_whole_path_elements() -> None:
    pool = Pool.parse("shop", NETWORK, groups=["/shop"])
    answers = {app: pool.allows(AppId(app)) for app in ("/shop", "/shop/web/a", "/shopping", "/", "/ops")}
    assert answers == {"/shop": True, "/shop/web/a": True, "/shopping": False, "/": False, "/ops": False}
    assert Pool.parse("all", NETWORK).allows(AppId("/any"))
    assert Pool.parse("root", NETWORK, groups=["/"]).allows(AppId("/any/app"))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.20.0.3", None),
        ("10.20.0.0", "network or broadcast"),
        ("10.20.0.15", "network or broadcast"),
        ("10.20.0.16", "outside 10.20.0.0/28"),
        ("10.20.0.1", "the gateway"),
        ("10.20.0.5", "excluded by 10.20.0.4-10.20.0.6"),
        ("10.20.0.2", "excluded by 10.20.0.2"),
        ("10.20.0.8", "reserved: the printer"),
    ],
)
def test_a_refusal_says_why(address: str, why: str | None) -> None:
    pool = Pool.parse(
        "shop",
        NETWORK,
        gateway="10.20.0.1",
        exclude=["10.20.0.4-10.20.0.6", "10.20.0.2"],
        reservations={"10.20.0.8": "the printer"},
    )
    refusal = pool.refusal(IPv4Address(address))
    assert refusal is None if why is None else refusal is not None and why in refusal
    assert (IPv4Address(address) in set(pool.assignable())) == (why is None)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"network": "10.20.0.0/33"}, "is not an IPv4 network"),
        ({"network": "fd00::/64"}, "is not an IPv4 network"),
        ({"network": "10.20.0.5/28"}, "write 10.20.0.0/28"),
        ({"network": "10.0.0.0/8"}, "from /12 to /30"),
        ({"network": "10.0.0.0/31"}, "from /12 to /30"),
        ({"gateway": "10.20.1.1"}, "gateway 10.20.1.1 is outside"),
        ({"gateway": "10.20.0.15"}, "broadcast"),
        ({"gateway": "router"}, "gateway 'router' is not"),
        ({"vlan": 0}, "vlan 0 must be from 1 to 4094"),
        ({"vlan": 4095}, "vlan 4095"),
        ({"mtu": 100}, "mtu 100"),
        ({"exclude": ["10.20.0.9-10.20.0.3"]}, "ends before it begins"),
        ({"exclude": ["10.20.0.9-10.20.0.99"]}, "leaves 10.20.0.0/28"),
        ({"exclude": ["10.20.0.9-"]}, "neither an address nor a range"),
        ({"reservations": {"10.20.9.9": "x"}}, "reservation 10.20.9.9 is outside"),
        ({"routes": [Route("10.30.0.1/16", "10.20.0.2")]}, "route '10.30.0.1/16'"),
        ({"routes": [Route("10.30.0.0/16", "10.99.0.2")]}, "next hop of route 10.30.0.0/16"),
        ({"groups": ["shop"]}, "group 'shop' must be"),
        ({"name": "a b"}, "a name needs letters"),
        ({"exclude": ["10.20.0.0-10.20.0.15"]}, "nothing is left"),
    ],
)
def test_a_bad_pool_is_refused_by_name(change: dict[str, Any], fault: str) -> None:
    name, network, *rest = ({"name": "shop", "network": NETWORK} | change).items()
    with pytest.raises(ConfigRefused) as caught:
        Pool.parse(name[1], network[1], **dict(rest))
    [line] = caught.value.problems
    assert line.startswith(f"pool {name[1]}: ")
    assert fault in line


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigRefused) as caught:
        Pool.parse("shop", NETWORK, gateway="x", vlan=9999, exclude=["y"], groups=["z"])
    assert len(caught.value.problems) == 4


def test_pools_must_not_overlap_or_share_a_name() -> None:
    wide, narrow = Pool.parse("wide", "10.20.0.0/16"), Pool.parse("narrow", "10.20.5.0/24")
    inside, twice = Pool.parse("inside", "10.20.6.0/24"), Pool.parse("narrow", "10.40.0.0/24")
    with pytest.raises(ConfigRefused) as caught:
        Pools([narrow, wide, inside, twice])
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "pools wide (10.20.0.0/16) and narrow (10.20.5.0/24) overlap",
        "pools wide (10.20.0.0/16) and inside (10.20.6.0/24) overlap",
        "pool narrow is defined twice",
    ]


def test_pools_are_found_by_name_and_by_address() -> None:
    one, two = Pool.parse("one", "10.20.0.0/24"), Pool.parse("two", "10.20.1.0/24")
    pools = Pools([two, one])
    assert pools.named("two") is two
    assert pools.containing(IPv4Address("10.20.0.255")) is one
    assert pools.containing(IPv4Address("10.20.2.0")) is None
    assert (list(pools), len(pools), "one" in pools, "three" in pools) == ([two, one], 2, True, False)
    with pytest.raises(PoolUnknown, match="no pool 'three' \\(known: one, two\\)"):
        pools.named("three")


LAST = st.integers(0, 63)


@given(st.lists(st.tuples(LAST, LAST).map(sorted), max_size=5), st.sets(LAST.filter(lambda n: 0 < n < 63)))
def test_assignable_is_what_is_not_refused(spans: list[list[int]], reserved: set[int]) -> None:
    base = "10.20.0."
    arguments: dict[str, Any] = {
        "gateway": f"{base}1",
        "exclude": [f"{base}{first}-{base}{last}" for first, last in spans],
        "reservations": {f"{base}{last}": "" for last in reserved},
    }
    covered = {n for first, last in spans for n in range(first, last + 1)} | reserved | {0, 1, 63}
    expected = [f"{base}{n}" for n in range(64) if n not in covered]
    if not expected:
        with pytest.raises(ConfigRefused):
            Pool.parse("shop", "10.20.0.0/26", **arguments)
        return
    pool = Pool.parse("shop", "10.20.0.0/26", **arguments)
    assert [str(address) for address in pool.assignable()] == expected
    assert pool.size == len(expected)
    assert [str(address) for address in pool.network if pool.refusal(address) is None] == expected
