"""Who may say what through a port: the OpenFlow rules that let only the leased addresses and their MAC speak.

    priority  from this port                                               then
    60090     a frame that is tagged already                               drop: tagged
    60080     what a DHCP server or a router says                          drop: dhcp, nd
    60070     to a network that the pool is barred from (ARP, IP, ND)      drop: barred
    60060     ARP and neighbour discovery about its own addresses only     forward
    60055     IPv6 to a link-local address, if anything is barred          drop: barred
    60050     IP from its own addresses                                    forward
    60040     ARP, neighbour discovery, IP with its MAC, not as above      drop: arp, nd, address
    60035     with its MAC: whatever is neither ARP nor IP                 drop: other
    60030     anything, so with another MAC                                drop: mac

Every drop has a rule of its own for each reason, so that the switch itself counts by reason.  Barred networks
are kept apart without state: what one side sends is dropped at its own port, and so is what the other would
answer.  Link-local addresses are in no network that could be barred, so among ports with something barred
they carry neighbour discovery only.

Below the guards one rule (`base_rules`) lets all other ports of the bridge, uplinks among them, forward as a
plain switch does.  Ports of ours have numbers from a range of their own (`FIRST_NUMBER`), and from that range
the base rule forwards nothing.  A port of ours whose guards are missing, for whatever reason, is silent.

A rule is recognised by its cookie, from the top: 12 bits that say "Mooring", 16 of the owner (0: the base
rules, which are the same for every owner), 20 of the port's name, 16 of the rule itself.  What a rule matches
is thus told by its cookie, and two sets of rules are compared without reading how a version of Open vSwitch
prints a match.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from .netlink import Address, Network, mac_bytes

REASONS = ("address", "mac", "arp", "nd", "tagged", "dhcp", "barred", "other")
MAGIC = 0xA0B  # the top 12 bits of every cookie of ours
COMMON = 0  # in the owner's place: rules that do not depend on the owner
LIMITED = 0xFFFF  # in the owner's place: rules that send a port through its meter (see `metered_flows`)
BASE_TABLE = 250
FORWARD_TABLE = 251  # where what the guards let pass is forwarded, through the port's meter if it has one
FIRST_NUMBER, LAST_NUMBER = 0x4000, 0x7FFF  # of our ports; what Open vSwitch chooses itself begins at 1
DROP, FORWARD, PASS = "drop", "NORMAL", f"resubmit(,{FORWARD_TABLE})"
TAGGED, SERVERS, BARRED, OWN_ND, LOCAL, OWN_IP, SPOOFED, OTHER, REST = (
    60090, 60080, 60070, 60060, 60055, 60050, 60040, 60035, 60030,
)  # fmt: skip
_NOBODY_4, _NOBODY_6, _LINK_LOCAL = "0.0.0.0", "::", "fe80::/10"  # noqa: S104 (an address in a packet)
_ROUTER_SAYS = (134, 137)  # router advertisement, redirect
_GROUP_REPORTS = (131, 132, 143)  # multicast listener reports, sent from :: before there is an address


@dataclass(frozen=True)
class Guarded:
    """A port and who may speak through it: `addresses` of either family, `barred` networks."""

    name: str
    number: int
    mac: str
    addresses: tuple[Address, ...]
    barred: tuple[Network, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One OpenFlow rule of ours; `reason` says why it drops, "" if it does not."""

    cookie: int
    table: int
    priority: int
    match: str
    actions: str
    reason: str = ""

    @property
    def text(self) -> str:
        """As `ovs-ofctl` reads it."""
        match = f"{self.match}," if self.match else ""
        return (
            f"cookie={self.cookie:#x},table={self.table},priority={self.priority},{match}"
            f"actions={self.actions}"
        )

    @property
    def seen(self) -> tuple[int, int, int, str]:
        """What identifies it when it is read back."""
        return (self.cookie, self.table, self.priority, self.actions)


def owner_of(cookie: int) -> int | None:
    """The owner's part of a cookie of ours (COMMON: the base rules); None for a cookie of somebody else."""
    return cookie >> 36 & 0xFFFF if cookie >> 52 == MAGIC else None


def owner_part(owner: str) -> int:
    """The owner's part of its cookies, never COMMON nor LIMITED."""
    return min(_hash("owner", owner, bits=16) or 1, LIMITED - 1)


def guards_for(owner: str, port: Guarded) -> list[Rule]:
    """All rules of one port."""
    prefix = MAGIC << 52 | owner_part(owner) << 36 | _hash(owner, port.name, bits=20) << 16
    return [
        _rule(prefix, 0, priority, f"in_port={port.number}{match and ','}{match}", actions, reason)
        for priority, match, actions, reason in _guards(port)
    ]


def forward_rules() -> list[Rule]:
    """What happens to what the guards let pass, where the port has no meter."""
    return [_rule(MAGIC << 52 | COMMON << 36, FORWARD_TABLE, 0, "", FORWARD, "")]


