"""Which pools reach each other."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from mooring.ipam.pools import Pool, Pools
from mooring.ipam.reach import Reach

COMMON = Pool.parse("common", "10.0.0.0/24")
SHOP = Pool.parse("shop", "10.0.1.0/24", groups=["/shop"])
SHOP_6 = Pool.parse("shop6", "fd00:1::/64", groups=["/shop"])
OPS = Pool.parse("ops", "10.0.2.0/24", groups=["/ops"])
OPS_TOO = Pool.parse("ops-too", "10.0.3.0/24", groups=["/ops/"])
BOTH = Pool.parse("both", "10.0.8.0/24", groups=["/shop", "/ops"])
ALL = Pools([COMMON, SHOP, SHOP_6, OPS, OPS_TOO, BOTH])


@pytest.mark.parametrize(
    ("pool", "barred"),
    [
        (COMMON, ()),
        (SHOP, ("10.0.2.0/23", "10.0.8.0/24")),  # what lies side by side is one
        (SHOP_6, ("10.0.2.0/23", "10.0.8.0/24")),
        (OPS, ("10.0.1.0/24", "10.0.8.0/24", "fd00:1::/64")),
        (OPS_TOO, ("10.0.1.0/24", "10.0.8.0/24", "fd00:1::/64")),
        (BOTH, ("10.0.1.0/24", "10.0.2.0/23", "fd00:1::/64")),
    ],
)
def test_different_owners_are_kept_apart(pool: Pool, barred: tuple[str, ...]) -> None:
    assert Reach().barred(ALL, pool) == barred


def test_the_partner_of_a_pool_is_kept_apart_as_well() -> None:
    paired = Pool.parse("paired", "10.1.0.0/24", ipv6="fd00:9::/64", groups=["/bank"])
    assert Reach().barred(Pools([SHOP, paired]), SHOP) == ("10.1.0.0/24", "fd00:9::/64")


def test_a_rule_joins_pools_in_both_directions() -> None:
    reach = Reach([["shop", "ops"], ["ops-too", "both", "shop"], ["no-such-pool", "ops"]])
    assert reach.barred(ALL, SHOP) == ()
    assert reach.barred(ALL, OPS) == ("10.0.8.0/24", "fd00:1::/64")
    assert reach.barred(ALL, OPS_TOO) == ("fd00:1::/64",)


def test_it_is_symmetric() -> None:
    reach = Reach([["shop", "ops"]])
    for one in ALL:
        for two in ALL:
            assert _bars(reach, one, two) == _bars(reach, two, one)


def _bars(reach: Reach, one: Pool, two: Pool) -> bool:
    return any(
        ip_network(text).version == two.network.version and two.network.subnet_of(ip_network(text))  # type: ignore[arg-type]
        for text in reach.barred(ALL, one)
    )


def test_owners_in_another_order_are_the_same() -> None:
    turned = Pool.parse("turned", "10.0.9.0/24", groups=["/ops", "/shop"])
    assert Reach().barred(Pools([BOTH, turned]), BOTH) == ()


def test_pools_that_are_made_later_are_seen() -> None:
    reach = Reach()
    pools = Pools([SHOP])
    assert reach.barred(pools, SHOP) == ()
    assert reach.barred(pools.with_pool(OPS), SHOP) == ("10.0.2.0/24",)
    assert reach.barred(pools, SHOP) == ()
