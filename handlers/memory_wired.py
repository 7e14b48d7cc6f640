"""What others have wired on hosts in memory: the part of the twin that `survey` and `adopt` ask about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address, ip_network
from typing import Any, Protocol

from mooring.handlers.hosts import Answer, Operation


class Port(Protocol):
    """A port of ours in memory, as far as an adoption looks at it."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...
    @property
    def instance(self) -> str: ...
    @property
    def start(self) -> str: ...
    @property
    def adopted_mac(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Wired:
    """An address that somebody else has given to one start of a container, and what is `beside` it there."""

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
    beside: tuple[tuple[str, int], ...] = ()  # addresses with their prefix lengths

    @property
    def addresses(self) -> dict[str, int]:
        """All addresses of the interface, with their prefix lengths."""
        return {self.address: self.prefix, **dict(self.beside)}

    def is_in_network_of(self, order: Operation) -> bool:
        """Whether it is where an attach would give the container an address."""
        network = ip_network((order["address"], order["prefix"]), strict=False)
        return any(ip_address(address) in network for address in self.addresses)


def survey_of(found: Iterable[Wired]) -> list[Answer]:
    """How a survey tells of them: a row for each address."""
    return [row for wired in sorted(found, key=lambda wired: wired.task) for row in _told(wired)]


def _told(wired: Wired) -> Iterable[Answer]:
    routes = [{"to": "0.0.0.0/0", "via": wired.gateway}] if wired.gateway else []
    told: Mapping[str, Any] = {
        "task": wired.task, "container": wired.start, "interface": wired.interface, "mac": wired.mac,
        "mtu": 1500, "routes": routes, "port": wired.port, "vlan": wired.vlan, "problem": wired.problem,
    }  # fmt: skip
    for address, prefix in sorted(wired.addresses.items()):
        yield {**told, "address": address, "prefix": prefix}


def objection(order: Operation, wanted: Port, ports: Mapping[str, Port], wired: Wired | None) -> str:
    """Why the order cannot be followed; "" if it can, or has been already."""
    done = ports.get(wanted.name)
    if (done is None or done.adopted_mac is None) and (why := _refusal_of(order, wired)):
        return why
    for port in ports.values():
        rival = {*port.addresses} & {*wanted.addresses} or port.instance == wanted.instance
        same = all(getattr(port, key) == getattr(wanted, key) for key in ("name", *_SEAT))
        if rival and not same:
            return f"port {port.name} has {port.address} for {port.instance} already"
    return ""


def _refusal_of(order: Operation, wired: Wired | None) -> str:
    """Why an order to adopt does not fit what others have wired."""
    if wired is None or wired.task != order["task_id"] or wired.interface != order["interface"]:
        return f"interface {order['interface']} of the container does not lead to {order['port']}"
    asked = {order["address"]: order["prefix"]}
    if order.get("address6"):
        asked[order["address6"]] = order["prefix6"]
    for address, prefix in asked.items():
        if wired.addresses.get(address) != prefix:
            return f"{wired.interface} does not have {address}/{prefix}"
    if others := wired.addresses.keys() - asked.keys():
        return f"{wired.interface} has {', '.join(sorted(others))} as well"
    if wired.vlan != order.get("vlan"):
        return f"port {wired.port} is in VLAN {wired.vlan}, not in {order.get('vlan')}"
    return wired.problem


_SEAT = ("start", "address", "instance")


def mac_for(address: str) -> str:
    """As the module gives them: 02:00 and the octets of IPv4, 06:00 and a hash of IPv6."""
    number = ip_address(address)
    if number.version == 4:
        return (b"\x02\x00" + number.packed).hex(":")
    return (b"\x06\x00" + sha256(number.packed).digest()[:4]).hex(":")
