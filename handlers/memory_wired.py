"""What others have wired on hosts in memory: the part of the twin that `survey` and `adopt` ask about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from mooring.handlers.hosts import Answer, Operation


@dataclass(frozen=True, slots=True)
class Wired:
    """An address that somebody else has given to one start of a container."""

    port: str
    task: str
    start: str
    address: str
    prefix: int = 22
    gateway: str | None = None
    vlan: int | None = None
    mac: str = "0e:00:00:00:00:02"
    interface: str = "eth1"
    problem: str = ""

    def is_in_network_of(self, order: Operation) -> bool:
        """Whether it is where an attach would give the container an address."""
        network = ip_network((order["address"], order["prefix"]), strict=False)
        return ip_address(self.address) in network


def told(wired: Wired) -> Answer:
    """How a survey tells it."""
    routes = [{"to": "0.0.0.0/0", "via": wired.gateway}] if wired.gateway else []
    told: Mapping[str, Any] = {
        "task": wired.task, "container": wired.start, "interface": wired.interface, "mac": wired.mac,
        "mtu": 1500, "routes": routes, "port": wired.port, "vlan": wired.vlan, "problem": wired.problem,
        "address": wired.address, "prefix": wired.prefix,
    }  # fmt: skip
    return told


def refusal_of(order: Operation, wired: Wired | None) -> str:
    """Why an order to adopt does not fit what is there; "" if it does."""
    if wired is None or wired.task != order["task_id"] or wired.interface != order["interface"]:
        return f"interface {order['interface']} of the container does not lead to {order['port']}"
    if (wired.address, wired.prefix) != (order["address"], order["prefix"]):
        return f"{wired.interface} does not have {order['address']}/{order['prefix']}"
    if wired.vlan != order.get("vlan"):
        return f"port {wired.port} is in VLAN {wired.vlan}, not in {order.get('vlan')}"
    return wired.problem
