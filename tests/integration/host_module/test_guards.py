"""Isolation on a real switch: what a container's root may say, who keeps the rules, and who restores them."""

from __future__ import annotations

import itertools
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import committing
from mooring.playbooks.module_utils.mooring_host.errors import Retry
from mooring.playbooks.module_utils.mooring_host.guards import FIRST_NUMBER, link_local, owner_of
from mooring.playbooks.module_utils.mooring_host.host import Host, Settings
from mooring.playbooks.module_utils.mooring_host.isolation import Isolation
from mooring.playbooks.module_utils.mooring_host.namespaces import NetworkNamespace
from mooring.playbooks.module_utils.mooring_host.openflow import Flow, read_flows
from mooring.playbooks.module_utils.mooring_host.operations import perform

from .rig import BRIDGE, HostRig, run, until
from .speaking import ARP, IP, IPV6, Wire, arp, arrives, ethernet, icmpv6, inside, ipv4, ipv6, udp, wires
from .test_ports import attached, order, ours, removal

pytestmark = pytest.mark.root
_sixes = itertools.count(0x100)
OPERATORS = "cookie=0x77,table=0,priority=7,udp,tp_dst=7777,actions=NORMAL"


@pytest.fixture(scope="module", autouse=True)
def guardian(rig: HostRig) -> Iterator[None]:
    with rig.guardian():
        yield


@dataclass
class Speaker:
    """A container of ours, and its wire."""

    order: dict[str, Any]
    container: str
    port: str
    mac: str
    address: str
    namespace: str


def speaker(rig: HostRig, **changes: Any) -> Speaker:
    asked, container, port = attached(rig, **changes)
    namespace = inside(rig, container)
    links = json.loads(run("nsenter", f"--net={namespace}", "ip", "-j", "link", "show", "eth0"))
    return Speaker(asked, container, port, links[0]["address"], asked["address"], namespace)


def with_ipv6(rig: HostRig, **changes: Any) -> Speaker:
    return speaker(rig, address=f"fd00:64::{next(_sixes):x}", prefix=64, gateway=None, **changes)


def dropped(rig: HostRig, who: Speaker) -> dict[str, int]:
    """Packets of the port that were dropped, by reason, as the host reports them."""
    for _ in range(2):  # one round of the revalidators may have begun before the last packet
        rig.appctl("revalidator/wait")
    [port] = ours(rig, who.address)
    assert port["guarded"]
    return {reason: count for reason, count in port["dropped"].items() if count}


def flows(rig: HostRig) -> list[Flow]:
    return read_flows(rig.ofctl("dump-flows"))


def heard(rig: HostRig, who: Speaker, frames: dict[str, bytes], good: bytes) -> set[str]:
    """Which of the container's frames reach a stranger or the host; `good` is one that does for certain."""
    with rig.stranger(NEIGHBOUR):
        [his] = [name for name in run("ip", "netns", "list").split() if name.startswith(f"{rig.name}-st")]
        ends = (who.namespace, "eth0"), (f"/run/netns/{his}", "eth0"), (f"/run/netns/{rig.name}", BRIDGE)
        with wires(*ends) as (mouth, *ears):
            arrives(mouth.say(good), *ears)
            signs = {name: mouth.say(frame) for name, frame in frames.items()}
            # A wire keeps the order: when this one has arrived, those before it have, or never will.
            arrives(mouth.say(good), *ears)
            return {name for name, sign in signs.items() if any(ear.heard(sign) for ear in ears)}


