"""The rules of a port: a small model of the switch asks them about frames."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host.errors import Refused, Retry
from mooring.playbooks.module_utils.mooring_host.guards import (
    BASE_TABLE,
    COMMON,
    DROP,
    FIRST_NUMBER,
    LAST_NUMBER,
    REASONS,
    Guarded,
    Rule,
    base_rules,
    guards_for,
    link_local,
    owner_of,
    owner_part,
)
from mooring.playbooks.module_utils.mooring_host.isolation import guarded
from mooring.playbooks.module_utils.mooring_host.openflow import read_flows
from mooring.playbooks.module_utils.mooring_host.orders import Attach, parse
from mooring.playbooks.module_utils.mooring_host.planning import port_number

MAC, OTHER_MAC = "02:00:0a:00:00:05", "02:00:0a:00:00:06"
FOUR, SIX = "10.0.0.5", "fd00::5"
LOCAL = "fe80::aff:fe00:5"
PORT = Guarded(
    "p",
    0x4001,
    MAC,
    (ipaddress.ip_address(FOUR), ipaddress.ip_address(SIX)),
    (ipaddress.ip_network("10.9.0.0/24"), ipaddress.ip_network("fd09::/64")),
)
# What a keyword of a match stands for.
KINDS: dict[str, dict[str, Any]] = {
    "ip": {"type": 4},
    "ipv6": {"type": 6},
    "arp": {"type": "arp"},
    "udp": {"type": 4, "proto": "udp"},
    "udp6": {"type": 6, "proto": "udp"},
    "icmp6": {"type": 6, "proto": "icmp6"},
}


def frame(kind: str, **fields: str) -> dict[str, str]:
    """A frame from the port, by default with its own MAC."""
    return {"kind": kind, "dl_src": MAC, **fields}


def arp(**fields: str) -> dict[str, str]:
    return frame("arp", **{"arp_sha": MAC, "arp_spa": FOUR, "arp_tpa": "10.0.0.1", **fields})


def solicitation(**fields: str) -> dict[str, str]:
    return frame("icmp6", **{"icmp_type": "135", "ipv6_src": SIX, "ipv6_dst": "ff02::1:ff00:9",
                             "nd_target": "fd00::9", "nd_sll": MAC, **fields})  # fmt: skip


def advertisement(**fields: str) -> dict[str, str]:
    return frame("icmp6", **{"icmp_type": "136", "ipv6_src": SIX, "ipv6_dst": "fd00::9",
                             "nd_target": SIX, "nd_tll": MAC, **fields})  # fmt: skip


def fate(sent: dict[str, str], port: Guarded = PORT) -> str:
    """The reason for which the rules drop a frame; "" if they let it pass."""
    matching = [rule for rule in guards_for("mooring", port) if matches(rule, sent)]
    top = max(rule.priority for rule in matching)
    ends = {(rule.actions, rule.reason) for rule in matching if rule.priority == top}
    assert len(ends) == 1, "two rules of one priority must agree"
    return ends.pop()[1]


def matches(rule: Rule, sent: dict[str, str]) -> bool:
    return all(_holds(word, sent) for word in rule.match.split(","))


def _holds(word: str, sent: dict[str, str]) -> bool:
    key, _, value = word.partition("=")
    if not value:
        kind = KINDS.get(sent["kind"], {})
        return KINDS[key].items() <= kind.items()
    if key == "in_port":
        return value == str(PORT.number)
    if key == "vlan_tci":
        return ("vlan" in sent) == (value == "0x1000/0x1000")
    there = sent.get(key)
    if there is None:
        return value == "00:00:00:00:00:00"  # an option that is absent
    if "/" in value:
        return ipaddress.ip_address(there) in ipaddress.ip_network(value)
    return there == value


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (arp(), ""),
        (arp(arp_spa="0.0.0.0", arp_tpa=FOUR), ""),
        (arp(arp_tpa=FOUR), ""),  # gratuitous
        (arp(arp_spa="10.0.0.6"), "arp"),
        (arp(arp_spa="10.0.0.6", arp_tpa="10.0.0.6"), "arp"),
        (arp(arp_sha=OTHER_MAC), "arp"),
        (arp(arp_spa="0.0.0.0", arp_tpa="10.0.0.6"), "arp"),
        (arp(dl_src=OTHER_MAC), "mac"),
        (arp(arp_tpa="10.9.0.7"), "barred"),
        (frame("ip", nw_src=FOUR, nw_dst="10.0.0.1"), ""),
        (frame("ip", nw_src=FOUR, nw_dst="224.0.0.251"), ""),
        (frame("udp", nw_src=FOUR, nw_dst="255.255.255.255", tp_src="68"), ""),
        (frame("ip", nw_src="10.0.0.6", nw_dst="10.0.0.1"), "address"),
        (frame("ip", nw_src="0.0.0.0", nw_dst="255.255.255.255"), "address"),
        (frame("ip", nw_src=FOUR, nw_dst="10.0.0.1", dl_src=OTHER_MAC), "mac"),
        (frame("ip", nw_src=FOUR, nw_dst="10.9.0.7"), "barred"),
        (frame("udp", nw_src=FOUR, nw_dst="10.0.0.9", tp_src="67"), "dhcp"),
        (frame("udp6", ipv6_src=SIX, ipv6_dst="fd00::9", tp_src="547"), "dhcp"),
        (frame("ip", nw_src=FOUR, nw_dst="10.0.0.1", vlan="7"), "tagged"),
        (arp(vlan="0"), "tagged"),
        (frame("ipv6", ipv6_src=SIX, ipv6_dst="fd00::9"), ""),
        (frame("ipv6", ipv6_src=SIX, ipv6_dst="ff02::fb"), ""),
        (frame("ipv6", ipv6_src=LOCAL, ipv6_dst="ff02::fb"), ""),
        (frame("ipv6", ipv6_src="fd00::6", ipv6_dst="fd00::9"), "address"),
        (frame("ipv6", ipv6_src=LOCAL, ipv6_dst="fe80::6"), "barred"),
        (frame("ipv6", ipv6_src=SIX, ipv6_dst="fd09::7"), "barred"),
        (solicitation(), ""),
        (solicitation(ipv6_src=LOCAL, ipv6_dst="fe80::9", nd_target="fe80::9"), ""),
        (solicitation(ipv6_src="::", nd_target=SIX), ""),
        (solicitation(ipv6_src="::", nd_target="fd00::6"), "nd"),
        (solicitation(nd_sll=OTHER_MAC), "nd"),
        (solicitation(ipv6_src="fd00::6"), "nd"),
        (solicitation(nd_target="fd09::7"), "barred"),
        (advertisement(), ""),
        (advertisement(ipv6_src=LOCAL, nd_target=LOCAL, ipv6_dst="fe80::9"), ""),
        (advertisement(nd_target="fd00::6"), "nd"),
        (advertisement(nd_tll=OTHER_MAC), "nd"),
        (advertisement(ipv6_src="fd00::6"), "nd"),
        (frame("icmp6", icmp_type="134", ipv6_src=LOCAL, ipv6_dst="ff02::1"), "nd"),
        (frame("icmp6", icmp_type="137", ipv6_src=LOCAL, ipv6_dst=SIX), "nd"),
        (frame("icmp6", icmp_type="143", ipv6_src="::", ipv6_dst="ff02::16"), ""),
        (frame("icmp6", icmp_type="143", ipv6_src=LOCAL, ipv6_dst="ff02::16"), ""),
        (frame("icmp6", icmp_type="133", ipv6_src=LOCAL, ipv6_dst="ff02::2"), ""),
        (frame("lldp"), "other"),
        (frame("lldp", dl_src=OTHER_MAC), "mac"),
    ],
)  # fmt: skip
def test_who_may_say_what(sent: dict[str, str], reason: str) -> None:
    assert fate(sent) == reason


def test_without_anything_barred_link_local_neighbours_may_talk() -> None:
    free = Guarded(PORT.name, PORT.number, MAC, PORT.addresses)
    assert fate(frame("ipv6", ipv6_src=LOCAL, ipv6_dst="fe80::6"), free) == ""
    assert fate(frame("ip", nw_src=FOUR, nw_dst="10.9.0.7"), free) == ""


def test_a_port_with_one_family_says_nothing_in_the_other() -> None:
    only = Guarded(PORT.name, PORT.number, MAC, (ipaddress.ip_address(SIX),))
    assert fate(arp(), only) == "arp"
    assert fate(frame("ip", nw_src=FOUR, nw_dst="10.0.0.1"), only) == "address"


def test_the_link_local_address_is_that_of_the_kernel() -> None:
    assert link_local(MAC) == LOCAL


def test_rules_have_reasons_and_cookies_that_tell_whose_they_are() -> None:
    rules = guards_for("mooring", PORT)
    assert {rule.reason for rule in rules if rule.actions == DROP} == set(REASONS)
    assert not any(rule.reason for rule in rules if rule.actions != DROP)
    assert len({rule.cookie for rule in rules}) == len(rules)
    assert {owner_of(rule.cookie) for rule in rules} == {owner_part("mooring")}
    assert owner_part("mooring") != owner_part("another")
    assert {owner_of(rule.cookie) for rule in base_rules([])} == {COMMON}
    assert owner_of(0) is owner_of(0x77) is None
    assert all(rule.text.startswith(f"cookie={rule.cookie:#x},table=0,priority=") for rule in rules)


def test_another_number_makes_other_rules() -> None:
    moved = Guarded(PORT.name, PORT.number + 1, MAC, PORT.addresses, PORT.barred)
    before = {rule.seen for rule in guards_for("mooring", PORT)}
    assert before.isdisjoint({rule.seen for rule in guards_for("mooring", moved)})


def test_the_base_spares_foreign_ports_of_our_range() -> None:
    assert not any(rule.priority == 2 for rule in base_rules([]))
    [spared] = [rule for rule in base_rules([0x4003]) if rule.priority == 2]
    assert (spared.table, spared.match, spared.actions) == (BASE_TABLE, "reg0=0x4003/0xffff", "NORMAL")
    [fence] = [rule for rule in base_rules([]) if rule.actions == DROP]
    value, mask = (int(part, 16) for part in fence.match.partition("=")[2].split("/"))
    ours = {number for number in range(0x10000) if number & mask == value}
    assert ours == set(range(FIRST_NUMBER, LAST_NUMBER + 1))


def test_numbers_come_from_our_range_and_are_not_given_twice() -> None:
    first = port_number("p", set())
    second = port_number("p", {first, 7, None})
    assert first != second
    assert all(FIRST_NUMBER <= number <= LAST_NUMBER for number in (first, second))
    with pytest.raises(Retry, match="taken"):
        port_number("p", set(range(FIRST_NUMBER, LAST_NUMBER + 1)))


def test_marks_tell_who_may_speak() -> None:
    marks = {"address": FOUR, "address6": SIX, "barred": "10.9.0.0/24 fd09::/64"}
    assert guarded("p", PORT.number, marks) == PORT  # a port of an earlier version has no mark of its MAC
    assert guarded("p", PORT.number, {**marks, "mac": OTHER_MAC}).mac == OTHER_MAC  # type: ignore[union-attr]
    assert guarded("p", 1, {}) is None
    assert guarded("p", 1, {"address": "nonsense"}) is None
    assert guarded("p", 1, {**marks, "barred": "10.9.0.1/24"}) is None


BASE = "move:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],resubmit(,250)"
DUMP = f"""\
OFPST_FLOW reply (OF1.4) (xid=0x2):
 cookie=0xa0b0000000000001, duration=2s, table=0, n_packets=3, n_bytes=0, priority=10,arp actions=drop
 cookie=0x0, duration=1.1s, table=0, n_packets=0, n_bytes=0, idle_timeout=5, arp actions=NORMAL
 cookie=0x1, duration=0.003s, table=9, n_packets=0, n_bytes=0, priority=0 actions={BASE}
