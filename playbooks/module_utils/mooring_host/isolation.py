"""Keeping the switch's rules what our ports' marks say they shall be.

    1. read the rules, then the ports          in this order, see below
    2. work out what should be there           `guards`, from nothing but the marks in the database
    3. one bundle with the difference
    4. read again, until nothing differs

Attaching, detaching, observing with a fence and the guardian all call this, and each brings the whole bridge
into line, not only its own port: rules of ports that have vanished go, rules that somebody removed come back.
Two that work at the same time cannot disagree for long, because what they aim at stands in the database and
not in their memory; a rule is removed only if it was there before the ports were read, so that rules made
meanwhile for a new port stay.  Rules without our cookie are never touched.

The bridge becomes `secure`, so that it forwards nothing, rather than everything, when ovs-vswitchd has
started and the rules are not back yet.  Open vSwitch throws away all rules of a bridge, whosever they are,
when this is switched; and a secure bridge whose rules nobody restores cuts its host off.  So it is done only
where there are no rules of others and no controller, and where a guardian runs that will restore ours; else
the bridge stays as it is, with our guards in place, and the reason is reported.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .errors import Retry
from .guards import (
    COMMON,
    FIRST_NUMBER,
    FORWARD,
    LAST_NUMBER,
    LIMITED,
    Guarded,
    Rule,
    base_rules,
    forward_rules,
    guards_for,
    owner_of,
    owner_part,
)
from .host import APPLY_TIMEOUT_S, Host
from .links import mac_for
from .netlink import Address
from .openflow import Flow
from .ovsdb import Ovsdb, OvsdbStale, Row, first, mapping, members
from .switch import MARK, OWNER_MARK, PROBE_MARK
from .turns import is_taken

ATTEMPTS = 5
SECURE, STANDALONE = "secure", "standalone"


@dataclass(frozen=True)
class Bridge:
    """What the rules of a bridge depend on, as read at one moment."""

    name: str
    fail_mode: str  # "" if nobody has set it
    controlled: bool  # whether a controller is set
    ports: dict[str, Guarded]  # of this owner and with a number, by name
    foreign: frozenset[int]  # numbers of our range that ports of nobody of us have


@dataclass
class Isolation:
    """How a bridge was found and left."""

    changed: set[str] = field(default_factory=set)  # ports whose rules were not as they should be
    guarded: set[str] = field(default_factory=set)  # ports whose rules are in force
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)  # packets by port and reason
    fail_mode: str = STANDALONE
    reason: str = ""  # why it is not secure, or why there is no base rule
    base_changed: bool = False

    @property
    def mended(self) -> bool:
        """Whether anything had to be changed."""
        return self.base_changed or bool(self.changed)


def isolate(host: Host, *, secure: bool = True) -> Isolation:
    """Bring the rules of the bridge into line and read them back; raises Retry, or what the database raises.

    With `secure` the bridge is made so, where that does no harm.
    """
    told = Isolation()
    bridge, flows = _mend(host, told)
    if bridge.fail_mode == SECURE:
        return told
    hindrance = _hindrance(host, bridge, flows)
    if secure and not hindrance:
        hindrance = _make_secure(host, bridge)
        _mend(host, told)
    told.reason = hindrance or told.reason
    return told


def inspect(host: Host) -> Isolation:
    """The same without changing anything."""
    told = Isolation()
    flows = host.openflow.flows()
    bridge = read_bridge(host.database, host.settings)
    _report(told, _Wanted(host.settings.owner, bridge, flows), bridge, flows)
    if bridge.fail_mode != SECURE:
        told.reason = _hindrance(host, bridge, flows) or "it is made secure by the next attach"
    return told


def _mend(host: Host, told: Isolation) -> tuple[Bridge, list[Flow]]:
    for _ in range(ATTEMPTS):
        flows = host.openflow.flows()
        bridge = read_bridge(host.database, host.settings)
        wanted = _Wanted(host.settings.owner, bridge, flows)
        remove, add = wanted.difference(flows)
        if not (remove or add):
            _report(told, wanted, bridge, flows)
            return bridge, flows
        cookies = {*(flow.cookie for flow in remove), *(rule.cookie for rule in add)}
        told.changed.update(wanted.ports_of(cookies))
        told.base_changed |= any(owner_of(cookie) == COMMON for cookie in cookies)
        host.openflow.change(remove, add)
    raise Retry(f"the rules of bridge {host.settings.bridge} keep changing while ours are put in")


class _Wanted:
    """The rules that should be there, and whose they are."""

    def __init__(self, owner: str, bridge: Bridge, flows: Iterable[Flow]) -> None:
        self._owner = owner_part(owner)
        self.obstacle = _default_of_others(flows)
        self.rules = {name: guards_for(owner, port) for name, port in bridge.ports.items()}
        self.base = forward_rules() + ([] if self.obstacle else base_rules(bridge.foreign))

    def difference(self, flows: Iterable[Flow]) -> tuple[list[Flow], list[Rule]]:
        """What is there too much, and what is missing."""
        there = {flow.seen: flow for flow in flows if owner_of(flow.cookie) in (COMMON, self._owner)}
        due = {
            rule.seen: rule for rule in (*self.base, *(rule for each in self.rules.values() for rule in each))
        }
        remove = [flow for seen, flow in there.items() if seen not in due]
        return remove, [rule for seen, rule in due.items() if seen not in there]

    def ports_of(self, cookies: Iterable[int]) -> set[str]:
        """The ports, of those that there are, whose rules have these cookies."""
        parts = {cookie >> 16 for cookie in cookies}
        return {name for name, rules in self.rules.items() if rules[0].cookie >> 16 in parts}


def _report(told: Isolation, wanted: _Wanted, bridge: Bridge, flows: Iterable[Flow]) -> None:
    told.fail_mode, told.reason = bridge.fail_mode or STANDALONE, wanted.obstacle
    packets = {flow.seen: flow.packets for flow in flows}
    told.guarded = {
        name for name, rules in wanted.rules.items() if all(rule.seen in packets for rule in rules)
    }
    for name, rules in wanted.rules.items():
        counted: Counter[str] = Counter()
        for rule in rules:
            if rule.reason:
                counted[rule.reason] += packets.get(rule.seen, 0)
        told.dropped[name] = dict(counted)


def read_bridge(database: Ovsdb, settings: Any) -> Bridge:
    """Read the bridge with all its ports in one transaction; raises Retry if it does not exist."""
    bridge = settings.bridge
    bridges, ports, interfaces = database.transact([
        {"op": "select", "table": "Bridge", "where": [["name", "==", bridge]],
         "columns": ["ports", "fail_mode", "controller"]},
        {"op": "select", "table": "Port", "where": [],
         "columns": ["_uuid", "name", "interfaces", "external_ids"]},
        {"op": "select", "table": "Interface", "where": [], "columns": ["_uuid", "name", "ofport"]},
    ])  # fmt: skip
    if not bridges["rows"]:
        raise Retry(f"bridge {bridge} does not exist on this host; create it, with its uplink, first")
    row = bridges["rows"][0]
    present = {uuid for _, uuid in members(row["ports"])}
    numbers = {item["_uuid"][1]: first(item["ofport"]) for item in interfaces["rows"]}
    ours: dict[str, Guarded] = {}
    foreign: set[int] = set()
    for item in ports["rows"]:
        if item["_uuid"][1] in present:
            _sort(
                item,
                [numbers.get(uuid) for _, uuid in members(item["interfaces"])],
                settings.owner,
                ours,
                foreign,
            )
    return Bridge(
        name=bridge,
        fail_mode=first(row["fail_mode"]) or "",
        controlled=bool(members(row["controller"])),
        ports=ours,
        foreign=frozenset(foreign),
    )


def _sort(
    row: Row, numbers: list[int | None], owner: str, ours: dict[str, Guarded], foreign: set[int]
) -> None:
    """Put a port where it belongs: ours, another Mooring's (left to that), or somebody else's."""
    ids = mapping(row["external_ids"])
    marks = {key[len(MARK) :]: value for key, value in ids.items() if key.startswith(MARK)}
    valid = [number for number in numbers if number is not None and number > 0]
    if ids.get(OWNER_MARK) == owner:
        port = guarded(row["name"], valid[0], marks) if valid else None
        if port is not None:
            ours[port.name] = port
    elif OWNER_MARK not in ids and PROBE_MARK not in ids:
        foreign.update(number for number in valid if FIRST_NUMBER <= number <= LAST_NUMBER)


def guarded(name: str, number: int, marks: dict[str, str]) -> Guarded | None:
    """Who may speak through a port with these marks; None if they do not tell an address."""
    try:
        addresses: tuple[Address, ...] = tuple(
            ipaddress.ip_address(marks[key]) for key in ("address", "address6") if marks.get(key)
        )
        barred = tuple(ipaddress.ip_network(text) for text in marks.get("barred", "").split())
    except ValueError:
        return None  # somebody wrote into our marks; without guards the port is silent
    if not addresses:
        return None
    return Guarded(name, number, marks.get("mac") or mac_for(addresses[0]), addresses, barred)


# -- the fail mode


def _is_plain(flow: Flow) -> bool:
    """The rule that Open vSwitch itself gives to a bridge without a controller."""
    place = (flow.cookie, flow.table, flow.priority, flow.match)
    return place == (0, 0, 0, "") and flow.actions == FORWARD


def _default_of_others(flows: Iterable[Flow]) -> str:
    """Whether somebody else's rule stands where our base rule would: then ours are the guards alone."""
    for flow in flows:
        stands_there = (flow.table, flow.priority, flow.match) == (0, 0, "")
        if stands_there and owner_of(flow.cookie) is None and not _is_plain(flow):
            return f"the bridge has a default rule of somebody else's ({flow.actions})"
    return ""


