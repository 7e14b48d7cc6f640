"""`mooring check` foresees a pool that an upgrade would exhaust."""

from __future__ import annotations

from collections.abc import Sequence

from mooring.controller.capacity import pool_lines
from mooring.controller.claims import Claims
from mooring.core.labels import Rules
from mooring.core.model import App, AppId
from mooring.core.readmodel import PoolRow
from mooring.ipam.pools import Pool, Pools

POOLS = Pools([Pool.parse("small", "10.0.0.0/29"), Pool.parse("unused", "10.0.1.0/29")])


def app(name: str, instances: int, over_capacity: float = 1.0, pool: str = "small", **labels: str) -> App:
    return App(AppId(name), instances, {"MOORING_POOL": pool, **labels}, over_capacity=over_capacity)


def lines(*apps: App, now: Sequence[PoolRow] = ()) -> dict[str, tuple[bool, str]]:
    claims = Claims(Rules(pools={pool.name: pool for pool in POOLS}))
    return {part: (ok, text) for part, ok, text in pool_lines(apps, claims, POOLS, now)}


def row(**leases: int) -> PoolRow:
    return PoolRow("small", "10.0.0.0/29", None, None, 6, 6 - sum(leases.values()), leases)


def pinned(name: str, instances: int, *last: int) -> App:
    addresses = ",".join(f"10.0.0.{number}" for number in last)
    return app(name, instances, 0.0, MOORING_IP_POLICY="pinned", MOORING_IPS=addresses)


def test_the_default_strategy_needs_twice_the_instances() -> None:
    assert lines(app("/web", 4))["pool small"] == (
        False,
        "8 of 6 addresses may be needed at once; /web alone may need 8; "
        "lower its upgradeStrategy.maximumOverCapacity, or enlarge the pool",
    )


def test_without_over_capacity_the_same_app_fits() -> None:
    assert lines(app("/web", 4, 0.0))["pool small"] == (True, "4 of 6 addresses may be needed at once")


def test_apps_add_up_and_others_do_not_count() -> None:
    found = lines(app("/a", 2), app("/b", 1), app("/c", 50, pool="nowhere"))
    assert found["pool small"] == (True, "6 of 6 addresses may be needed at once")
    assert found["pool unused"] == (True, "0 of 6 addresses may be needed at once")


def test_part_of_an_instance_is_none() -> None:
    assert lines(app("/a", 5, 0.3))["pool small"][1].startswith("6 of 6")


def test_the_largest_app_is_the_one_to_change() -> None:
    ok, text = lines(app("/a", 1), app("/b", 3), app("/c", 2, 0.0))["pool small"]
    assert not ok
    assert "/b alone may need 6" in text


def test_an_app_that_keeps_no_address_needs_twice_its_instances_in_any_case() -> None:
    task = {"MOORING_IP_POLICY": "task"}
    assert lines(app("/a", 3, 0.0, **task))["pool small"] == (True, "6 of 6 addresses may be needed at once")
    ok, text = lines(app("/a", 4, 0.0, **task))["pool small"]
    assert not ok
    assert text.endswith("/a alone may need 8; let it have MOORING_IP_POLICY=slot, or enlarge the pool")


def test_every_pinned_address_may_be_in_use() -> None:
    found = lines(pinned("/p", 2, 1, 2, 3), app("/a", 3, 0.0))
    assert found["pool small"] == (True, "6 of 6 addresses may be needed at once")
    assert not lines(pinned("/p", 2, 1, 2, 3), app("/a", 4, 0.0))["pool small"][0]


def test_an_address_that_two_apps_pin_is_named() -> None:
    ok, text = lines(pinned("/p", 1, 1, 2), pinned("/q", 1, 3, 2))["pool small"]
    assert not ok
    assert text == (
        "3 of 6 addresses may be needed at once; 10.0.0.2 is pinned by /p and /q: give it to one of them"
    )


def test_addresses_that_help_nobody_now_are_counted_where_they_are_known() -> None:
    held = row(bound=2, idle=1, cooling=1, stranded=1)
    assert lines(app("/a", 4, 0.0), now=[held])["pool small"] == (
        True,
        "4 of 6 addresses may be needed at once; now 1 stranded, 1 cooling",
    )
    ok, text = lines(app("/a", 5, 0.0), now=[held])["pool small"]
    assert (ok, text.split("; ")[1]) == (False, "now 1 stranded, 1 cooling")
    ok, text = lines(now=[row(reserved=5, conflicted=2)])["pool small"]
    assert (ok, text) == (
        False,
        "0 of 6 addresses may be needed at once; now 5 reserved, 2 conflicted; enlarge the pool",
    )