"""


def test_what_the_switch_prints_is_read() -> None:
    ours, plain, base = read_flows(DUMP)
    assert (ours.cookie, ours.table, ours.priority, ours.packets) == (0xA0B0000000000001, 0, 10, 3)
    assert (ours.match, ours.actions) == ("arp", "drop")
    assert (plain.priority, plain.actions) == (32768, "NORMAL")
    assert (base.table, base.priority, base.match, base.actions) == (9, 0, "", BASE)


ATTACH = {"op": "attach", "id": "b", "task_id": "t", "app": "/a", "slot": 0, "instance": "i",
          "address": FOUR, "prefix": 24, "generation": 1}  # fmt: skip


def test_barred_networks_are_put_in_one_order() -> None:
    order = parse({**ATTACH, "barred": ["fd09::/64", "10.9.0.0/24", "10.8.0.0/24", "10.9.0.0/24"]})
    assert isinstance(order, Attach)
    assert list(map(str, order.barred)) == ["10.8.0.0/24", "10.9.0.0/24", "fd09::/64"]


@pytest.mark.parametrize("barred", ["10.0.0.0/8", ["10.0.0.1/8"], [7], ["x"], [None], ["10.0.0.0/8"] * 1025])
def test_what_is_no_list_of_networks_is_refused(barred: object) -> None:
    with pytest.raises(Refused, match="attach: barred"):
        parse({**ATTACH, "barred": barred})
