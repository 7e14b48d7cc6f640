"""Which pools may reach each other, and so which networks a pool's containers are barred from.

    owners of the two pools         named together in a [[reach]]    ->
    the same, or one has none       -                                they reach each other
    different                       yes                              they reach each other
    different                       no                               barred, in both directions

The owners of a pool (its groups) are who it belongs to; a pool without any is common ground.  Addresses that
are in no pool (gateways, other machines) are never barred.

What comes out is as short as it can be said: networks that lie side by side become one, which saves rules in
every switch.  It is in a fixed order, IPv4 first, because it is compared with what stands on the hosts.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from mooring.core.model import PoolName
from mooring.ipam.numbers import Network
from mooring.ipam.pools import Pool, Pools

Together = frozenset[frozenset[PoolName]]


class Reach:
    """The rules of the configuration, asked about the pools that are in force at the moment."""

    def __init__(self, together: Iterable[Iterable[str]] = ()) -> None:
        """`together`: sets of pools that may reach each other whoever owns them."""
        self._together: Together = frozenset(frozenset(map(PoolName, names)) for names in together)
        self._pools: Pools | None = None
        self._known: dict[PoolName, tuple[str, ...]] = {}

    def barred(self, pools: Pools, pool: Pool) -> tuple[str, ...]:
        """The networks that the pool may not reach, in CIDR form."""
        if pools is not self._pools:  # they are asked about for every instance, and change once in a while
            self._pools, self._known = pools, {}
        if pool.name not in self._known:
            self._known[pool.name] = barred_networks(pools, pool, self._together)
        return self._known[pool.name]


def barred_networks(pools: Iterable[Pool], pool: Pool, together: Together) -> tuple[str, ...]:
    """The networks of all pools that this one may not reach, in CIDR form."""
    strange = (other for other in pools if not _reach_each_other(pool, other, together))
    others = [network for other in strange for network in _networks(other)]
    four = collapse_addresses(network for network in others if isinstance(network, IPv4Network))
    six = collapse_addresses(network for network in others if isinstance(network, IPv6Network))
    return (*map(str, four), *map(str, six))


def _networks(pool: Pool) -> list[Network]:
    return [pool.network] if pool.pair is None else [pool.network, pool.pair.network]


def _reach_each_other(one: Pool, two: Pool, together: Together) -> bool:
    if one.name == two.name or not one.groups or not two.groups:
        return True
    if frozenset(one.groups) == frozenset(two.groups):
        return True
    return any({one.name, two.name} <= names for names in together)