Make = Callable[[Speaker], bytes]
NEIGHBOUR, NEIGHBOUR_MAC = "10.64.3.250", "02:00:0a:40:03:fa"
NEIGHBOUR6 = "fd00:64::250"
FALSE_4: dict[str, tuple[Make, str]] = {
    "another's address": (
        lambda me: ethernet(me.mac, IP, ipv4(NEIGHBOUR, "10.64.0.1", udp(9, 9))), "address"),
    "no address": (lambda me: ethernet(me.mac, IP, ipv4("0.0.0.0", "10.64.0.1", udp(68, 67))), "address"),
    "another's MAC": (
        lambda me: ethernet(NEIGHBOUR_MAC, IP, ipv4(me.address, "10.64.0.1", udp(9, 9))), "mac"),
    "another's ARP sender": (lambda me: ethernet(me.mac, ARP, arp(me.mac, NEIGHBOUR, "10.64.0.1")), "arp"),
    "gratuitous ARP for another": (
        lambda me: ethernet(me.mac, ARP, arp(me.mac, NEIGHBOUR, NEIGHBOUR, reply=True)), "arp"),
    "its address at another's MAC": (
        lambda me: ethernet(me.mac, ARP, arp(NEIGHBOUR_MAC, me.address, me.address)), "arp"),
    "tagged": (
        lambda me: ethernet(me.mac, ARP, arp(me.mac, me.address, "10.64.0.1"), vlan=100), "tagged"),
    "priority-tagged": (
        lambda me: ethernet(me.mac, ARP, arp(me.mac, me.address, "10.64.0.1"), vlan=0), "tagged"),
    "DHCP server": (
        lambda me: ethernet(me.mac, IP, ipv4(me.address, "255.255.255.255", udp(67, 68))), "dhcp"),
    "another protocol": (lambda me: ethernet(me.mac, 0x88CC, b"\x02\x07"), "other"),
}  # fmt: skip
FALSE_6: dict[str, tuple[Make, str]] = {
    "another's address": (
        lambda me: ethernet(me.mac, IPV6, ipv6(NEIGHBOUR6, "ff02::1", udp(9, 9))), "address"),
    "advertisement for another": (
        lambda me: ethernet(me.mac, IPV6, ipv6(me.address, "ff02::1", icmpv6(136, NEIGHBOUR6, me.mac), 58)),
        "nd"),
    "another's MAC in an advertisement": (
        lambda me: ethernet(
            me.mac, IPV6, ipv6(me.address, "ff02::1", icmpv6(136, me.address, NEIGHBOUR_MAC), 58)),
        "nd"),
    "another's MAC in a solicitation": (
        lambda me: ethernet(
            me.mac, IPV6, ipv6(me.address, "ff02::1", icmpv6(135, NEIGHBOUR6, NEIGHBOUR_MAC, 1), 58)),
        "nd"),
    "router advertisement": (
        lambda me: ethernet(me.mac, IPV6, ipv6(link_local(me.mac), "ff02::1", icmpv6(134, "::"), 58)), "nd"),
    "DHCP server": (lambda me: ethernet(me.mac, IPV6, ipv6(me.address, "ff02::1", udp(547, 546))), "dhcp"),
    "another's MAC": (
        lambda me: ethernet(NEIGHBOUR_MAC, IPV6, ipv6(me.address, "ff02::1", udp(9, 9))), "mac"),
}  # fmt: skip


def test_no_lie_of_ipv4_reaches_anybody_and_each_is_counted(rig: HostRig) -> None:
    who = speaker(rig)
    good = ethernet(who.mac, ARP, arp(who.mac, who.address, NEIGHBOUR))
    # What differs from a lie in one field only is heard, else its silence would prove nothing.
    true = {"true": ethernet(who.mac, IP, ipv4(who.address, "10.64.0.1", udp(9, 9)))}
    lies = {name: make(who) for name, (make, _) in FALSE_4.items()}
    assert heard(rig, who, {**lies, **true}, good) == {"true"}
    assert dropped(rig, who) == Counter(reason for _, reason in FALSE_4.values())


