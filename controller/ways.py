"""The fabric, put together from configuration and inventory; and what a look at it finds, as findings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from mooring.controller.drift import Finding, Kind
from mooring.controller.pools import strange_keepers
from mooring.controller.settings import Settings
from mooring.controller.settings_fabric import VARIABLE
from mooring.controller.verify import Beside
from mooring.core.errors import ConfigRefused
from mooring.core.readmodel import EVERYTHING
from mooring.handlers.fabric import Fabric, Mesh, Sight
from mooring.handlers.hosts import Hosts
from mooring.handlers.inventory import inventory_variable
from mooring.ipam.pools import Pool

if TYPE_CHECKING:
    from mooring.controller.engine import Engine

log = structlog.get_logger(__name__)

_DETAILS = {
    Kind.MISSING: "was not there",
    Kind.DIFFERENT: "was not as it shall be",
    Kind.SURPLUS: "was there although nobody wants it",
}


async def mesh_of(settings: Settings, names: Sequence[str]) -> Mesh:
    """The tunnels that are configured. Raises `ConfigRefused`, with a line for each host without address."""
    fabric = settings.fabric
    if fabric.mode == "flat":
        return Mesh()
    variables = await inventory_variable(settings.ansible.inventory, VARIABLE)
    addresses = fabric.tunnel_addresses(list(names), variables)
    return Mesh(addresses, fabric.vni, fabric.port, fabric.container_mtu)


def check_keepers(configured: Sequence[Pool], names: Sequence[str]) -> None:
    """Raises `ConfigRefused` for gateways of the configuration on hosts that the inventory does not have."""
    if faults := strange_keepers([pool.spec for pool in configured], names):
        raise ConfigRefused(faults)


def lay_fabric(engine: Engine, hosts: Hosts, names: Sequence[str], mesh: Mesh) -> Fabric:
    """The fabric of a running engine, which from now on tells it of changed pools."""
    engine.pools.hosts = frozenset(names)
    pools = engine.records.book.pools
    for fault in strange_keepers([pool.spec for pool in pools], names):  # made at run time
        log.warning("a pool has no gateway", reason=fault)
    engine.fabric = Fabric(
        hosts,
        names,
        mesh,
        lambda: engine.records.book.pools,
        engine.clock,
        lambda: EVERYTHING in engine.paused(),
    )
    return engine.fabric


async def keep_ways(engine: Engine) -> None:
    """Keep tunnels and gateways, once it is known what is whose. Ends only by a `Fatal` error."""
    await engine.grounded.wait()
    if engine.fabric is None:
        await asyncio.Event().wait()  # an observer keeps nothing
    else:
        await engine.fabric.run()


async def look_at_ways(engine: Engine, repair: bool) -> Beside:
    """What is not as it shall be between hosts, and what could not be read."""
    paused = EVERYTHING in engine.paused()
    sight = Sight() if engine.fabric is None else await engine.fabric.look(repair=repair and not paused)
    remedy = "waits: paused" if paused else "is repaired" if repair else "would be repaired"
    findings = [
        Finding(found.what, Kind(found.kind), found.key, _DETAILS[Kind(found.kind)], remedy=remedy)
        for found in sight.deviances
    ]
    return Beside(findings, sight.unsure, sight.read)
