"""Gateways on a real switch: routed and with NAT, for guests of another host, and gone without a trace."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import routing
from mooring.playbooks.module_utils.mooring_host.namespaces import NetworkNamespace

from .fabric_rig import FabricHost, FabricRig
from .rig import BRIDGE, run, until

pytestmark = pytest.mark.root
OUT, OUTSIDE = "198.51.100.1", "198.51.100.9"
OUT6, OUTSIDE6 = "2001:db8:ff::1", "2001:db8:ff::9"


@pytest.fixture
def host(fabric: FabricRig) -> Iterator[FabricHost]:
    """The first host, in a mesh with the others; it loses every gateway afterwards."""
    fabric.mesh()
    yield fabric.hosts[0]
    fabric.hosts[0].wire(order())
    for each in fabric.hosts:
        each.wire(fabric.order(each, []))


@dataclass
class Outside:
    """A namespace behind the gateway host."""

    name: str
    ear: socket.socket

    def route(self, to: str, via: str) -> None:
        run("ip", "-n", self.name, "route", "replace", to, "via", via)

    def sources(self) -> set[str]:
        """Who has sent ICMP echo requests so far."""
        found: set[str] = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = self.ear.recv(2048)
                if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 8:
                    found.add(socket.inet_ntoa(frame[26:30]))
        return found


@pytest.fixture
def outside(host: FabricHost) -> Iterator[Outside]:
    name = f"{host.name}-out"
    run("ip", "netns", "add", name)
    run("ip", "-n", host.name, "link", "add", "mgmt0", "type", "veth", "peer", "name", "eth0", "netns", name)
    for namespace, device, addresses in (
        (host.name, "mgmt0", (OUT, OUT6)),
        (name, "eth0", (OUTSIDE, OUTSIDE6)),
    ):
        run("ip", "-n", namespace, "addr", "add", f"{addresses[0]}/24", "dev", device)
        run("ip", "-n", namespace, "addr", "add", f"{addresses[1]}/64", "dev", device, "nodad")
        run("ip", "-n", namespace, "link", "set", device, "up")
    place = NetworkNamespace(f"/run/netns/{name}")
    with place.entered():
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(0x0003))
    ear.bind(("eth0", 3))
    yield Outside(name, ear)
    ear.close()
    place.close()
    run("ip", "-n", host.name, "link", "del", "mgmt0")
    run("ip", "netns", "del", name)


def one(pool: str = "web", **changes: Any) -> dict[str, Any]:
    """The gateway of one pool."""
    return {
        "pool": pool,
        "address": "10.67.0.1",
        "prefix": 24,
        "vlan": 100,
        "mtu": 1446,
        "nat": False,
        **changes,
    }


def order(*gateways: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"op": "gateway", "id": "g", "gateways": list(gateways), **changes}


def made(host: FabricHost, *gateways: dict[str, Any]) -> dict[str, Any]:
    [result] = host.wire(order(*gateways))
    assert result["status"] == "done", result
    return result


def forwards(host: FabricHost, version: int = 4) -> str:
    name = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}[version]
    return run("ip", "netns", "exec", host.name, "sysctl", "-n", name)


def ports(host: FabricHost) -> list[str]:
    return [port for port in host.ports() if port.startswith("mg")]


def addresses(host: FabricHost, device: str) -> set[str]:
    told = host.links()[device]["addr_info"]
    return {f"{each['local']}/{each['prefixlen']}" for each in told if each["scope"] == "global"}


def test_routed_the_outside_sees_the_containers_own_address(
    fabric: FabricRig, host: FabricHost, outside: Outside
) -> None:
    outside.route("10.67.0.0/24", OUT)
    made(host, one())
    with fabric.guests((1, "10.67.0.9/24")) as (guest,):
        guest.route("10.67.0.1")
        assert guest.ping(OUTSIDE)
        assert outside.sources() == {guest.address}


def test_with_nat_the_outside_sees_the_hosts_address(
    fabric: FabricRig, host: FabricHost, outside: Outside
) -> None:
    made(host, one(nat=True))
    with fabric.guests((1, "10.67.0.9/24")) as (guest,):
        guest.route("10.67.0.1")
        assert guest.ping(OUTSIDE)
        assert outside.sources() == {OUT}


def test_between_two_pools_nobody_is_masked(fabric: FabricRig, host: FabricHost) -> None:
    second = one("other", address="10.67.1.1", vlan=200, nat=True)
    made(host, one(nat=True), second)
    with (
        fabric.guests((1, "10.67.0.9/24"), vlan=100) as (guest,),
        fabric.guests((2, "10.67.1.9/24"), vlan=200) as (peer,),
    ):
        guest.route("10.67.0.1")
        peer.route("10.67.1.1")
        with peer.namespace.entered():
            ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with guest.namespace.entered():
            mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with ear, mouth:
            ear.bind(("", 5000))
            ear.settimeout(5)
            assert guest.ping(peer.address)
            mouth.sendto(b"who am I?", (peer.address, 5000))
            assert ear.recvfrom(100)[1][0] == guest.address


def test_ipv6_is_routed(fabric: FabricRig, host: FabricHost, outside: Outside) -> None:
    run("ip", "-n", outside.name, "-6", "route", "replace", "fd00:67::/64", "via", OUT6)
    made(host, one(address="fd00:67::1", prefix=64))
    assert forwards(host, 6) == "1"
    with fabric.guests((1, "fd00:67::9/64")) as (guest,):
        run("ip", "-n", guest.name, "-6", "route", "replace", "default", "via", "fd00:67::1")
        assert guest.ping(OUTSIDE6)


def test_a_second_run_changes_nothing_and_a_check_neither(host: FabricHost) -> None:
    wanted = [one(nat=True), one("six", address="fd00:67::1", prefix=64, vlan=None, nat=True)]
    [planned] = host.wire(order(*wanted, check=True))
    assert (planned["changed"], planned["added"], ports(host)) == (True, ["six", "web"], [])
    assert "masquerade" not in host.nft()
    assert forwards(host) == "0"
    assert made(host, *wanted)["changed"]
    again = made(host, *wanted)
    assert (again["changed"], again["added"], again["mended"], again["removed"]) == (False, [], [], [])


def test_what_somebody_took_away_is_mended(host: FabricHost) -> None:
    made(host, one(nat=True))
    [port] = ports(host)
    run("ip", "-n", host.name, "addr", "flush", "dev", port)
    run("ip", "-n", host.name, "addr", "add", "10.99.0.1/24", "dev", port)
    run("ip", "netns", "exec", host.name, "nft", "flush", "chain", "inet", "mooring_mooring", "postrouting")
    host.vsctl("set", "port", port, "tag=7")
    mended = made(host, one(nat=True))
    assert mended["mended"] == ["web", "web: address", "masquerade"]
    assert addresses(host, port) == {"10.67.0.1/24"}
    assert "masquerade" in host.nft()
    assert host.vsctl("get", "port", port, "tag") == "100"
    assert not made(host, one(nat=True))["changed"]


def test_a_pool_that_is_gone_leaves_nothing(host: FabricHost) -> None:
    second = one("other", address="10.67.1.1", vlan=200, nat=True)
    made(host, one(nat=True), second)
    assert forwards(host) == "1"
    gone = made(host, second)
    assert gone["removed"] == ["web"]
    assert len(ports(host)) == 1
    assert "10.67.0.0/24" not in host.nft()
    assert "10.67.1.0/24" in host.nft()
    made(host)
    assert ports(host) == []
    assert not [link for link in host.links() if link.startswith("mg")]
    assert "mooring" not in host.nft()
    assert forwards(host) == "0"


def test_forwarding_that_was_on_before_stays_on(host: FabricHost) -> None:
    run("ip", "netns", "exec", host.name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    try:
        made(host, one())
        made(host)
        assert forwards(host) == "1"
    finally:
        run("ip", "netns", "exec", host.name, "sysctl", "-qw", "net.ipv4.ip_forward=0")


def test_the_table_of_somebody_else_is_left_alone(host: FabricHost) -> None:
    inside = ("ip", "netns", "exec", host.name, "nft")
    run(*inside, "add", "table", "inet", "mooring_other")
    try:
        made(host, one(nat=True))
        made(host)
        assert "mooring_other" in host.nft()
    finally:
        run(*inside, "delete", "table", "inet", "mooring_other")


def test_without_nft_a_pool_with_nat_is_refused_and_the_others_served(
    host: FabricHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "_nft", lambda: None)
    second = one("other", address="10.67.1.1", vlan=200)
    [result] = host.wire(order(one(nat=True), second))
    assert result["status"] == "refused"
    assert "pool web" in result["reason"]
    assert "install nftables" in result["reason"]
    [port] = ports(host)
    assert addresses(host, port) == {"10.67.1.1/24"}


def test_a_gateway_has_the_mac_of_its_address_and_announces_it(host: FabricHost) -> None:
    made(host, one(vlan=None))
    [port] = ports(host)
    assert host.links()[port]["address"] == "02:00:0a:43:00:01"
    run("ip", "-n", host.name, "link", "set", BRIDGE, "up")
    count = host.listen_for_announcements("10.67.0.1")
    run("ip", "-n", host.name, "addr", "flush", "dev", port)
    made(host, one(vlan=None))
    until(lambda: count() >= 1, "the announcement")


def test_an_address_that_somebody_has_is_not_taken(fabric: FabricRig, host: FabricHost) -> None:
    second = one("other", address="10.67.1.1", vlan=200)
    with fabric.guests((1, "10.67.0.1/24")) as (stranger,):
        [result] = host.wire(order(one(), second))
        assert result["status"] == "retry"
        assert stranger.mac in result["reason"]
        assert "pool web" in result["reason"]
        assert sorted(addresses(host, port) for port in ports(host)) == [set(), {"10.67.1.1/24"}]
    assert made(host, one(), second)["mended"] == ["web: address, link"]


def test_a_gateway_moves_when_the_other_host_has_let_go(fabric: FabricRig, host: FabricHost) -> None:
    other = fabric.hosts[2]
    made(host, one())
    try:
        with fabric.guests((1, "10.67.0.9/24")) as (guest,):
            assert guest.ping("10.67.0.1")
            assert other.wire(order(one()))[0]["status"] == "retry"
            assert guest.ping("10.67.0.1")
            made(host)
            made(other, one())
            assert guest.ping("10.67.0.1")
    finally:
        made(other)


def test_a_host_restores_its_gateways_by_itself(
    fabric: FabricRig, host: FabricHost, outside: Outside
) -> None:
    made(host, one(nat=True), one("six", address="fd00:67::1", prefix=64, vlan=None))
    assert not host.restore()
    host.reboot()
    assert [addresses(host, port) for port in ports(host)] == [set(), set()]
    assert host.restore()
    assert not host.restore()
    assert "masquerade" in host.nft()
    with fabric.guests((1, "10.67.0.9/24")) as (guest,):
        guest.route("10.67.0.1")
        assert guest.ping(OUTSIDE, tries=20)
    again = made(host, one(nat=True), one("six", address="fd00:67::1", prefix=64, vlan=None))
    assert not again["changed"]


def test_an_older_daemon_is_turned_away(host: FabricHost) -> None:
    [newest] = host.wire(order(one()), epoch=9)
    assert newest["status"] == "done"
    [late] = host.wire(order(), epoch=8)
    assert late["status"] == "stale"
    assert len(ports(host)) == 1
    host.vsctl("clear", "Bridge", BRIDGE, "external_ids")


@pytest.mark.parametrize(
    ("gateways", "words"),
    [
        ([one(), one(address="10.67.1.1")], "same pool"),
        ([one(), one("other")], "same address"),
        ([one(vlan=5000)], "vlan"),
        ([one(prefix=33)], "prefix"),
        ([one(address="everywhere")], "is not an IP address"),
    ],
)
def test_what_cannot_be_is_told_in_words(
    host: FabricHost, gateways: list[dict[str, Any]], words: str
) -> None:
    [result] = host.wire(order(*gateways))
    assert result["status"] == "refused"
    assert words in result["reason"]
    assert json.dumps(result)
    assert ports(host) == []
