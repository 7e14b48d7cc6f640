"""Does each pool hold what its apps may need at once?

During an upgrade an app may have `floor(instances * (1 + maximumOverCapacity))` instances, each with an
address of its own; with Marathon's default that is twice its size.  How long an address stays with its app
adds to that:

    slot    as many seats as instances at once; an upgrade without over-capacity needs no further one
    task    at least twice the instances: what the replaced ones had cools while the new ones have theirs
    pinned  every address of the list, once it has been used

What is reserved, stranded, conflicted or cooling helps nobody meanwhile; that is known where a daemon can be
asked.  A pool that is too small shows only in the middle of an upgrade; `mooring check` says it beforehand.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mooring.controller.claims import Claims
from mooring.core.labels import Claim, IpPolicy
from mooring.core.model import App, AppId, LeaseState, PoolName
from mooring.core.readmodel import PoolRow
from mooring.ipam.pools import Pool, Pools

Line = tuple[str, bool, str]
_HELPS_NOBODY = (LeaseState.RESERVED, LeaseState.STRANDED, LeaseState.CONFLICTED, LeaseState.COOLING)


@dataclass(slots=True)
class _Need:
    """What the apps of one pool may need at once."""

    by_app: dict[AppId, tuple[int, IpPolicy]] = field(default_factory=dict)
    pins: dict[str, list[AppId]] = field(default_factory=lambda: defaultdict(list))

    @property
    def total(self) -> int:
        return sum(count for count, _ in self.by_app.values()) + len(self.pins)

    def add(self, app: App, claim: Claim) -> None:
        for address in claim.pinned:
            self.pins[address].append(app.id)
        if not claim.pinned:
            self.by_app[app.id] = (_peak(app, claim.policy), claim.policy)


def pool_lines(apps: Iterable[App], claims: Claims, pools: Pools, now: Sequence[PoolRow] = ()) -> list[Line]:
    """One line for each pool: (part, whether it is large enough, what its apps may need).

    `now` is what a daemon says of its pools, if one could be asked.
    """
    needs: dict[PoolName, _Need] = defaultdict(_Need)
    for app in apps:
        claim = claims.of(app)
        if claim is not None and claim.pool is not None:
            needs[claim.pool].add(app, claim)
    rows = {row.name: row for row in now}
    ordered = sorted(pools, key=lambda pool: pool.name)
    return [_line(pool, needs[pool.name], _held(rows.get(pool.name))) for pool in ordered]


def _peak(app: App, policy: IpPolicy) -> int:
    at_once = math.floor(app.instances * (1 + app.over_capacity))
    return max(at_once, 2 * app.instances) if policy is IpPolicy.TASK else at_once


def _held(row: PoolRow | None) -> Mapping[str, int]:
    """How many addresses are in each state in which they help no app."""
    leases = row.leases if row is not None else {}
    return {state.value: leases[state] for state in _HELPS_NOBODY if leases.get(state)}


def _line(pool: Pool, need: _Need, held: Mapping[str, int]) -> Line:
    part, away = f"pool {pool.name}", sum(held.values())
    text = f"{need.total} of {pool.size} addresses may be needed at once"
    if held:
        text += "; now " + ", ".join(f"{count} {state}" for state, count in held.items())
    twice = {address: apps for address, apps in need.pins.items() if len(apps) > 1}
    if twice:
        address, rivals = min(twice.items())
        return part, False, f"{text}; {address} is pinned by {' and '.join(rivals)}: give it to one of them"
    if need.total + away <= pool.size:
        return part, True, text
    return part, False, f"{text}; {_advice(need)}"


def _advice(need: _Need) -> str:
    if not need.by_app:
        return "enlarge the pool"
    app, (count, policy) = max(need.by_app.items(), key=lambda item: item[1][0])
    remedy = (
        "lower its upgradeStrategy.maximumOverCapacity"
        if policy is IpPolicy.SLOT
        else "let it have MOORING_IP_POLICY=slot"
    )
    return f"{app} alone may need {count}; {remedy}, or enlarge the pool"