def _hindrance(host: Host, bridge: Bridge, flows: Iterable[Flow]) -> str:
    """Why the bridge is not made secure; "" if nothing speaks against it."""
    if bridge.controlled:
        return "it has an OpenFlow controller, which decides"
    if bridge.fail_mode:
        undo = f"`ovs-vsctl del-fail-mode {bridge.name}` undoes that"
        return f"its fail_mode was set to {bridge.fail_mode}; {undo}"
    known = (COMMON, LIMITED, owner_part(host.settings.owner))
    if any(owner_of(flow.cookie) not in known and not _is_plain(flow) for flow in flows):
        return "it has rules of others, which Open vSwitch would throw away"
    if not is_taken(host.settings.state_dir, guardian_turn(bridge.name)):
        return "no guardian runs here that would restore the rules after a start of ovs-vswitchd"
    return ""


def guardian_turn(bridge: str) -> str:
    """What the guardian of a bridge holds while it runs (see `turns`)."""
    return f"guardian-{bridge}"


def _make_secure(host: Host, bridge: Bridge) -> str:
    """Make it secure, which costs it its rules this moment; returns why that was not possible."""
    where = [["name", "==", bridge.name]]
    as_read: Row = {"fail_mode": ["set", []], "controller": ["set", []]}
    try:
        results = host.database.transact([
            {"op": "wait", "table": "Bridge", "where": where, "timeout": 0, "until": "==",
             "columns": sorted(as_read), "rows": [as_read]},
            {"op": "update", "table": "Bridge", "where": where, "row": {"fail_mode": SECURE}},
            {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]},
            {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]},
        ])  # fmt: skip
    except OvsdbStale:
        return "somebody changed it just now; the next call looks again"
    if not host.database.wait_applied(int(results[-1]["rows"][0]["next_cfg"]), APPLY_TIMEOUT_S):
        raise Retry(f"ovs-vswitchd did not make the bridge secure within {APPLY_TIMEOUT_S:g} s")
    return ""
