"""Pools: what may be configured, and which addresses follow from it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import ConfigRefused
from mooring.core.model import AppId, PoolName, PoolSpec
from mooring.core.specs import Route
from mooring.ipam.errors import AddressRefused, PoolUnknown
from mooring.ipam.numbers import place_of
from mooring.ipam.pools import MOST, Pool, Pools

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
        ({"network": "10.20.0.0/33"}, "is not an IP network"),
        ({"network": "fe80::%1/64"}, "is not an IP network"),
        ({"network": "fd00::/47"}, "from /48 to /126"),
        ({"network": "fd00::/127"}, "from /48 to /126"),
        ({"network": "fd00::1/64"}, "write fd00::/64"),
        ({"gateway": "fd00::1"}, "gateway fd00::1 is outside"),
        ({"gateway": "fe80::1%eth0"}, "is not an IP address"),
        ({"network": "fd00::/64", "gateway": "fd00::"}, "subnet-router anycast"),
        ({"network": "fd00::/64", "mtu": 1279}, "mtu 1279 must be from 1280"),
        ({"network": "fd00::/64", "routes": [Route("10.0.0.0/8", "fd00::1")]}, "not of the family"),
        ({"routes": [Route("fd00::/64", "10.20.0.1")]}, "route fd00::/64 is not of the family"),
        ({"mtu": 65536}, "mtu 65536 must be from 576 to 65535"),
        ({"exclude": ["10.20.0.1-fd00::1"]}, "leaves 10.20.0.0/28"),
        ({"network": "10.20.0.5/28"}, "write 10.20.0.0/28"),
        ({"network": "10.0.0.0/8"}, "from /12 to /30"),
        ({"network": "10.0.0.0/31"}, "from /12 to /30"),
        ({"gateway": "10.20.1.1"}, "gateway 10.20.1.1 is outside"),
        ({"gateway": "10.20.0.15"}, "broadcast"),
        ({"gateway": "router"}, "gateway 'router' is not an IP address"),
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
        ({"name": "x" * 65}, "a name has at most 64 characters"),
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


def test_an_ipv6_pool_gives_out_its_lowest_addresses() -> None:
    pool = Pool.parse(
        "six",
        "fd00:20::/64",
        gateway="fd00:20::ffff:1",
        exclude=["fd00:20::1-fd00:20::3", "fd00:20::f:ffff-fd00:20:0:0:1::"],
        reservations={"fd00:20::5": "the printer", "fd00:20:0:0:2::": "far away"},
    )
    assert pool.size == MOST - 1 - 3 - 1 - 1
    first = [str(address) for address, _ in zip(pool.assignable(), range(3), strict=False)]
    assert first == ["fd00:20::4", "fd00:20::6", "fd00:20::7"]
    assert [pool.refusal(ip_address(text)) for text in ("fd00:20::4", "fd00:20::f:fffe")] == [None, None]
    why = {text: pool.refusal(ip_address(text)) or "" for text in (
        "fd00:20::", "fd00:20::ffff:1", "fd00:20::5", "fd00:20::10:0", "fd00:20::2", "10.20.0.1", "fd00:21::1"
    )}  # fmt: skip
    assert "anycast" in why["fd00:20::"]
    assert why["fd00:20::ffff:1"] == "is the gateway"
    assert "the printer" in why["fd00:20::5"]
    assert "beyond the lowest 1048576" in why["fd00:20::10:0"]
    assert "excluded" in why["fd00:20::2"]
    assert "outside" in why["10.20.0.1"]
    assert "outside" in why["fd00:21::1"]


def test_the_last_address_of_a_small_ipv6_pool_is_like_any_other() -> None:
    pool = Pool.parse("six", "fd00::/126")
    assert [str(address) for address in pool.assignable()] == ["fd00::1", "fd00::2", "fd00::3"]


def test_a_pool_survives_being_stored() -> None:
    pool = Pool.parse(
        "shop", NETWORK, gateway="10.20.0.1", vlan=7, routes=[Route("10.30.0.0/16", "10.20.0.2")], mtu=1450,
        exclude=["10.20.0.4-10.20.0.6"], reservations={"10.20.0.8": "the printer"},
        groups=["/shop"], supernet="s",
    )  # fmt: skip
    assert Pool.of(pool.spec) == pool
    assert pool.spec == PoolSpec(
        PoolName("shop"), NETWORK, "10.20.0.1", 7, 1450, (Route("10.30.0.0/16", "10.20.0.2"),),
        ("10.20.0.4-10.20.0.6",), {"10.20.0.8": "the printer"}, ("/shop",), "s",
    )  # fmt: skip
    assert Pool.parse("six", "FD00:0::/64", gateway="FD00::1").spec.gateway == "fd00::1"
    assert Pool.parse("bare", NETWORK).spec == PoolSpec(PoolName("bare"), NETWORK)


def test_families_do_not_meet() -> None:
    four, six = Pool.parse("four", "0.0.0.0/12"), Pool.parse("six", "::/48")
    pools = Pools([six, four])
    assert pools.containing(ip_address("0.0.0.1")) is four
    assert pools.containing(ip_address("::1")) is six
    assert (pools.of_text("0.0.0.1"), pools.of_text("::1"), pools.of_text("::1:0:0:0:0:0")) == (
        four,
        six,
        None,
    )
    assert [place_of(text) for text in ("0.0.0.1", "::1")] == [1, (1 << 128) + 1]
    with pytest.raises(AddressRefused, match=r"'10\.1' is not an IP address"):
        place_of("10.1")
    with pytest.raises(AddressRefused, match="not an IP address"):
        place_of("::x")


def test_pools_change_by_making_others() -> None:
    one, two = Pool.parse("one", "10.20.0.0/24"), Pool.parse("two", "10.20.1.0/24")
    wide = Pool.parse("one", "10.20.0.0/23")
    pools = Pools([one, two])
    assert pools.sharing(wide) == [two]
    assert pools.sharing(Pool.parse("three", "10.20.0.128/25")) == [one]
    assert pools.sharing(Pool.parse("three", "10.20.2.0/24")) == []
    assert list(pools.without(two.name).with_pool(wide)) == [wide]
    assert list(pools.without(one.name).with_pool(one)) == [two, one]
    with pytest.raises(ConfigRefused, match="overlap"):
        pools.with_pool(wide)


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
