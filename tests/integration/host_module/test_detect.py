"""Duplicate-address detection on a real switch: who is heard, who is not, and what a probe leaves behind."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import detect
from mooring.playbooks.module_utils.mooring_host.announce import gratuitous_arp
from mooring.playbooks.module_utils.mooring_host.netlink import mac_bytes
from mooring.playbooks.module_utils.mooring_host.wire import ETHERTYPE_ARP, frame_for, read_frame

from .rig import BRIDGE, HostRig, run
from .test_ports import order, ours

pytestmark = pytest.mark.root
MAC = "0e:00:00:00:00:77"


def asked(rig: HostRig, **changes: Any) -> dict[str, Any]:
    """An attach that asks for detection, for a container of its own."""
    return order(rig.container()[0], detect=True, **changes)


def probe_ports(rig: HostRig) -> set[str]:
    """Names of probe ports, on the switch and as devices."""
    return {name for name in (*rig.ports(), *rig.devices()) if name.startswith("mp")}


@pytest.mark.parametrize("vlans", [(30, 31), (30, None), (None, 30)])
def test_only_who_is_in_the_same_vlan_is_heard(rig: HostRig, vlans: tuple[int | None, int | None]) -> None:
    his, ours_ = vlans
    here, there = asked(rig, vlan=his), asked(rig, vlan=ours_)
    with rig.stranger(here["address"], vlan=his) as mac, rig.stranger(there["address"], vlan=his):
        conflict, free = rig.do(here, there)
    assert (conflict["status"], conflict["answered_by"]) == ("conflict", [mac])
    assert (free["status"], free["changed"]) == ("done", True)
    assert probe_ports(rig) == set()


def test_many_addresses_are_probed_in_one_window(rig: HostRig) -> None:
    orders = [asked(rig) for _ in range(6)]
    with rig.stranger(orders[1]["address"]), rig.stranger(orders[4]["address"]):
        statuses = [result["status"] for result in rig.do(*orders)]
    assert statuses == ["done", "conflict", "done", "done", "conflict", "done"]


def test_ipv6_is_asked_by_neighbour_solicitation(rig: HostRig) -> None:
    taken, free = (
        asked(rig, address=address, prefix=64, gateway=None) for address in ("fd00:64::7", "fd00:64::8")
    )
    with rig.stranger("fd00:64::7", prefix=64) as mac:
        conflict, attached = rig.do(taken, free)
    assert (conflict["status"], conflict["answered_by"]) == ("conflict", [mac])
    assert attached["status"] == "done"


@contextlib.contextmanager
def saying(rig: HostRig, device: str, frame: bytes) -> Iterator[None]:
    """Somebody sends the frame through a device of the switch, again and again."""
    stop = threading.Event()
    assert rig.namespace is not None
    with rig.namespace.entered():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((device, 0))

    def say() -> None:
        while not stop.wait(0.02):
            sender.send(frame)

    thread = threading.Thread(target=say)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sender.close()


def test_what_is_said_in_another_vlan_is_nobodys_business(rig: HostRig) -> None:
    rig.vsctl("add-port", BRIDGE, "elsewhere", "tag=30", "--", "set", "Interface", "elsewhere",
              "type=internal")  # fmt: skip
    run("ip", "-n", rig.name, "link", "set", "elsewhere", "up")
    untagged, tagged = asked(rig), asked(rig, vlan=30)
    try:
        for wish, status in ((untagged, "done"), (tagged, "conflict")):
            claim = gratuitous_arp(MAC, ipaddress.ip_address(wish["address"]))
            with saying(rig, "elsewhere", claim):
                assert rig.do(wish)[0]["status"] == status
    finally:
        rig.vsctl("del-port", BRIDGE, "elsewhere")


@pytest.mark.parametrize("address", ["10.64.3.200", "fd00:64::200"])
def test_who_probes_at_the_same_moment_is_waited_for(rig: HostRig, address: str) -> None:
    prefix = 64 if ":" in address else 22
    wish = asked(rig, address=address, prefix=prefix, gateway=None)
    with saying(rig, BRIDGE, frame_for(ipaddress.ip_address(address), mac_bytes(MAC))):
        [result] = rig.do(wish)
    assert (result["status"], result["changed"]) == ("retry", False)
    assert MAC in result["reason"]
    assert rig.do(wish)[0]["status"] == "done"


def test_what_a_call_that_was_cut_off_left_goes_with_the_next(rig: HostRig) -> None:
    rig.vsctl("add-port", BRIDGE, "mpleft", "--", "set", "Interface", "mpleft", "type=internal",
              "--", "set", "Port", "mpleft", "external_ids:mooring-probe=mooring")  # fmt: skip
    rig.vsctl("add-port", BRIDGE, "mpother", "--", "set", "Interface", "mpother", "type=internal",
              "--", "set", "Port", "mpother", "external_ids:mooring-probe=another")  # fmt: skip
    assert rig.do(asked(rig))[0]["status"] == "done"
    assert probe_ports(rig) == {"mpother"}
    rig.vsctl("del-port", BRIDGE, "mpother")


def test_a_wire_that_cannot_be_probed_is_no_leave_to_attach(
    rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "APPLY_TIMEOUT_S", 0.3)
    switch = rig.switch_daemon
    wish, unasked = asked(rig), order(rig.container()[0])
    os.kill(switch.pid, signal.SIGSTOP)
    try:
        [result] = rig.do(wish)
    finally:
        os.kill(switch.pid, signal.SIGCONT)
    assert (result["status"], result["changed"]) == ("retry", False)
    assert "port to probe from" in result["reason"]
    assert ours(rig, wish["address"]) == []
    assert [each["status"] for each in rig.do(wish, unasked)] == ["done", "done"]
    assert probe_ports(rig) == set()


def test_a_stale_caller_does_not_even_probe(rig: HostRig) -> None:
    wish = asked(rig)
    rig.do({"op": "observe", "id": "o", "fence": True}, epoch=9)
    try:
        [result] = rig.do(wish, epoch=8)
        assert result["status"] == "stale"
        assert "epoch 8 is stale" in result["reason"]
        assert probe_ports(rig) == set()
    finally:
        rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")


def test_check_mode_leaves_the_switch_alone(rig: HostRig) -> None:
    wish = asked(rig)
    before = rig.vsctl("get", "Bridge", BRIDGE, "external_ids", "ports")
    with rig.stranger(wish["address"]):
        ports = rig.vsctl("get", "Bridge", BRIDGE, "external_ids", "ports")
        assert rig.do(wish, check=True)[0]["status"] == "done"
        assert rig.vsctl("get", "Bridge", BRIDGE, "external_ids", "ports") == ports
    assert rig.vsctl("get", "Bridge", BRIDGE, "external_ids", "ports") == before


def test_all_probes_of_a_host_come_from_one_mac(rig: HostRig) -> None:
    assert rig.namespace is not None
    with rig.namespace.entered():
        listener = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETHERTYPE_ARP)
        )
    listener.bind((BRIDGE, ETHERTYPE_ARP))
    addresses = set()
    for _ in range(2):
        wish = asked(rig)
        addresses.add(wish["address"])
        assert rig.do(wish)[0]["status"] == "done"
    seen: dict[str, set[str]] = {}
    with contextlib.suppress(BlockingIOError), contextlib.closing(listener):
        while True:
            heard = read_frame(listener.recv(64))
            if heard is not None and heard.probes and str(heard.address) in addresses:
                seen.setdefault(heard.mac, set()).add(str(heard.address))
    assert list(seen.values()) == [addresses]
