"""Frames, said and heard on the wires of a test host: by its containers as root, and by strangers."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mooring.playbooks.module_utils.mooring_host.namespaces import NetworkNamespace
from mooring.playbooks.module_utils.mooring_host.openflow import Flow, read_flows

from .rig import BRIDGE, HostRig, run, until
from .test_ports import attached, ours

ETH_P_ALL = 0x0003
ARP, IP, IPV6, VLAN = 0x0806, 0x0800, 0x86DD, 0x8100
BROADCAST = "ff:ff:ff:ff:ff:ff"
NEIGHBOUR, NEIGHBOUR_MAC = "10.64.3.250", "02:00:0a:40:03:fa"
NEIGHBOUR6 = "fd00:64::250"
_numbers = itertools.count(1)
_sixes = itertools.count(0x100)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def ethernet(source: str, kind: int, payload: bytes, to: str = BROADCAST, vlan: int | None = None) -> bytes:
    tag = b"" if vlan is None else struct.pack("!HH", VLAN, vlan)
    return mac(to) + mac(source) + tag + struct.pack("!H", kind) + payload


def arp(sha: str, spa: str, tpa: str, *, reply: bool = False) -> bytes:
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2 if reply else 1)
    return header + mac(sha) + packed(spa) + b"\0" * 6 + packed(tpa)


def udp(source: int, target: int) -> bytes:
    return struct.pack("!HHHH", source, target, 8, 0)


def ipv4(source: str, target: str, payload: bytes, protocol: int = 17) -> bytes:
    length = 20 + len(payload)
    return struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, protocol, 0) + packed(source) + packed(
        target
    ) + payload  # fmt: skip


def ipv6(source: str, target: str, payload: bytes, protocol: int = 17) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
    return header + packed(source) + packed(target) + payload


def icmpv6(kind: int, target: str, link_layer: str = "", option: int = 2) -> bytes:
    """A solicitation (135), an advertisement (136) or whatever has the same form."""
    tail = bytes((option, 1)) + mac(link_layer) if link_layer else b""
    return struct.pack("!BBHI", kind, 0, 0, 0x20000000 if kind == 136 else 0) + packed(target) + tail


class Wire:
    """The end of a wire inside a network namespace."""

    def __init__(self, path: str, device: str) -> None:
        self._namespace = NetworkNamespace(path)
        with self._namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((device, ETH_P_ALL))
        self._socket.setblocking(False)
        self._heard: list[bytes] = []

    def close(self) -> None:
        self._socket.close()
        self._namespace.close()

    def say(self, frame: bytes) -> bytes:
        """Send it with something behind it by which it is known; returns that."""
        sign = b"sign" + struct.pack("!I", next(_numbers))
        self._socket.send(frame.ljust(60, b"\0") + sign)
        return sign

    def heard(self, sign: bytes) -> bool:
        """Whether a frame with that sign has arrived."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._heard.append(self._socket.recv(2048))
        return any(sign in frame for frame in self._heard)


def inside(rig: HostRig, container: str) -> str:
    """The path of a container's network namespace."""
    return f"/proc/{rig.docker('inspect', '-f', '{{.State.Pid}}', container)}/ns/net"


@contextlib.contextmanager
def wires(*ends: tuple[str, str]) -> Iterator[list[Wire]]:
    """One for each (namespace, device)."""
    with contextlib.ExitStack() as stack:
        made = [Wire(*end) for end in ends]
        for wire in made:
            stack.callback(wire.close)
        yield made


def arrives(sign: bytes, *listeners: Wire) -> None:
    """Wait until everybody has heard it."""
    for listener in listeners:
        until(lambda listener=listener: listener.heard(sign), "a frame to arrive")  # type: ignore[misc]


@dataclass
class Speaker:
    """A container of ours, and its wire."""

    order: dict[str, Any]
    container: str
    port: str
    mac: str
    address: str
    namespace: str
    interface: str = "eth0"


def speaker(rig: HostRig, **changes: Any) -> Speaker:
    return speaker_of(rig, *attached(rig, **changes))


def speaker_of(
    rig: HostRig, asked: dict[str, Any], container: str, port: str, interface: str = "eth0"
) -> Speaker:
    """A container that is wired already."""
    namespace = inside(rig, container)
    links = json.loads(run("nsenter", f"--net={namespace}", "ip", "-j", "link", "show", interface))
    return Speaker(asked, container, port, links[0]["address"], asked["address"], namespace, interface)


def with_ipv6(rig: HostRig, **changes: Any) -> Speaker:
    return speaker(rig, address=f"fd00:64::{next(_sixes):x}", prefix=64, gateway=None, **changes)


def heard(rig: HostRig, who: Speaker, frames: dict[str, bytes], good: bytes) -> set[str]:
    """Which of the container's frames reach a stranger or the host; `good` is one that does for certain."""
    with rig.stranger(NEIGHBOUR):
        [his] = [name for name in run("ip", "netns", "list").split() if name.startswith(f"{rig.name}-st")]
        ends = (
            (who.namespace, who.interface),
            (f"/run/netns/{his}", "eth0"),
            (f"/run/netns/{rig.name}", BRIDGE),
        )
        with wires(*ends) as (mouth, *ears):
            arrives(mouth.say(good), *ears)
            signs = {name: mouth.say(frame) for name, frame in frames.items()}
            # A wire keeps the order: when this one has arrived, those before it have, or never will.
            arrives(mouth.say(good), *ears)
            return {name for name, sign in signs.items() if any(ear.heard(sign) for ear in ears)}


def lies_of(who: Speaker) -> tuple[dict[str, bytes], bytes]:
    """False frames of each kind that a guard knows by another sign, and a true one."""
    true = ethernet(who.mac, ARP, arp(who.mac, who.address, NEIGHBOUR))
    lies = {
        "address": ethernet(who.mac, IP, ipv4(NEIGHBOUR, "10.64.0.1", udp(9, 9))),
        "mac": ethernet(NEIGHBOUR_MAC, IP, ipv4(who.address, "10.64.0.1", udp(9, 9))),
        "arp": ethernet(who.mac, ARP, arp(who.mac, NEIGHBOUR, "10.64.0.1")),
    }
    return lies, true


def has_rules(rig: HostRig, number: int) -> bool:
    """Whether any rule is for the port with that number."""
    return any(f"in_port={number}" in flow.match.split(",") for flow in flows(rig))


def number_of(rig: HostRig, port: str) -> int:
    """By which the switch knows a port."""
    return int(rig.vsctl("get", "Interface", port, "ofport"))


def dropped(rig: HostRig, who: Speaker) -> dict[str, int]:
    """Packets of the port that were dropped, by reason, as the host reports them."""
    for _ in range(2):  # one round of the revalidators may have begun before the last packet
        rig.appctl("revalidator/wait")
    [port] = ours(rig, who.address)
    assert port["guarded"]
    return {reason: count for reason, count in port["dropped"].items() if count}


def flows(rig: HostRig) -> list[Flow]:
    return read_flows(rig.ofctl("dump-flows"))
