"""Survey: the containers that somebody else has wired, so that an operator can have them taken over.

Pipework and scripts leave nothing by which their work could be told from ours but the lack of our mark: a
container with a Mesos task id has an interface with an address, and the other end of it is a port of our
bridge that carries no mark.  Each such address is told with all that has to be compared before it may become
ours.  What looks like one and cannot be taken over is told as well, with the reason, because an operator who
moves away from pipework has to know of every container.

Nothing is changed here.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from .containers import Container
from .errors import Refused
from .host import FAILURES, Host, Result, failure
from .links import ContainerLinks, mac_for
from .namespaces import NetworkNamespace
from .netlink import Link, Route
from .orders import Attach, Survey
from .planning import ADOPTED_MARK, alias_prefix
from .switch import Placed

_REMEDY = (
    "take it over with `mooring adopt`, or run the container with network none and let nobody else wire it"
)


def survey(host: Host, order: Survey) -> Result:
    """Report every address of a container of Mesos that does not stand on a port of ours."""
    ports, devices = host.all_ports(), host.devices()
    host.switch()  # a host without our bridge is not ready to be asked
    found: list[dict[str, Any]] = []
    for container in host.engine.containers():
        try:
            found += _wired(host, container, ports, devices)
        except FAILURES as error:
            if container.network_mode != "host":  # which has no network of its own to take over
                found.append({**_named(container), "problem": failure("", error).reason})
    found.sort(key=lambda row: (str(row["task"]), str(row.get("address"))))
    return Result(order.id, "done", details={"containers": found})


def _wired(
    host: Host, container: Container, ports: dict[str, Placed], devices: dict[str, Link]
) -> list[dict[str, Any]]:
    with host.engine.namespace(container) as namespace, ContainerLinks(namespace) as inside:
        return [
            row
            for link in inside.links().values()
            if link.name != "lo"
            for row in _addresses(host, container, namespace, inside, link, ports, devices)
        ]


def _addresses(
    host: Host,
    container: Container,
    namespace: NetworkNamespace,
    inside: ContainerLinks,
    link: Link,
    ports: dict[str, Placed],
    devices: dict[str, Link],
) -> list[dict[str, Any]]:
    """A row for each address of one interface; none if its port is ours already."""
    peer = peer_of(host, namespace, link, devices)
    placed = ports.get(peer or "")
    if placed is not None and _is_ours(host, link, placed):
        return []
    told = {
        **_named(container),
        "interface": link.name,
        "mac": link.mac,
        "mtu": link.mtu,
        "routes": [_told(route) for route in inside.routes(link.index)],
        "port": peer or "",
        "vlan": placed.port.tag if placed else None,
        "problem": _problem(host, link, peer, placed),
    }
    return [
        {**told, "address": str(address), "prefix": prefix}
        for address, prefix in inside.addresses(link.index)
        if not address.is_link_local
    ]


def _is_ours(host: Host, link: Link, placed: Placed) -> bool:
    """Whether the port is ours in full; one whose adoption was cut off lacks the mark on the device."""
    marks, owner = placed.port.marks, host.settings.owner
    return marks.get("owner") == owner and (
        ADOPTED_MARK not in marks or link.alias.startswith(alias_prefix(owner))
    )


def _problem(host: Host, link: Link, peer: str | None, placed: Placed | None) -> str:
    """Why the port cannot be taken over; "" if it can."""
    bridge = host.settings.bridge
    if peer is None:
        return f"{link.name} does not lead to a device of this host"
    if placed is None:
        return f"{peer}, where {link.name} leads to, is no port of an Open vSwitch bridge"
    if placed.bridge != bridge:
        return f"its port {peer} is on bridge {placed.bridge}, not on {bridge}"
    if placed.port.marks.get("owner", host.settings.owner) != host.settings.owner:
        return f"its port {peer} belongs to another Mooring, {placed.port.marks['owner']}"
    if not placed.port.connected:
        return f"the switch does not use its port {peer}: {placed.port.error or 'it has no number'}"
    return ""


def refuse_others_wiring(inside: ContainerLinks, order: Attach, owner: str) -> None:
    """Raises Refused if somebody else has given the container an address where it is to get one of ours."""
    networks = [ipaddress.ip_network(one, strict=False) for one in order.addresses]
    for link in inside.links().values():
        if link.name == "lo" or link.alias.startswith(alias_prefix(owner)):
            continue
        if link.name == order.interface:
            if link.mac != mac_for(order.address):
                raise Refused(
                    f"the container already has an interface {link.name} that is not ours; {_REMEDY}"
                )
            continue
        there = [address for address, _ in inside.addresses(link.index)]
        if network := next((one for one in networks if any(address in one for address in there)), None):
            raise Refused(f"the container already has an address of {network} on {link.name}; {_REMEDY}")


def peer_of(host: Host, namespace: NetworkNamespace, link: Link, devices: dict[str, Link]) -> str | None:
    """The host's device at the other end of a container's interface.

    Indexes are counted in each namespace anew, so two that match prove nothing: the device has to lead into
    this very namespace.
    """
    pairs = [device for device in devices.values() if (device.index, device.peer) == (link.peer, link.index)]
    if not pairs:
        return None
    beyond = host.netlink.number_of(namespace.descriptor)
    return next((device.name for device in pairs if device.beyond == beyond), None)


def _named(container: Container) -> dict[str, Any]:
    return {"task": container.task_id, "container": container.incarnation}


def _told(route: Route) -> dict[str, str | None]:
    return {"to": str(route.to), "via": str(route.via) if route.via else None}
