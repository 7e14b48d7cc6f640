"""Pools of IPv4 that are paired with an IPv6 network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.controller.pools import wiring_at
from mooring.core.errors import ConfigRefused
from mooring.core.model import PoolName, PoolSpec
from mooring.core.specs import Route, decode_spec
from mooring.handlers.wants import Second
from mooring.ipam.pools import Pool, Pools
from mooring.ipam.reach import Reach
from mooring.ipam.supernets import Supernet

FOUR, SIX = "10.64.0.0/24", "fd00:64::/64"


def pool(name: str = "shop", network: str = FOUR, **values: Any) -> Pool:
    return Pool.parse(name, network, **{"ipv6": SIX, **values})


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigRefused) as refused:
        pool(**values)
    return "; ".join(refused.value.problems)


def test_a_partner_ends_in_its_ipv4_address() -> None:
    partner = pool().partner("10.64.0.5")
    assert partner == str(IPv6Address("fd00:64::10.64.0.5")) == "fd00:64::a40:5"
    assert Pool.parse("alone", FOUR).partner("10.64.0.5") is None


@given(st.integers(0, 96), st.integers(0, (1 << 128) - 1), st.integers(0, 254), st.integers(0, 254))
def test_each_address_has_a_partner_of_its_own_inside_the_network(
    prefix: int, bits: int, one: int, two: int
) -> None:
    host_bits = (1 << (128 - prefix)) - 1
    network = f"{IPv6Address((bits & ~host_bits & (1 << 128) - 1) or 0)}/{prefix}"
    try:
        paired = pool(ipv6=network)
    except ConfigRefused:
        return  # not for hosts
    assert paired.pair is not None
    first, second = (IPv4Address(f"10.64.0.{last}") for last in (one, two))
    assert paired.pair.partner(first) in paired.pair.network
    assert (paired.pair.partner(first) == paired.pair.partner(second)) == (first == second)
    assert paired.pair.origin(paired.pair.partner(first)) == first
    assert Pools([paired]).leased(str(paired.pair.partner(first))) == str(first)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("fd00:64::/97", "at most /96"),
        ("fd00:64::1/64", "has host bits set"),
        ("10.65.0.0/24", "pairs an IPv4 network with an IPv6 network"),
        ("nonsense", "is not an IP network"),
        ("fe80::/64", "not a network for hosts"),
        ("ff05::/64", "not a network for hosts"),
        ("::/64", "not a network for hosts"),
        ("::/0", "not a network for hosts"),
    ],
)
def test_a_network_that_cannot_be_a_pair_is_refused(network: str, why: str) -> None:
    assert why in refusal(ipv6=network)


def test_only_ipv4_is_paired() -> None:
    assert "fd00:1::/64 stays alone" in refusal(network="fd00:1::/64")


@pytest.mark.parametrize(
    "gateway6", ["fd00:64::1", "fe80::1", "fd00:64::10.64.0.1", "fd00:64::10.65.0.7", "fd00:64::1:0:0:1"]
)
def test_gateways_that_no_container_can_get(gateway6: str) -> None:
    given = pool(gateway="10.64.0.1", gateway6=gateway6)
    assert given.pair is not None
    assert given.pair.gateway == ip_address(gateway6)


@pytest.mark.parametrize(
    ("gateway6", "why"),
    [
        ("fd00:64::10.64.0.5", "is the partner of 10.64.0.5, an address of the pool"),
        ("fd00:65::1", "is neither in fd00:64::/64 nor link-local"),
        ("fd00:64::", "subnet-router anycast"),
        ("10.64.0.1", "neither in"),
        ("fe80::1%eth0", "is not an IP address"),
    ],
)
def test_a_gateway_that_would_be_anothers_or_nowhere_is_refused(gateway6: str, why: str) -> None:
    assert why in refusal(gateway="10.64.0.1", gateway6=gateway6)


def test_a_gateway_of_no_network_is_refused() -> None:
    assert "gateway6 needs `ipv6`" in refusal(ipv6=None, gateway6="fe80::1")


def test_a_link_that_is_too_narrow_for_ipv6_is_refused() -> None:
    assert "mtu 1279 must be from 1280" in refusal(mtu=1279)
    assert pool(mtu=1280).mtu == 1280
    assert Pool.parse("alone", FOUR, mtu=1279).mtu == 1279


def test_routes_may_be_of_both_families_if_there_are_both() -> None:
    four, six, local = (
        Route("172.16.0.0/12", "10.64.0.2"), Route("fd01::/16", "fd00:64::2"), Route("fd02::/16", "fe80::2"),
    )  # fmt: skip
    assert pool(routes=[four, six, local]).routes == (four, six, local)
    assert "is not of the family" in refusal(ipv6=None, routes=[six])
    for away in ("fd00:65::2", "10.64.0.2", "nowhere"):
        assert f"next hop '{away}' of route fd01::/16" in refusal(routes=[Route("fd01::/16", away)])


@pytest.mark.parametrize(
    ("name", "network", "ipv6"),
    [
        ("inside", "10.65.0.0/24", "fd00:64::/80"),
        ("around", "10.65.0.0/24", "fd00:64::/48"),
        ("six", "fd00:64:0:0:1::/80", None),
        ("same", "10.65.0.0/24", SIX),
    ],
)
def test_no_two_pools_share_an_address_of_either_family(name: str, network: str, ipv6: str | None) -> None:
    other = Pool.parse(name, network, ipv6=ipv6)
    for listed in ([pool(), other], [other, pool()]):
        with pytest.raises(ConfigRefused, match="overlap"):
            Pools(listed)
    assert Pools([pool()]).sharing(other) == [pool()]
    apart = Pool.parse("apart", "10.65.0.0/24", ipv6="fd00:65::/64")
    assert Pools([pool(), apart]).sharing(apart) == []


def test_a_pair_alone_leads_to_no_pool() -> None:
    """Leases are of the IPv4 addresses; the partner is nobody's by itself."""
    pools = Pools([pool()])
    assert pools.of_text("fd00:64::a40:5") is None
    assert pools.leased("fd00:64::a40:5") == "10.64.0.5"
    assert pools.leased("10.64.0.5") == "10.64.0.5"
    for nobodys in ("fd00:64::1", "fd00:64::a41:5", "fd00:65::a40:5"):
        assert pools.leased(nobodys) == nobodys


