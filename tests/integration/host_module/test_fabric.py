"""Tunnels between three hosts: what crosses them, what does not, and that nothing goes round."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from mooring.playbooks.module_utils.mooring_host.namespaces import NetworkNamespace

from .fabric_rig import FLAT, FabricHost, FabricRig, Guest
from .rig import BRIDGE, HostRig, run, until

pytestmark = pytest.mark.root
EXPERIMENTAL = 0x88B5  # IEEE: for local use
IGMP = 2
GROUP = "239.64.0.7"
_numbers = itertools.count(10)


@pytest.fixture(autouse=True)
def _torn_down(fabric: FabricRig) -> Iterator[None]:
    yield
    for host in fabric.hosts:
        host.wire(fabric.order(host, []))


def two(fabric: FabricRig) -> tuple[FabricHost, FabricHost]:
    return fabric.hosts[0], fabric.hosts[1]


def tunnels(host: FabricHost) -> list[str]:
    return [port for port in host.ports() if port.startswith("mx")]


def heard(host: FabricHost) -> bool:
    """Whether every peer of the host is heard."""
    [result] = host.wire({**order_of(host), "check": True})
    return all(tunnel["heard"] for tunnel in result["tunnels"]) and len(result["tunnels"]) > 0


def order_of(host: FabricHost) -> dict[str, object]:
    return {"op": "fabric", "id": "f", "local": host.tunnel_address, "vni": 1, "port": 4789, "peers": []}


def resolves(host: FabricHost, peer: FabricHost) -> bool:
    """Whether the switch of the host knows the MAC of the peer's tunnel address."""
    return peer.tunnel_address in run("ovs-appctl", "-t", f"{host.directory}/vswitchd.ctl", "tnl/neigh/show")