def test_no_lie_of_ipv6_reaches_anybody_and_each_is_counted(rig: HostRig) -> None:
    who = with_ipv6(rig)
    good = ethernet(who.mac, IPV6, ipv6(who.address, "ff02::1", icmpv6(136, who.address, who.mac), 58))
    true = {"true": ethernet(who.mac, IPV6, ipv6(who.address, "ff02::1", udp(9, 9)))}
    lies = {name: make(who) for name, (make, _) in FALSE_6.items()}
    assert heard(rig, who, {**lies, **true}, good) == {"true"}
    assert dropped(rig, who) == Counter(reason for _, reason in FALSE_6.values())


def test_a_probe_port_is_there_until_the_new_port_has_its_own_place(
    rig: HostRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the datapath may give the new port the place of the probe, and count the probe's frames there."""
    seen: list[int] = []
    isolate = committing.isolate

    def looking(host: Host, **named: Any) -> Isolation:
        seen.append(len(host.switch().probes))
        return isolate(host, **named)

    monkeypatch.setattr(committing, "isolate", looking)
    who = speaker(rig, detect=True)
    assert seen == [1]
    assert not [name for name in rig.ports() if name.startswith("mp")]
    assert dropped(rig, who) == {}


def _ping(who: Speaker, target: str) -> None:
    run("nsenter", f"--net={who.namespace}", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", target)


def _connect(who: Speaker, target: str) -> None:
    opened = NetworkNamespace(who.namespace)
    try:
        with opened.entered():
            connection = socket.create_connection((target, 8080), timeout=5)
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1")
        connection.close()
    finally:
        opened.close()


def _datagram(rig: HostRig, sender: Speaker, receiver: Speaker, group: str | None = None) -> None:
    """UDP from one to the other, or through a multicast group that the other joins."""
    family = socket.AF_INET6 if ":" in sender.address else socket.AF_INET
    here, there = NetworkNamespace(sender.namespace), NetworkNamespace(receiver.namespace)
    try:
        with there.entered():
            hearing = socket.socket(family, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("eth0")
            hearing.bind(("", 5353))
            if group and family == socket.AF_INET:
                member = struct.pack("4s4si", socket.inet_aton(group), b"\0" * 4, index)
                hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            elif group:
                member = socket.inet_pton(family, group) + struct.pack("i", index)
                hearing.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        with here.entered():
            saying = socket.socket(family, socket.SOCK_DGRAM)
            device = socket.if_nametoindex("eth0")
            if family == socket.AF_INET:
                via = struct.pack("4s4si", b"\0" * 4, b"\0" * 4, device)
                saying.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, via)
            else:
                saying.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, device)
        hearing.settimeout(10)
        saying.sendto(b"to all", (group or receiver.address, 5353))
        assert hearing.recv(64) == b"to all"
        hearing.close()
        saying.close()
    finally:
        here.close()
        there.close()


def test_honest_traffic_of_ipv4_is_not_touched(rig: HostRig) -> None:
    one, two = speaker(rig), speaker(rig)
    _ping(one, two.address)
    until(lambda: rig.fetch(two.address) == two.order["task_id"], "an answer to the host")
    _connect(one, two.address)
    _datagram(rig, one, two)
    _datagram(rig, one, two, "239.1.2.3")
    assert (dropped(rig, one), dropped(rig, two)) == ({}, {})


def test_honest_traffic_of_ipv6_is_not_touched(rig: HostRig) -> None:
    one, two = with_ipv6(rig), with_ipv6(rig)
    _ping(one, two.address)
    _ping(one, f"{link_local(two.mac)}%eth0")
    _datagram(rig, one, two)
    _datagram(rig, one, two, "ff15::1:2")
    assert (dropped(rig, one), dropped(rig, two)) == ({}, {})


def test_what_is_barred_is_not_reached_from_either_side(rig: HostRig) -> None:
    one, two, third = speaker(rig), speaker(rig), speaker(rig)
    _ping(one, two.address)
    opened = NetworkNamespace(one.namespace)
    with opened.entered():
        standing = socket.create_connection((third.address, 8080), timeout=5)
    opened.close()
    [result] = rig.do({**one.order, "barred": [f"{two.address}/32"]})
    assert (result["status"], result["changed"], result["port"]) == ("done", True, one.port)
    assert ours(rig, one.address)[0]["barred"] == [f"{two.address}/32"]
    assert not rig.do({**one.order, "barred": [f"{two.address}/32"]})[0]["changed"]
    for sender, receiver in ((one, two), (two, one)):
        with pytest.raises(AssertionError):
            run("nsenter", f"--net={sender.namespace}", "ping", "-c", "1", "-W", "0.5", receiver.address)
    assert dropped(rig, one)["barred"] >= 2  # what it asked, and what it would have answered
    standing.sendall(b"GET / HTTP/1.0\r\n\r\n")
    assert standing.recv(64).startswith(b"HTTP/1"), "a connection to somebody else has gone on"
    standing.close()
    assert rig.do(one.order)[0]["changed"]
    _ping(one, two.address)


# -- the rules' life


def test_a_port_has_a_number_of_ours_and_detach_leaves_no_rule(rig: HostRig) -> None:
    asked, _, port = attached(rig)
    number = int(rig.vsctl("get", "Interface", port, "ofport"))
    assert number >= FIRST_NUMBER
    assert any(f"in_port={number}" in flow.match.split(",") for flow in flows(rig))
    assert rig.do(removal(asked))[0]["status"] == "done"
    assert not any(f"in_port={number}" in flow.match.split(",") for flow in flows(rig))


def test_a_second_run_does_not_touch_a_rule(rig: HostRig) -> None:
    asked, _, _ = attached(rig)
    before = ages(rig)
    assert not rig.do(asked)[0]["changed"]
    [told] = rig.do({"op": "observe", "id": "o", "fence": True})
    assert not told["changed"]
    now = ages(rig)
    assert {cookie: age for cookie, age in now.items() if age < before.get(cookie, 0)} == {}
    assert now.keys() == before.keys()


def ages(rig: HostRig) -> dict[str, float]:
    """Seconds since each rule was put in, by cookie."""
    found = re.findall(r"cookie=(\S+), duration=([\d.]+)s", rig.ofctl("dump-flows"))
    return {cookie: float(seconds) for cookie, seconds in found}


@pytest.mark.parametrize("damage", ["gone", "other actions", "one more"])
def test_rules_that_differ_are_mended_and_told(rig: HostRig, guardian: None, damage: str) -> None:
    asked, _, port = attached(rig)
    number = rig.vsctl("get", "Interface", port, "ofport")
    cookie = next(flow.cookie for flow in flows(rig) if f"in_port={number}" in flow.match.split(","))
    good = sorted(flow.seen for flow in flows(rig))
    if damage == "gone":
        rig.ofctl("del-flows", f"in_port={number}")
    elif damage == "other actions":
        rig.ofctl("mod-flows", f"in_port={number},actions=NORMAL")
    else:
        rig.ofctl("add-flow", f"cookie={cookie:#x},priority=65000,in_port={number},actions=NORMAL")
    # The guardian may have been faster; then there is nothing left to mend.
    harmed = sorted(flow.seen for flow in flows(rig)) != good
    assert rig.do(asked)[0]["changed"] or not harmed
    assert sorted(flow.seen for flow in flows(rig)) == good


def test_a_port_without_guards_is_silent(rig: HostRig) -> None:
    who = speaker(rig)
    number = rig.vsctl("get", "Interface", who.port, "ofport")
    good = ethernet(who.mac, ARP, arp(who.mac, who.address, NEIGHBOUR))
    with wires((who.namespace, "eth0"), (f"/run/netns/{rig.name}", BRIDGE)) as (mouth, ear):
        arrives(mouth.say(good), ear)
        rig.ofctl("del-flows", f"in_port={number}")
        lie = mouth.say(ethernet(NEIGHBOUR_MAC, ARP, arp(NEIGHBOUR_MAC, NEIGHBOUR, NEIGHBOUR)))
        rig.do(who.order)
        arrives(mouth.say(good), ear)
        assert not ear.heard(lie)


def test_guards_stand_before_the_port_comes_up(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = order(rig.container()[0])
    seen: list[bool] = []
    isolate = committing.isolate

    def looking(host: Host, **named: Any) -> Isolation:
        told = isolate(host, **named)
        [device] = [each for each in host.devices().values() if f":{asked['address']}:" in each.alias]
        seen.append(device.up or device.name not in told.guarded)
        return told

    monkeypatch.setattr(committing, "isolate", looking)
    assert rig.do(asked)[0]["status"] == "done"
    assert seen == [False]


def test_an_attach_without_guards_leaves_nothing(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = order(rig.container()[0])
    ports, devices, rules = rig.ports(), rig.devices(), sorted(flow.seen for flow in flows(rig))

    def failing(host: Host, **named: Any) -> Isolation:
        raise Retry("the rules cannot be read")

    with monkeypatch.context() as broken:
        broken.setattr(committing, "isolate", failing)
        [result] = rig.do(asked)
    assert (result["status"], "the rules cannot be read" in result["reason"]) == ("retry", True)
    assert (rig.ports(), rig.devices()) == (ports, devices)
    until(lambda: sorted(flow.seen for flow in flows(rig)) == rules, "the guardian to remove what was put in")
    assert rig.do(asked)[0]["status"] == "done"


def test_rules_of_a_port_that_vanished_go_with_the_next_call(rig: HostRig) -> None:
    _, _, port = attached(rig)
    number = rig.vsctl("get", "Interface", port, "ofport")
    rig.vsctl("del-port", BRIDGE, port)
    attached(rig)
    assert not any(f"in_port={number}" in flow.match.split(",") for flow in flows(rig))


def test_rules_and_ports_of_others_are_left_alone(rig: HostRig) -> None:
    attached(rig)  # it is secure by now
    rig.ofctl("add-flow", OPERATORS)
    foreign = f"fp{next(_sixes)}"
    rig.vsctl("add-port", BRIDGE, foreign, "--", "set", "Interface", foreign, "type=internal",
              f"ofport_request={FIRST_NUMBER + 5}")  # fmt: skip
    try:
        asked, _, _ = attached(rig)
        passing = [flow for flow in flows(rig) if flow.match == f"reg0={FIRST_NUMBER + 5:#x}/0xffff"]
        assert [flow.actions for flow in passing] == ["NORMAL"], "its number is of our range"
        rig.do(removal(asked), {"op": "observe", "id": "o", "fence": True})
        assert [flow.match for flow in flows(rig) if flow.cookie == 0x77] == ["udp,tp_dst=7777"]
    finally:
        rig.ofctl("del-flows", "cookie=0x77/-1")
        rig.vsctl("del-port", BRIDGE, foreign)


# -- the bridge


def test_the_bridge_is_secure_and_uplinks_forward(rig: HostRig) -> None:
    asked, _, _ = attached(rig)
    assert rig.vsctl("get-fail-mode", BRIDGE) == "secure"
    [told] = rig.do({"op": "observe", "id": "o"})
    assert told["isolation"] == {"fail_mode": "secure", "reason": ""}
    until(lambda: rig.fetch(asked["address"]) == asked["task_id"], "an answer")


@pytest.mark.parametrize(
    ("setup", "word"),
    [
        ((), "no guardian"),
        (("--", "set-controller", "hm-plain", "punix:/nowhere/at.all"), "controller"),
        (("--", "set-fail-mode", "hm-plain", "standalone"), "del-fail-mode"),
    ],
)
def test_a_bridge_stays_as_it_is_where_secure_would_harm(
    rig: HostRig, setup: tuple[str, ...], word: str
) -> None:
    rig.vsctl("add-br", "hm-plain", "--", "set", "bridge", "hm-plain", "datapath_type=netdev", *setup)
    before = rig.vsctl("get-fail-mode", "hm-plain")
    try:
        told = _observe(rig, "hm-plain")
        assert word in told["isolation"]["reason"]
        assert rig.vsctl("get-fail-mode", "hm-plain") == before
    finally:
        rig.vsctl("del-br", "hm-plain")


def test_rules_of_others_would_be_lost_and_keep_a_bridge_from_becoming_secure(rig: HostRig) -> None:
    rig.vsctl("add-br", "hm-plain", "--", "set", "bridge", "hm-plain", "datapath_type=netdev")
    target = f"unix:{rig.directory}/hm-plain.mgmt"
    try:
        until(lambda: "NORMAL" in run("ovs-ofctl", "dump-flows", target, check=False), "the bridge")
        run("ovs-ofctl", "add-flow", target, "cookie=0x77,priority=0,actions=drop")
        told = _observe(rig, "hm-plain")
        assert "rules of others" in told["isolation"]["reason"]
        assert "cookie=0x77" in run("ovs-ofctl", "dump-flows", target)
    finally:
        rig.vsctl("del-br", "hm-plain")


def _observe(rig: HostRig, bridge: str) -> dict[str, Any]:
    settings = Settings(owner="mooring", epoch=1, bridge=bridge, database=rig.database,
                        engine=rig.engine, state_dir=rig.state_dir)  # fmt: skip
    assert rig.namespace is not None
    with rig.namespace.entered():
        [told] = perform(settings, [{"op": "observe", "id": "o", "fence": True}])
    return told


# -- the guardian


def _lying(wire: Wire, who: Speaker, stop: threading.Event) -> Iterator[bytes]:
    while not stop.wait(0.01):
        try:
            yield wire.say(ethernet(NEIGHBOUR_MAC, ARP, arp(NEIGHBOUR_MAC, NEIGHBOUR, NEIGHBOUR)))
        except OSError:  # the queue is full while nobody takes anything off the wire
            continue


def test_the_guardian_restores_what_a_killed_switch_daemon_lost(rig: HostRig) -> None:
    who = speaker(rig)
    until(lambda: rig.fetch(who.address) == who.order["task_id"], "an answer before")
    good = sorted(flow.seen for flow in flows(rig))
    stop = threading.Event()
    with wires((who.namespace, "eth0"), (f"/run/netns/{rig.name}", BRIDGE)) as (mouth, ear):
        lies: list[bytes] = []
        liar = threading.Thread(target=lambda: lies.extend(_lying(mouth, who, stop)))
        liar.start()
        try:
            rig.switch_daemon.kill()
            rig.switch_daemon.wait(10)
            rig.start_switch_daemon()
            until(lambda: rig.fetch(who.address) == who.order["task_id"], "an answer after the start")
        finally:
            stop.set()
            liar.join()
        assert len(lies) > 3
        assert not any(ear.heard(lie) for lie in lies), "something false has passed meanwhile"
    assert sorted(flow.seen for flow in flows(rig)) == good
    assert not rig.do(who.order)[0]["changed"]


def test_the_guardian_outlives_database_and_bridge(rig: HostRig) -> None:
    def ruled() -> bool:
        told = run("ovs-ofctl", "-O", "OpenFlow14", "dump-flows", target, check=False)
        return any(owner_of(flow.cookie) is not None for flow in read_flows(told))

    target = f"unix:{rig.directory}/hm-kept.mgmt"
    with rig.guardian("hm-kept") as process:
        for _ in range(2):
            rig.vsctl("add-br", "hm-kept", "--", "set", "bridge", "hm-kept", "datapath_type=netdev")
            until(ruled, "the base rules")
            rig.vsctl("del-br", "hm-kept")
        assert process.poll() is None
