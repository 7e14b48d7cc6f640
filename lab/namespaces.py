"""The lab's cables: network namespaces, the links between them, and sockets made inside them.

    root namespace            edge (data centre)                 agent 1..3
    127.0.0.1 listeners       br-mgmt 10.65.0.1/24 --mgmtN====mgmt0 10.65.0.1N/24
    (the doors)               tor (Open vSwitch)   --upN======uplink0 -- br-mooring (Open vSwitch)

Both ends of a cable are born in their namespaces by one message, so no interface of ours ever shows
in the root namespace, not even for a moment.  The switches are `switches.py`'s business.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mooring.lab.plan import MANAGEMENT, UPLINK, VLANS, AgentPlan, LabPlan
from mooring.lab.supervise import run

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


async def create(plan: LabPlan) -> None:
    """Make every namespace and cable of the lab; the uplinks are not yet plugged into switches."""
    for name in plan.namespaces:
        await run(plan, ["ip", "netns", "add", name])
    await _ip(plan, plan.edge, _edge_commands(plan))
    await run(plan, ["sysctl", "-qw", "net.ipv4.ip_forward=1"], namespace=plan.edge)
    await asyncio.gather(*(_set_up(plan, agent) for agent in plan.agents))


async def _set_up(plan: LabPlan, agent: AgentPlan) -> None:
    await _ip(plan, agent.namespace, _agent_commands(agent))
    await _offload_off(plan, agent)


async def unplug(plan: LabPlan, agent: AgentPlan) -> None:
    """Take both of a host's cables away for good."""
    await _ip(plan, plan.edge, [f"link del {link}" for link in (agent.edge_management, agent.edge_uplink)])


async def plug_in(plan: LabPlan, agent: AgentPlan) -> None:
    """Make one host's namespace and cables anew, as `create` does for all."""
    await run(plan, ["ip", "netns", "add", agent.namespace])
    await _ip(plan, plan.edge, _cables(agent))
    await _set_up(plan, agent)


def _edge_commands(plan: LabPlan) -> list[str]:
    commands = [
        "link set lo up",
        "link add br-mgmt type bridge",
        f"addr add {MANAGEMENT[1]}/{MANAGEMENT.prefixlen} dev br-mgmt",
        "link set br-mgmt up",
    ]
    return commands + [command for agent in plan.agents for command in _cables(agent)]


def _cables(agent: AgentPlan) -> list[str]:
    return [
        f"link add {agent.edge_management} type veth peer name mgmt0 netns {agent.namespace}",
        f"link set {agent.edge_management} master br-mgmt up",
        f"link add {agent.edge_uplink} type veth peer name {UPLINK} netns {agent.namespace}",
        f"link set {agent.edge_uplink} up",
    ]


def _agent_commands(agent: AgentPlan) -> list[str]:
    return [
        "link set lo up",
        f"addr add {agent.address}/{MANAGEMENT.prefixlen} dev mgmt0",
        "link set mgmt0 up",
        f"link set {UPLINK} up",
        f"route add default via {MANAGEMENT[1]}",
    ]


async def _offload_off(plan: LabPlan, agent: AgentPlan) -> None:
    """A userspace switch forwards frames as they are, so nobody would fill in checksums left to hardware."""
    await run(plan, ["ethtool", "-K", UPLINK, "tx", "off"], namespace=agent.namespace)
    await run(plan, ["ethtool", "-K", agent.edge_uplink, "tx", "off"], namespace=plan.edge)


async def address_gateways(plan: LabPlan) -> None:
    """Give the edge its gateway address in each VLAN; the ports must be in the switch already."""
    commands = []
    for vlan in VLANS:
        commands += [
            f"addr replace {vlan.gateway}/{vlan.network.prefixlen} dev {vlan.interface}",
            f"link set {vlan.interface} up",
        ]
    await _ip(plan, plan.edge, commands)
    for vlan in VLANS:
        await run(plan, ["ethtool", "-K", vlan.interface, "tx", "off"], namespace=plan.edge)


async def set_cables(plan: LabPlan, agent: AgentPlan, state: str) -> None:
    """Set both of a host's cables `up` or `down` at the edge's end."""
    links = (agent.edge_management, agent.edge_uplink)
    await _ip(plan, plan.edge, [f"link set {link} {state}" for link in links])


async def _ip(plan: LabPlan, namespace: str, commands: list[str]) -> None:
    await run(plan, ["ip", "-n", namespace, "-batch", "-"], stdin="\n".join(commands) + "\n")


def delete(plan: LabPlan) -> int:
    """Delete the lab's namespaces, with every link in them; returns how many were there."""
    found = [Path("/run/netns") / name for name in plan.namespaces]
    found = [path for path in found if path.exists()]
    for path in found:
        with suppress(OSError):  # an interrupted `ip netns add` leaves a file without its mount
            _umount(path)
        path.unlink(missing_ok=True)
    return len(found)


def _umount(path: Path) -> None:
    """Detach one mount now, whoever still looks into it."""
    detach = 2
    if _libc.umount2(os.fsencode(path), detach) != 0:
        raise OSError(ctypes.get_errno(), f"umount {path}")


def delete_mounts(below: Path) -> int:
    """Detach every mount below a directory, the deepest first; returns how many there were."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4]) for line in lines]
    found = [point for point in points if point == below or below in point.parents]
    for point in sorted(found, key=lambda path: len(path.parts), reverse=True):
        _umount(point)
    return len(found)


class NamespaceSockets:
    """Makes sockets that live in another network namespace.

    A socket belongs for life to the namespace of the thread that made it.  So one thread moves into
    the namespace, and never leaves it, and does nothing but make sockets for everybody else.
    """

    def __init__(self, namespace: str) -> None:
        self._thread = ThreadPoolExecutor(1, f"netns-{namespace}", _enter, (namespace,))

    async def connect(self, address: tuple[str, int]) -> socket.socket:
        """A non-blocking TCP socket, connected from inside the namespace; `OSError` when it fails."""
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._thread, _tcp_socket)
        try:
            await loop.sock_connect(made, address)
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        """End the thread; sockets already made stay."""
        self._thread.shutdown(wait=False)


def _enter(namespace: str) -> None:
    """Move the calling thread, and no other, into the namespace."""
    with open(f"/run/netns/{namespace}", "rb") as place:
        if _libc.setns(place.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def _tcp_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
