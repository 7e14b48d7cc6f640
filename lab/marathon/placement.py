"""Chooses the host for a launch: round robin over reachable agents whose offer satisfies the app.

Pure: hosts in, host out.  Offers carry no resources here, since the lab's machines are one machine;
what can refuse an offer is a constraint on the host name, a fixed host port that is taken, and a pin.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mooring.lab.marathon.model import App, Instance, Json, RunSpec
from mooring.lab.marathon.world import Host


def choose(hosts: Sequence[Host], app: App, instance: Instance, turn: int) -> Host | None:
    """The host to launch on, or None while no offer matches."""
    if instance.pinned_host is not None:
        pinned = [host for host in hosts if host.name == instance.pinned_host]
        return pinned[0] if pinned and pinned[0].reachable.is_set() else None
    occupied = Counter(_occupied(app, instance))
    ports = [port for port in wanted_ports(instance.spec) if port]
    for offset in range(len(hosts)):
        host = hosts[(turn + offset) % len(hosts)]
        fits = host.reachable.is_set() and host.taken.isdisjoint(ports)
        if fits and all(_satisfied(c, host.name, occupied) for c in instance.spec.constraints):
            return host
    return None


def wanted_ports(spec: RunSpec) -> list[int]:
    """Host ports a launch needs, 0 for any free one."""
    definition = spec.definition
    if spec.host_network:
        fixed = bool(definition.get("requirePorts"))
        return [port["port"] if fixed else 0 for port in definition.get("portDefinitions", [])]
    return [mapping["hostPort"] for mapping in port_mappings(spec) if mapping.get("hostPort") is not None]


def port_mappings(spec: RunSpec) -> list[Json]:
    """The container's port mappings; none in host mode."""
    mappings: list[Json] = spec.definition.get("container", {}).get("portMappings", [])
    return mappings


def _occupied(app: App, instance: Instance) -> list[str]:
    others = (other for other in app.instances.values() if other is not instance)
    return [other.run.host for other in others if other.run is not None and not other.condition.terminal]


def _satisfied(constraint: Sequence[str], host: str, occupied: Counter[str]) -> bool:
    operator, value = constraint[1], constraint[2] if len(constraint) > 2 else ""
    match operator:
        case "UNIQUE":
            return host not in occupied
        case "MAX_PER":
            return occupied[host] < int(value)
        case "CLUSTER":
            return host == value if value else not occupied or host in occupied
        case "IS":
            return host == value
        case "LIKE":
            return re.fullmatch(value, host) is not None
        case "UNLIKE":
            return re.fullmatch(value, host) is None
        case _:  # GROUP_BY: round robin spreads already
            return True
