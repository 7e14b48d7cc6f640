"""Observe: every port that carries our mark, with what is needed to rebuild the daemon's store from it.

Nothing is changed, with one exception on request: `fence` raises the bridge's epoch to the caller's first, so
that what is reported cannot be changed any more by a daemon that the caller has replaced, and leaves the
call's number, so that it cannot by an earlier call of the caller either; and brings the rules of the bridge
into line (see `isolation`).
"""

from __future__ import annotations

import contextlib
from typing import Any

from .bandwidth import standing_rates
from .errors import Retry
from .fabric import KIND as FABRIC
from .fixtures import read_fixtures
from .gateway import KIND as GATEWAY
from .host import FAILURES, Host, Result
from .isolation import Isolation, inspect, isolate
from .leftovers import leftovers
from .limits import UNLIMITED, Rates
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
    isolation, problem = _isolation(host, mend=order.fence and not host.settings.check)
    switch, devices = host.switch(), host.devices()
    alive = host.alive(switch, devices)
    rates = standing_rates(host)
    ports = [
        {
            **_describe(port, devices, alive, rates.get(port.name, UNLIMITED)),
            **_guards(port, isolation),
        }
        for port in switch.ports.values()
    ]
    details = {
        "bridge": switch.bridge,
        "bridge_epoch": switch.epoch,
        "files_epoch": Tellings(host.settings.state_dir, host.settings.owner).newest_epoch(),
        "ports": sorted(ports, key=lambda port: str(port["port"])),
        "orphans": _orphans(switch, devices, host.settings.owner),
        "leftovers": leftovers(host, switch, devices),
        "isolation": {"fail_mode": isolation.fail_mode, "reason": problem or isolation.reason},
        "fixtures": sorted(
            fixture.port.name for kind in (FABRIC, GATEWAY) for fixture in read_fixtures(host, switch, kind)
        ),
    }
    return Result(order.id, "done", changed=raised or isolation.mended, details=details)


def _isolation(host: Host, *, mend: bool) -> tuple[Isolation, str]:
    """How the guards stand, and why that is not known: what carries our mark is reported all the same."""
    try:
        return (isolate(host) if mend else inspect(host)), ""
    except FAILURES as error:
        return Isolation(fail_mode="unknown"), str(error)


def _guards(port: Port, isolation: Isolation) -> dict[str, Any]:
    """Of a port without a device nothing is said, nor where the rules could not be read."""
    if isolation.fail_mode == "unknown":
        return {}
    return {"guarded": port.name in isolation.guarded, "dropped": isolation.dropped.get(port.name, {})}


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


def _describe(port: Port, devices: dict[str, Link], alive: set[str], rates: Rates) -> dict[str, Any]:
    marks = port.marks
    return {
        "port": port.name,
        "address": marks.get("address", ""),
        "prefix": number(marks.get("prefix")),
        "address6": marks.get("address6", ""),
        "prefix6": number(marks.get("prefix6")),
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
        "barred": marks.get("barred", "").split(),
        "device": port.name in devices,
        "connected": port.connected and port.name in devices,
        "alive": port.name in alive,
        "rate_out": rates.out,
        "rate_in": rates.into,
    }


def _orphans(switch: Switch, devices: dict[str, Link], owner: str) -> list[dict[str, str]]:
    """Our devices that have no port: somebody removed the port, or a run was cut off in the middle."""
    prefix = alias_prefix(owner)
    return [
        {"device": device.name, **_from_alias(device.alias[len(prefix) :])}
        for device in devices.values()
        if device.alias.startswith(prefix) and device.name not in switch.ports
    ]


def _from_alias(rest: str) -> dict[str, str]:
    """The address that a device was made for, and what its alias has for the instance."""
    address, _, instance = rest.rpartition(":")
    return {"address": address, "instance": instance}