def base_rules(foreign: Iterable[int]) -> list[Rule]:
    """What ports without guards may do; `foreign`: numbers of our range that somebody else's ports have."""
    prefix = MAGIC << 52 | COMMON << 36
    ours = f"reg0={FIRST_NUMBER:#x}/{0xFFFF - (LAST_NUMBER - FIRST_NUMBER):#x}"
    number = f"move:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],resubmit(,{BASE_TABLE})"
    rules = [_rule(prefix, 0, 0, "", number, ""), _rule(prefix, BASE_TABLE, 0, "", FORWARD, "")]
    rules.append(_rule(prefix, BASE_TABLE, 1, ours, DROP, "other"))
    rules += [_rule(prefix, BASE_TABLE, 2, f"reg0={port:#x}/0xffff", FORWARD, "") for port in sorted(foreign)]
    return rules


def link_local(mac: str) -> str:
    """The link-local address that a device makes of its MAC (EUI-64)."""
    six = mac_bytes(mac)
    host = bytes((six[0] ^ 2, *six[1:3], 0xFF, 0xFE, *six[3:]))
    return str(ipaddress.IPv6Address(b"\xfe\x80" + b"\0" * 6 + host))


_Guard = tuple[int, str, str, str]  # priority, match, actions, reason


def _guards(port: Guarded) -> Iterator[_Guard]:
    own = f"dl_src={port.mac},vlan_tci=0"
    four = [str(address) for address in port.addresses if address.version == 4]
    six = [str(address) for address in port.addresses if address.version == 6] + [link_local(port.mac)]
    yield TAGGED, "vlan_tci=0x1000/0x1000", DROP, "tagged"
    yield SERVERS, "udp,tp_src=67", DROP, "dhcp"
    yield SERVERS, "udp6,tp_src=547", DROP, "dhcp"
    for kind in _ROUTER_SAYS:
        yield SERVERS, f"icmp6,icmp_type={kind}", DROP, "nd"
    yield from _barred(port.barred)
    yield from _arp(own, port.mac, four)
    yield from _discovery(own, port.mac, six)
    yield from ((OWN_IP, f"ip,{own},nw_src={address}", PASS, "") for address in four)
    yield from ((OWN_IP, f"ipv6,{own},ipv6_src={address}", PASS, "") for address in six)
    yield SPOOFED, f"arp,{own}", DROP, "arp"
    yield SPOOFED, f"ip,{own}", DROP, "address"
    yield SPOOFED, f"ipv6,{own}", DROP, "address"
    yield OTHER, own, DROP, "other"
    yield REST, "", DROP, "mac"


def _barred(networks: Collection[Network]) -> Iterator[_Guard]:
    for network in networks:
        if network.version == 4:
            yield BARRED, f"ip,nw_dst={network}", DROP, "barred"
            yield BARRED, f"arp,arp_tpa={network}", DROP, "barred"
        else:
            yield BARRED, f"ipv6,ipv6_dst={network}", DROP, "barred"
            yield BARRED, f"icmp6,icmp_type=135,nd_target={network}", DROP, "barred"
    if networks:
        yield LOCAL, f"ipv6,ipv6_dst={_LINK_LOCAL}", DROP, "barred"


def _arp(own: str, mac: str, addresses: Collection[str]) -> Iterator[_Guard]:
    for address in addresses:
        yield OWN_ND, f"arp,{own},arp_sha={mac},arp_spa={address}", PASS, ""
        yield OWN_ND, f"arp,{own},arp_sha={mac},arp_spa={_NOBODY_4},arp_tpa={address}", PASS, ""


def _discovery(own: str, mac: str, addresses: Collection[str]) -> Iterator[_Guard]:
    """Solicitations and advertisements of its own addresses; an option that is absent reads as zeros."""
    link_layers = (mac, "00:00:00:00:00:00")
    solicits, advertises = f"icmp6,{own},icmp_type=135", f"icmp6,{own},icmp_type=136"
    for source in addresses:
        yield OWN_ND, f"{solicits},ipv6_src={_NOBODY_6},nd_target={source}", PASS, ""
        for link_layer in link_layers:
            yield OWN_ND, f"{solicits},ipv6_src={source},nd_sll={link_layer}", PASS, ""
            for target in addresses:
                match = f"{advertises},ipv6_src={source},nd_target={target},nd_tll={link_layer}"
                yield OWN_ND, match, PASS, ""
    for kind in _GROUP_REPORTS:
        yield OWN_ND, f"icmp6,{own},icmp_type={kind},ipv6_src={_NOBODY_6}", PASS, ""
    # Above the rule for its own addresses: an advertisement of theirs about somebody else's ends here.
    for match in (solicits, advertises):
        yield OWN_IP + 1, match, DROP, "nd"


def _rule(prefix: int, table: int, priority: int, match: str, actions: str, reason: str) -> Rule:
    cookie = prefix | _hash(str(table), str(priority), match, actions, bits=16)
    return Rule(cookie, table, priority, match, actions, reason)


def _hash(*parts: str, bits: int) -> int:
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)
