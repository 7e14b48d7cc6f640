"""Does each pool hold what its apps may need at once?

During an upgrade an app may have `floor(instances * (1 + maximumOverCapacity))` instances, each with an
address of its own; with Marathon's default that is twice its size.  A pool that is too small shows only
in the middle of an upgrade, so `mooring check` says it beforehand.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from mooring.controller.claims import Claims
from mooring.core.model import App, PoolName
from mooring.ipam.pools import Pools


def pool_lines(apps: Iterable[App], claims: Claims, pools: Pools) -> list[tuple[str, bool, str]]:
    """One line for each pool: (part, whether it is large enough, what its apps may need)."""
    needs: dict[PoolName, int] = defaultdict(int)
    greedy: dict[PoolName, App] = {}
    for app in apps:
        claim = claims.of(app)
        if claim is None or claim.pool is None:
            continue
        needs[claim.pool] += _peak(app)
        if claim.pool not in greedy or _peak(app) > _peak(greedy[claim.pool]):
            greedy[claim.pool] = app
    return [
        _line(pool.name, pool.size, needs[pool.name], greedy.get(pool.name))
        for pool in sorted(pools, key=lambda pool: pool.name)
    ]


def _peak(app: App) -> int:
    return math.floor(app.instances * (1 + app.over_capacity))


def _line(name: PoolName, size: int, need: int, largest: App | None) -> tuple[str, bool, str]:
    text = f"{need} of {size} addresses may be needed at once"
    if need <= size or largest is None:
        return f"pool {name}", True, text
    advice = f"{largest.id} alone may need {_peak(largest)}; lower its upgradeStrategy.maximumOverCapacity"
    return f"pool {name}", False, f"{text}; {advice}, or enlarge the pool"