@contextlib.contextmanager
def listening(namespace: NetworkNamespace, kind: int) -> Iterator[Callable[[], list[bytes]]]:
    """Frames of a kind that reach `eth0`; the function gives all that have come so far."""
    with namespace.entered():
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(kind))
    ear.bind(("eth0", kind))
    seen: list[bytes] = []

    def frames() -> list[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                seen.append(ear.recv(2048))
        return seen

    with ear:
        yield frames


def shout(guest: Guest, text: bytes) -> None:
    """Broadcast a frame that nobody answers."""
    with guest.namespace.entered():
        mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with mouth:
        mouth.bind(("eth0", 0))
        mouth.send(
            b"\xff" * 6 + b"\x02\x00\x00\x00\x00\x01" + struct.pack("!H", EXPERIMENTAL) + text.ljust(50)
        )


def test_a_ping_crosses_with_its_own_address(fabric: FabricRig) -> None:
    fabric.mesh()
    with fabric.guests((0, "10.66.0.1/24"), (1, "10.66.0.2/24")) as (one, other):
        with listening(other.namespace, 0x0800) as frames:
            assert one.ping(other.address)
            sources = {
                socket.inet_ntoa(frame[26:30]) for frame in frames() if frame[23] == socket.IPPROTO_ICMP
            }
        assert sources == {one.address}


def test_a_second_run_changes_nothing_and_a_check_neither(fabric: FabricRig) -> None:
    host, _ = two(fabric)
    [planned] = host.wire({**fabric.order(host), "check": True})
    assert (planned["status"], planned["changed"], planned["added"]) == ("done", True, ["h2", "h3"])
    assert tunnels(host) == []
    [made] = host.wire(fabric.order(host))
    assert (made["changed"], made["added"], made["mtu"]) == (True, ["h2", "h3"], 1500)
    before = sorted(tunnels(host))
    [again] = host.wire(fabric.order(host))
    assert (again["status"], again["changed"], again["added"], again["removed"]) == ("done", False, [], [])
    assert sorted(tunnels(host)) == before


def test_what_somebody_changed_by_hand_is_mended(fabric: FabricRig) -> None:
    host, _ = two(fabric)
    host.wire(fabric.order(host))
    first, second = tunnels(host)
    host.vsctl("set", "port", first, "protected=false")
    host.vsctl("set", "interface", first, "options:key=5")
    host.vsctl("del-port", second)
    [mended] = host.wire(fabric.order(host))
    assert mended["status"] == "done", mended
    assert (mended["changed"], len(mended["added"]), len(mended["mended"])) == (True, 1, 1)
    assert {host.vsctl("get", "port", name, "protected") for name in tunnels(host)} == {"true"}
    assert not host.wire(fabric.order(host))[0]["changed"]


def test_a_broadcast_reaches_each_host_once(fabric: FabricRig) -> None:
    fabric.mesh()
    places = [(index, f"10.66.1.{index + 1}/24") for index in range(3)]
    with fabric.guests(*places) as guests, contextlib.ExitStack() as stack:
        assert all(guests[0].ping(guest.address) for guest in guests[1:])
        ears = [stack.enter_context(listening(guest.namespace, EXPERIMENTAL)) for guest in guests]
        for number in range(20):
            shout(guests[0], b"%d" % number)
        until(lambda: all(len(ear()) >= 20 for ear in ears[1:]), "the broadcasts")
        # A loop has no end: had one frame gone round, more would come until the tunnels are gone.
        assert all(guests[1].ping(guest.address) for guest in guests[::2])
        assert [len(ear()) for ear in ears[1:]] == [20, 20]


def test_another_vni_is_another_network(fabric: FabricRig) -> None:
    host, other = two(fabric)
    host.wire(fabric.order(host, [other]))
    other.wire(fabric.order(other, [host], vni=78))
    with fabric.guests((0, "10.66.2.1/24"), (1, "10.66.2.2/24")) as (one, two_):
        assert not one.ping(two_.address, tries=2)
        other.wire(fabric.order(other, [host]))
        assert one.ping(two_.address)


def test_vlans_stay_apart_in_one_tunnel(fabric: FabricRig) -> None:
    fabric.mesh()
    with (
        fabric.guests((0, "10.66.3.1/24"), (1, "10.66.3.2/24"), vlan=100) as (one, other),
        fabric.guests((0, "10.66.3.3/24"), (1, "10.66.3.4/24"), vlan=200) as (third, fourth),
    ):
        assert one.ping(other.address)
        assert third.ping(fourth.address)
        assert not one.ping(fourth.address, tries=2)
        assert not third.ping(other.address, tries=2)


def test_packets_of_the_pools_mtu_pass_and_larger_ones_do_not(fabric: FabricRig) -> None:
    fabric.mesh()
    headers = 28  # IPv4 and ICMP
    with fabric.guests((0, "10.66.4.1/24"), (1, "10.66.4.2/24"), mtu=1500) as (one, other):
        assert one.ping(other.address, size=1446 - headers)
        assert not one.ping(other.address, size=1447 - headers, tries=2)


def test_tunnels_over_ipv6_leave_twenty_bytes_less(fabric: FabricRig) -> None:
    for host, other in (two(fabric), two(fabric)[::-1]):
        peer = {"name": f"h{other.number}", "address": other.tunnel_address6}
        [result] = host.wire(fabric.order(host, local=host.tunnel_address6, peers=[peer]))
        assert result["status"] == "done", result
    headers = 28
    with fabric.guests((0, "10.66.11.1/24"), (1, "10.66.11.2/24"), mtu=1500) as (one, other_guest):
        assert one.ping(other_guest.address, size=1426 - headers)
        assert not one.ping(other_guest.address, size=1427 - headers, tries=2)


def test_the_tunnels_of_a_host_that_left_go(fabric: FabricRig) -> None:
    fabric.mesh()
    host, other = two(fabric)
    with fabric.guests((0, "10.66.5.1/24"), (1, "10.66.5.2/24"), (2, "10.66.5.3/24")) as (one, two_, three):
        assert one.ping(three.address)
        for left in (host, other):
            [result] = left.wire(fabric.order(left, [other if left is host else host]))
            assert result["removed"] == ["h3"]
        assert one.ping(two_.address)
        assert not one.ping(three.address, tries=2)


def test_a_peer_that_is_silent_is_told(fabric: FabricRig) -> None:
    fabric.mesh()
    host, other = two(fabric)
    until(lambda: heard(host), "every peer to be heard")
    run("ip", "-n", other.name, "link", "set", "nic0", "down")
    try:
        until(lambda: not heard(host), "the silence of a peer to be noticed")
    finally:
        run("ip", "-n", other.name, "link", "set", "nic0", "up")
    until(lambda: heard(host), "every peer to be heard again")


def test_the_first_packet_finds_the_tunnel_resolved(fabric: FabricRig) -> None:
    host, other = two(fabric)
    for each in fabric.hosts:
        run("ovs-appctl", "-t", f"{each.directory}/vswitchd.ctl", "tnl/neigh/flush")
    fabric.mesh()
    until(lambda: heard(host) and heard(other), "every peer to be heard, with nobody else on the wire")
    assert resolves(host, other)
    assert resolves(other, host)
    with fabric.guests((0, "10.66.6.1/24"), (1, "10.66.6.2/24")) as (one, two_):
        assert one.ping(two_.address, tries=1)


def test_containers_and_tunnels_are_never_taken_for_each_other(fabric: FabricRig) -> None:
    fabric.mesh()
    host, _ = two(fabric)
    [seen] = host.wire({"op": "observe", "id": "o", "fence": True})
    assert (seen["ports"], seen["orphans"], len(seen["fixtures"])) == ([], [], 2)
    [result] = host.wire(
        {"op": "detach", "id": "d", "instance": "h2", "address": "192.0.2.2", "task_id": None}
    )
    assert (result["status"], result["removed"]) == ("done", [])
    assert len(tunnels(host)) == 2


def test_an_older_daemon_and_a_late_call_are_turned_away(fabric: FabricRig) -> None:
    host, _ = two(fabric)
    newest = host.wire(fabric.order(host), epoch=5)[0]
    assert newest["status"] == "done"
    assert host.wire(fabric.order(host, []), epoch=4)[0]["status"] == "stale"
    assert host.wire(fabric.order(host, []), epoch=5, number=1)[0]["status"] == "retry"
    assert len(tunnels(host)) == 2
    host.vsctl("clear", "Bridge", BRIDGE, "external_ids")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"local": "192.0.2.99"}, "is not on this host"),
        ({"local": "127.0.0.1"}, "is no bridge of Open vSwitch"),
        ({"local": "192.0.2.77"}, "a port of br-mooring itself"),
        ({"local": None}, "needs a tunnel address of its own"),
        ({"vni": 1 << 24}, "vni"),
        ({"peers": [{"name": "h2", "address": "192.0.2.1"}]}, "needs a tunnel address of its own"),
        ({"peers": [{"name": "h2", "address": "fd00::2"}]}, "two families"),
        ({"peers": ["h2"]}, "list of objects"),
    ],
)
def test_what_cannot_be_is_told_in_words(fabric: FabricRig, changes: dict[str, object], words: str) -> None:
    host, _ = two(fabric)
    run("ip", "-n", host.name, "addr", "replace", "192.0.2.77/32", "dev", BRIDGE)
    [result] = host.wire(fabric.order(host, **changes))
    assert result["status"] in ("refused", "retry")
    assert words in result["reason"]
    assert tunnels(host) == []


