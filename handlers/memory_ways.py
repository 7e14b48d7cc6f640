"""Tunnels and gateways of a host in memory: the part of the twin that knows no container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Wanted = Mapping[str, tuple[object, ...]]


@dataclass(slots=True)
class Ways:
    """What a host has of each kind, by peer or pool, with what it was told of it."""

    tunnels: dict[str, tuple[object, ...]] = field(default_factory=dict)
    gateways: dict[str, tuple[object, ...]] = field(default_factory=dict)
    deaf: set[str] = field(default_factory=set)  # peers from whom nothing is heard

    def names(self) -> list[str]:
        """A name for each, as the switch would have one."""
        return sorted([*(f"mx-{peer}" for peer in self.tunnels), *(f"mg-{pool}" for pool in self.gateways)])

    def fabric(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Have exactly these tunnels."""
        outer = (order.get("local"), order["vni"], order["port"])
        wanted = {peer["name"]: (peer["address"], *outer) for peer in order["peers"]}
        told = _settle(self.tunnels, wanted, check=bool(order.get("check")))
        tunnels = [{"peer": peer, "heard": peer not in self.deaf} for peer in self.tunnels]
        return {**told, "tunnels": tunnels}

    def gateway(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Have exactly these gateways."""
        told = ("address", "prefix", "vlan", "mtu", "nat")
        wanted = {one["pool"]: tuple(one.get(key) for key in told) for one in order["gateways"]}
        return _settle(self.gateways, wanted, check=bool(order.get("check")))


def _settle(present: dict[str, tuple[object, ...]], wanted: Wanted, *, check: bool) -> dict[str, Any]:
    told = {
        "added": sorted(wanted.keys() - present.keys()),
        "mended": sorted(key for key in wanted.keys() & present.keys() if wanted[key] != present[key]),
        "removed": sorted(present.keys() - wanted.keys()),
    }
    if not check:
        present.clear()
        present.update(wanted)
    return {**told, "changed": any(told.values())}
