"""Pools made from a supernet: the lowest subnet and the first VLAN that nobody has."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import ConfigRefused
from mooring.core.model import PoolSpec
from mooring.ipam.errors import SupernetExhausted
from mooring.ipam.pools import Pool, Pools
from mooring.ipam.supernets import Supernet


def made(supernet: Supernet, *networks: str, groups: tuple[str, ...] = ()) -> PoolSpec:
    """The next pool beside pools with these networks, which have the VLANs from 1 on."""
    pools = [Pool.parse(f"p{n}", network, vlan=n + 1) for n, network in enumerate(networks)]
    return supernet.next_pool("new", Pools(pools), groups)


def test_a_pool_has_everything_that_the_supernet_says() -> None:
    supernet = Supernet.parse("big", "10.64.0.0/14", vlans="100-102", mtu=1450, groups=["/shop"])
    assert made(supernet) == PoolSpec(
        "new", "10.64.0.0/24", "10.64.0.1", 100, 1450, groups=("/shop",), supernet="big"
    )  # type: ignore[arg-type]
    assert made(supernet, groups=("/ops",)).groups == ("/ops",)


@pytest.mark.parametrize(
    ("values", "network", "gateway"),
    [
        ({"network": "10.64.0.0/14", "gateway": "last"}, "10.64.0.0/24", "10.64.0.254"),
        ({"network": "10.64.0.0/14", "gateway": "none", "prefix": 30}, "10.64.0.0/30", None),
        ({"network": "fd00:64::/32"}, "fd00:64::/64", "fd00:64::1"),
        ({"network": "fd00:64::/48", "gateway": "last"}, "fd00:64::/64", "fd00:64::ffff:ffff:ffff:ffff"),
        ({"network": "fd00:64::/48", "prefix": 112}, "fd00:64::/112", "fd00:64::1"),
        ({"network": "10.64.0.0/24"}, "10.64.0.0/24", "10.64.0.1"),
        ({"network": "10.0.0.0/8", "prefix": 12}, "10.0.0.0/12", "10.0.0.1"),
    ],
)
def test_sizes_and_gateways_of_both_families(
    values: dict[str, Any], network: str, gateway: str | None
) -> None:
    spec = made(Supernet.parse("big", **values))
    assert (spec.network, spec.gateway, spec.vlan) == (network, gateway, None)
    Pool.of(spec)


def test_the_next_subnet_jumps_over_what_others_have() -> None:
    supernet = Supernet.parse("big", "10.64.0.0/16")
    assert made(supernet, "10.64.0.0/24").network == "10.64.1.0/24"
    assert made(supernet, "10.64.0.128/25", "10.64.1.0/30", "10.64.2.0/23").network == "10.64.4.0/24"
    assert made(supernet, "10.64.1.0/24", "10.65.0.0/24", "10.63.0.0/16").network == "10.64.0.0/24"
    assert made(supernet, "10.64.0.0/17").network == "10.64.128.0/24"
    assert made(supernet, "fd00::/64").network == "10.64.0.0/24"


def test_a_supernet_may_be_used_up() -> None:
    supernet = Supernet.parse("big", "10.64.0.0/23")
    assert made(supernet, "10.64.0.0/24").network == "10.64.1.0/24"
    for taken in (("10.64.0.0/24", "10.64.1.64/26"), ("10.64.0.0/16",), ("10.64.0.0/22",)):
        with pytest.raises(SupernetExhausted, match=r"big: no /24 of 10\.64\.0\.0/23 is left"):
            made(supernet, *taken)


def test_vlans_are_used_in_their_order_and_may_be_used_up() -> None:
    supernet = Supernet.parse("big", "10.64.0.0/16", vlans=" 300, 2-3 ,300,1")
    assert supernet.vlans == (300, 2, 3, 1)
    assert made(supernet).vlan == 300
    used = Pools([Pool.parse("a", "10.1.0.0/24", vlan=300), Pool.parse("b", "10.2.0.0/24", vlan=2)])
    assert supernet.next_pool("new", used).vlan == 3
    full = [Pool.parse(f"p{vlan}", f"10.{vlan % 250}.0.0/24", vlan=vlan) for vlan in supernet.vlans]
    with pytest.raises(SupernetExhausted, match="big: each of its 4 VLANs is in use"):
        supernet.next_pool("new", Pools(full))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"network": "10.64.0.0"}, "prefix 24 must be from 32 to 30"),
        ({"network": "10.64.0.1/16"}, "write 10.64.0.0/16"),
        ({"network": "rubbish"}, "is not an IP network"),
        ({"network": "10.64.0.0/16", "prefix": 15}, "prefix 15 must be from 16 to 30"),
        ({"network": "10.0.0.0/8", "prefix": 11}, "prefix 11 must be from 12 to 30"),
        ({"network": "10.64.0.0/16", "prefix": 31}, "prefix 31 must be from 16 to 30"),
        ({"network": "fd00::/32", "prefix": 127}, "prefix 127 must be from 48 to 126"),
        ({"network": "10.64.0.0/16", "vlans": "1-x"}, "vlans '1-x' is neither"),
        ({"network": "10.64.0.0/16", "vlans": "9-3"}, "vlans '9-3' must rise"),
        ({"network": "10.64.0.0/16", "vlans": "0"}, "from 1 to 4094"),
        ({"network": "10.64.0.0/16", "vlans": "4095"}, "from 1 to 4094"),
        ({"network": "10.64.0.0/16", "mtu": 500}, "mtu 500"),
        ({"network": "fd00::/32", "mtu": 1000}, "mtu 1000 must be from 1280"),
        ({"network": "10.64.0.0/16", "groups": ["shop"]}, "group 'shop'"),
        ({"network": "10.64.0.0/16", "name": "a b"}, "a name needs"),
    ],
)
def test_a_bad_supernet_is_refused_by_name(values: dict[str, Any], fault: str) -> None:
    given = {"name": "big"} | values
    with pytest.raises(ConfigRefused) as caught:
        Supernet.parse(given.pop("name"), **given)
    [line] = caught.value.problems
    assert line.startswith("supernet ")
    assert fault in line


@given(st.lists(st.tuples(st.integers(25, 30), st.integers(0, 63)), max_size=6), st.integers(26, 29))
def test_the_subnet_is_the_lowest_that_clashes_with_nothing(
    taken: list[tuple[int, int]], prefix: int
) -> None:
    whole = ip_network("10.64.0.0/25")
    pools: list[Pool] = []
    for length, number in taken:
        subnets = list(ip_network("10.64.0.0/24").subnets(new_prefix=length))
        network = subnets[number % len(subnets)]
        if not any(network.overlaps(pool.network) for pool in pools):
            pools.append(Pool.parse(f"p{len(pools)}", str(network)))
    expected = [
        str(subnet)
        for subnet in whole.subnets(new_prefix=prefix)
        if not any(subnet.overlaps(pool.network) for pool in pools)
    ]
    supernet = Supernet.parse("big", str(whole), prefix)
    if expected:
        assert supernet.next_pool("new", Pools(pools)).network == expected[0]
    else:
        with pytest.raises(SupernetExhausted):
            supernet.next_pool("new", Pools(pools))