def test_attached_containers_reach_each_other_through_the_tunnel(rig: HostRig, fabric: FabricRig) -> None:
    fabric.mesh()
    tasks = []
    for host in two(fabric):
        number = next(_numbers)
        task, container = rig.container()
        [result] = host.wire({
            "op": "attach", "id": "a", "task_id": task, "app": "/shop", "slot": number, "instance": task,
            "address": f"10.66.7.{number}", "prefix": 24, "gateway": None, "routes": [], "vlan": 100,
            "mtu": 1446, "generation": 1, "detect": True,
        })  # fmt: skip
        assert result["status"] == "done", result
        tasks.append((container, f"10.66.7.{number}"))
    try:
        (container, _), (_, address) = tasks
        until(lambda: "instance" in fetch(rig, container, address), "the other's answer")
    finally:
        for host, (_, address) in zip(two(fabric), tasks, strict=True):
            host.wire({"op": "detach", "id": "d", "instance": None, "address": address})


def fetch(rig: HostRig, container: str, address: str) -> str:
    """What the web server at the address tells a container; "" for nothing."""
    namespace = NetworkNamespace(f"/proc/{rig.docker('inspect', '-f', '{{.State.Pid}}', container)}/ns/net")
    connection = http.client.HTTPConnection(address, 8080, timeout=2.0)
    try:
        with namespace.entered():
            connection.connect()
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    except OSError:
        return ""
    finally:
        connection.close()
        namespace.close()