def test_plain_values_come_back_and_older_ones_have_no_pair() -> None:
    full = pool(gateway="10.64.0.1", gateway6="fe80::1")
    assert Pool.of(full.spec) == full
    stored = msgspec.json.decode(b'{"name":"shop","network":"10.64.0.0/24"}', type=PoolSpec)
    assert Pool.of(stored).pair is None
    port = (
        b'{"type":"port","host":"h","task":"t","app":"/a","slot":0,"instance":"i","address":"10.0.0.1",'
        b'"prefix":24}'
    )
    assert getattr(decode_spec(port), "address6", "") is None
    name = b'{"type":"name","name":"a.test","address":"10.0.0.1","ttl":10}'
    assert getattr(decode_spec(name), "address6", "") is None


def test_a_supernet_gives_no_network_that_is_half_of_a_pair() -> None:
    six = Supernet.parse("campus", "fd00:64::/48", 64)
    paired = pool(ipv6="fd00:64::/64")
    assert six.next_pool("new", Pools([paired])).network == "fd00:64:0:1::/64"


def test_a_port_is_wired_by_both_halves() -> None:
    pools = Pools([pool(gateway6="fe80::1"), Pool.parse("alone", "10.65.0.0/24")])
    wiring = wiring_at(pools, "10.64.0.5", Reach())
    assert wiring is not None
    assert wiring.second == Second("fd00:64::a40:5", 64, "fe80::1")
    alone = wiring_at(pools, "10.65.0.5", Reach())
    assert alone is not None
    assert alone.second is None


def test_a_pool_spec_names_both_networks() -> None:
    assert PoolSpec(PoolName("shop"), FOUR, ipv6=SIX) == pool().spec
    assert pool().networks == "10.64.0.0/24, fd00:64::/64"
