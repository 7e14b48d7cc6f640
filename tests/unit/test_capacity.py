"""`mooring check` foresees a pool that an upgrade would exhaust."""

from __future__ import annotations

from mooring.controller.capacity import pool_lines
from mooring.controller.claims import Claims
from mooring.core.labels import Rules
from mooring.core.model import App, AppId
from mooring.ipam.pools import Pool, Pools

POOLS = Pools([Pool.parse("small", "10.0.0.0/29"), Pool.parse("unused", "10.0.1.0/29")])


def app(name: str, instances: int, over_capacity: float = 1.0, pool: str = "small") -> App:
    return App(AppId(name), instances, {"MOORING_POOL": pool}, over_capacity=over_capacity)


def lines(*apps: App) -> dict[str, tuple[bool, str]]:
    claims = Claims(Rules(pools={pool.name: pool for pool in POOLS}))
    return {part: (ok, text) for part, ok, text in pool_lines(apps, claims, POOLS)}


def test_the_default_strategy_needs_twice_the_instances() -> None:
    ok, text = lines(app("/web", 4))["pool small"]
    assert not ok
    assert text.startswith("8 of 6 addresses")
    assert "/web alone may need 8" in text
    assert "maximumOverCapacity" in text


def test_without_over_capacity_the_same_app_fits() -> None:
    assert lines(app("/web", 4, 0.0))["pool small"] == (True, "4 of 6 addresses may be needed at once")


def test_apps_add_up_and_others_do_not_count() -> None:
    found = lines(app("/a", 2), app("/b", 1), app("/c", 50, pool="nowhere"))
    assert found["pool small"] == (True, "6 of 6 addresses may be needed at once")
    assert found["pool unused"] == (True, "0 of 6 addresses may be needed at once")