# -- multicast


@contextlib.contextmanager
def member(guest: Guest, port: int) -> Iterator[socket.socket]:
    """A receiver that has joined the group: the kernel sends the IGMP report."""
    with guest.namespace.entered():
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ear:
        ear.settimeout(0.2)
        ear.bind(("", port))
        request = socket.inet_aton(GROUP) + socket.inet_aton(guest.address)
        ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        yield ear


def sends(guest: Guest, port: int, text: bytes) -> None:
    with guest.namespace.entered():
        mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with mouth:
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(guest.address))
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
        mouth.sendto(text, (GROUP, port))


def hears(ear: socket.socket, sender: Guest, port: int) -> list[tuple[bytes, str]]:
    """What comes within a few sendings of one datagram; the first may find a switch that learns."""
    heard: list[tuple[bytes, str]] = []
    deadline = time.monotonic() + 5
    while not heard and time.monotonic() < deadline:
        sends(sender, port, b"to all")
        with contextlib.suppress(TimeoutError):
            data, (source, _) = ear.recvfrom(100)
            heard.append((data, source))
    return heard


@pytest.mark.parametrize("bridge", [BRIDGE, FLAT], ids=["vxlan", "flat"])
def test_multicast_reaches_a_member_on_another_host(fabric: FabricRig, bridge: str) -> None:
    if bridge == BRIDGE:
        fabric.mesh()
    port = 5000 + next(_numbers)
    with fabric.guests((0, "10.66.8.1/24"), (1, "10.66.8.2/24"), bridge=bridge) as (sender, receiver):
        assert sender.ping(receiver.address)
        with listening(sender.namespace, 0x0800) as passing, member(receiver, port) as ear:
            assert hears(ear, sender, port) == [(b"to all", sender.address)]
            until(lambda: any(frame[23] == IGMP for frame in passing()), "the report of the member")


def test_with_snooping_a_member_behind_a_tunnel_is_not_forgotten(fabric: FabricRig) -> None:
    """A member on the sender's own host must not keep the data there."""
    fabric.mesh()
    port = 5000 + next(_numbers)
    host, other = two(fabric)
    for each in (host, other):
        each.vsctl("set", "bridge", BRIDGE, "mcast_snooping_enable=true")
    places = ((0, "10.66.10.1/24"), (0, "10.66.10.2/24"), (1, "10.66.10.3/24"))
    groups = ("ovs-appctl", "-t", f"{host.directory}/vswitchd.ctl", "mdb/show", BRIDGE)
    try:
        with fabric.guests(*places) as (sender, near, far):
            assert sender.ping(far.address)
            with member(near, port) as near_ear, member(far, port) as far_ear:
                until(lambda: GROUP in run(*groups), "the switch to learn the near member")
                assert hears(near_ear, sender, port) == [(b"to all", sender.address)]
                assert hears(far_ear, sender, port) == [(b"to all", sender.address)]
    finally:
        for each in (host, other):
            each.vsctl("set", "bridge", BRIDGE, "mcast_snooping_enable=false")


def test_vlans_cross_a_flat_trunk_and_stay_apart(fabric: FabricRig) -> None:
    with (
        fabric.guests((0, "10.66.9.1/24"), (1, "10.66.9.2/24"), vlan=100, bridge=FLAT) as (one, other),
        fabric.guests((1, "10.66.9.3/24"), vlan=200, bridge=FLAT) as (third,),
    ):
        assert one.ping(other.address)
        assert not one.ping(third.address, tries=2)
