"""Observe: every port that carries our mark, with what is needed to rebuild the daemon's store from it.

Nothing is changed, with one exception on request: `fence` raises the bridge's epoch to the caller's first, so
that what is reported cannot be changed any more by a daemon that the caller has replaced, and leaves the
call's number, so that it cannot by an earlier call of the caller either.
"""

from __future__ import annotations

import contextlib
from typing import Any

from .errors import Retry
from .host import Host, Result
from .leftovers import leftovers
from .netlink import Link
from .orders import Observe
from .ovsdb import OvsdbStale
from .planning import ADOPTED_MARK, alias_prefix
from .switch import Port, Switch, number
from .tellings import Tellings

ATTEMPTS = 4


def observe(host: Host, order: Observe) -> Result:
    """Report our ports, devices without a port, the epochs that the bridge and our files have seen, and what
    pipework left behind."""
    raised = order.fence and _raise_fence(host)
    switch, devices = host.switch(), host.devices()
    alive = host.alive(switch, devices)
    ports = [_describe(port, devices, alive) for port in switch.ports.values()]
    details = {
        "bridge": switch.bridge,
        "bridge_epoch": switch.epoch,
        "files_epoch": Tellings(host.settings.state_dir, host.settings.owner).newest_epoch(),
        "ports": sorted(ports, key=lambda port: str(port["port"])),
        "orphans": _orphans(switch, devices, host.settings.owner),
        "leftovers": leftovers(host, switch, devices),
    }
    return Result(order.id, "done", changed=raised, details=details)


def _raise_fence(host: Host) -> bool:
    for _ in range(ATTEMPTS):
        transaction = host.change(host.switch())
        if transaction.empty:
            return False
        if host.settings.check:
            return True
        with contextlib.suppress(OvsdbStale):  # somebody changed the bridge meanwhile
            transaction.commit(host.database)
            return True
    raise Retry("the switch keeps changing while its fence is being raised")


def _describe(port: Port, devices: dict[str, Link], alive: set[str]) -> dict[str, Any]:
    marks = port.marks
    return {
        "port": port.name,
        "address": marks.get("address", ""),
        "prefix": number(marks.get("prefix")),
        "instance": marks.get("instance", ""),
        "task": marks.get("task", ""),
        "app": marks.get("app", ""),
        "slot": number(marks.get("slot")),
        "generation": number(marks.get("generation")),
        "epoch": port.epoch,
        "interface": marks.get("interface", ""),
        "container": marks.get("container", ""),
        "adopted": ADOPTED_MARK in marks,
        "vlan": port.tag,
        "device": port.name in devices,
        "connected": port.connected and port.name in devices,
        "alive": port.name in alive,
    }


def _orphans(switch: Switch, devices: dict[str, Link], owner: str) -> list[dict[str, str]]:
    """Our devices that have no port: somebody removed the port, or a run was cut off in the middle."""
    prefix = alias_prefix(owner)
    return [
        {"device": device.name, "address": device.alias[len(prefix) :].rpartition(":")[0]}
        for device in devices.values()
        if device.alias.startswith(prefix) and device.name not in switch.ports
    ]
