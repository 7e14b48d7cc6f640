"""The fabric between hosts whose network is not ours: a VXLAN tunnel to every other host.

    peers, local address, VNI, UDP port      one tunnel port on the bridge for each peer
    no peers                                 no tunnel: the bridge reaches the others by its uplink

VLAN tags travel inside the tunnels as they are, so one VNI serves all pools, and the source addresses of
containers stay what they are.

*No loop.*  In a full mesh every host reaches every other in one step, so what came out of a tunnel must never
go into another.  Tunnel ports are `protected`, and Open vSwitch forwards nothing between two protected ports.
(Three hosts without it: one broadcast became 80,000 frames within three seconds.)

*No cold tunnel.*  A userspace datapath resolves a tunnel's peer by ARP at the first packet, drops that
packet, and forgets the answer after a quarter of an hour without use.  BFD, one small packet a second, keeps
it resolved; and it tells whether the peer is heard at all, which a tunnel port alone does not: it is up
whatever the underlay does.

*Multicast* is flooded to all peers.  Where an operator has turned snooping on for the bridge, tunnels still
get everything, as ports to other switches do: membership reports reach the other hosts, and so does the data.
"""

from __future__ import annotations

from typing import Any

from .errors import Retry
from .fixtures import Fixture, Kind, Wanted, settle
from .host import Host, Result
from .netlink import Address
from .orders import Fabric
from .ovsdb import members, strings

BFD_MS = "1000"
KIND = Kind(
    "fabric", "mx", ("protected", "tag", "other_config"), ("type", "options", "bfd"), told=("bfd_status",)
)


def fabric(host: Host, order: Fabric) -> Result:
    """Make exactly the tunnels asked for; reports each with whether its peer is heard."""
    check = order.check or host.settings.check
    mtu = _underlay_mtu(host, order.local) if order.local is not None else None
    plan, present = settle(host, KIND, [tunnel(order, name) for name in order.peers], check=check)
    details = {**plan.told(), "mtu": mtu, "tunnels": [_describe(one) for one in present]}
    return Result(order.id, "done", changed=not plan.idle, details=details)


def tunnel(order: Fabric, peer: str) -> Wanted:
    """The tunnel port to a peer."""
    options = {
        "remote_ip": str(order.peers[peer]),
        "local_ip": str(order.local),
        "key": str(order.vni),
        "dst_port": str(order.port),
    }
    flood = {"mcast-snooping-flood": "true", "mcast-snooping-flood-reports": "true"}
    bfd = {"enable": "true", "min_tx": BFD_MS, "min_rx": BFD_MS}
    return Wanted(
        key=peer,
        port={"protected": True, "tag": ["set", []], "other_config": strings(flood)},
        device={"type": "vxlan", "options": strings(options), "bfd": strings(bfd)},
    )


def _describe(one: Fixture) -> dict[str, Any]:
    status = one.columns["bfd_status"] or {}
    return {
        "peer": one.key,
        "port": one.port.name,
        "address": (one.columns["options"] or {}).get("remote_ip", ""),
        "heard": status.get("forwarding") == "true",
        "error": one.port.error,
    }


def _underlay_mtu(host: Host, local: Address) -> int:
    """The MTU of the device with the tunnel address; raises Retry if tunnels cannot start from there."""
    found = host.netlink.device_of(local)
    if found is None:
        raise Retry(f"tunnel address {local} is not on this host; put it on the bridge that holds the NIC")
    switch = host.switch()
    ports = _ports_named(host, found.name)
    if ports & {uuid for _, uuid in members(switch.read["ports"])}:
        # What leaves the tunnels would enter them again: the switch daemon would do nothing else any more.
        raise Retry(
            f"tunnel address {local} is on {found.name}, a port of {switch.bridge} itself; put it on another "
            "bridge, which holds the NIC"
        )
    if switch.userspace and not ports:
        raise Retry(
            f"tunnel address {local} is on {found.name}, which is no bridge of Open vSwitch; a userspace "
            "switch sends tunnels only through another bridge of its own that holds the NIC and has its MAC"
        )
    return found.mtu


def _ports_named(host: Host, device: str) -> set[str]:
    """The records of the port of that name, on whatever bridge."""
    select = {"op": "select", "table": "Port", "where": [["name", "==", device]], "columns": ["_uuid"]}
    return {row["_uuid"][1] for row in host.database.transact([select])[0]["rows"]}
