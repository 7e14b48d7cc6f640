"""Duplicate-address detection: does anybody on the wire use an address that is about to be given out?

    1. a probe port in each VLAN concerned, made by the switch itself, silent to the host's own stack
    2. probes for all addresses at once, three times within one window: for IPv4 ARP with the sender 0.0.0.0
       (RFC 5227), for IPv6 a neighbour solicitation from `::` (RFC 4862)
    3. whatever names an address as its sender's within the window is an answer; a probe by somebody else
       for the same address means that both would take it
    4. the probe ports go when the attach has ended (`remove_probes`), what a call that was cut off left of
       its own with the next: the datapath gives the place of a port that goes to the next one that comes, and
       what the probes sent would be counted there as if that one had sent it

A probe has no sender address, so it changes nobody's neighbour table.  It finds what answers within the
window across the switch as it forwards now; it cannot find a machine that is off, or one behind a tunnel that
has to resolve its peer first.  Ports have random names, because Open vSwitch loses the traffic of a name that
is used again.

What cannot be probed is told as an error of the attach; an address is never taken unasked.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import select
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .errors import Retry
from .guards import FIRST_NUMBER
from .host import APPLY_TIMEOUT_S, FAILURES, Host, Result, failure
from .isolation import isolate
from .links import mac_for, silence_host_end
from .netlink import Address, mac_bytes
from .orders import Attach, Detect
from .ovsdb import OvsdbStale
from .planning import MAC_MARK, addresses_of
from .switch import Port, Switch
from .wire import Heard, frame_for, read_frame

PAUSES_END_S = (0.05, 0.1, 0.15)  # a probe, then listening until that moment; the last ends the window
ATTEMPTS = 4
ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4
_PROBE_NUMBERS = 0x1000
UNTAGGED = 0  # an access port of VLAN 0 hears what has no tag; a port without a tag would hear every VLAN


@dataclass(frozen=True)
class Question:
    """Who has this address in this VLAN?"""

    address: Address
    vlan: int | None


@dataclass
class Sighting:
    """MACs that use an address, and MACs that probe for it at the same moment."""

    using: set[str] = field(default_factory=set)
    probing: set[str] = field(default_factory=set)


def probe_wire(host: Host, questions: Collection[Question]) -> dict[Question, Sighting]:
    """Ask the wire, all questions in one window; raises one of FAILURES if that is not possible."""
    sightings = {question: Sighting() for question in questions}
    if not questions:
        return sightings
    with contextlib.ExitStack() as stack:
        names = _probe_ports(host, {question.vlan for question in questions})
        isolate(host)  # a bridge that forwards nothing for want of rules would let every address look free
        ears = [
            stack.enter_context(_Ear(host, name, [one for one in questions if one.vlan == vlan]))
            for vlan, name in names.items()
        ]
        _listen(ears, sightings)
    return sightings


def detect(host: Host, orders: list[Detect]) -> list[Result]:
    """Ask for every address, all in one look at the wire; one result per order, in order."""
    try:
        questions = [Question(order.address, order.vlan) for order in orders]
        sightings = probe_wire(host, set(questions)) if not host.settings.check else {}
    except FAILURES as error:
        return [failure(order.id, error) for order in orders]
    finally:
        remove_probes(host)
    return [
        Result(order.id, "done", details=_told(order, sightings.get(question, Sighting())))
        for order, question in zip(orders, questions)  # noqa: B905 (strict= needs Python 3.10)
    ]


def _told(order: Detect, sighting: Sighting) -> dict[str, object]:
    return {"address": str(order.address), "answered_by": sorted(sighting.using | sighting.probing)}


def questions_of(order: Attach) -> list[Question]:
    """What an attach has to know: one question for each of its addresses."""
    return [Question(address, order.vlan) for address, _ in order.addresses]


def judge(order: Attach, sightings: Mapping[Question, Sighting], switch: Switch) -> Result | None:
    """What an attach ends in because of what was seen; None if it may go on.

    Ports of the same instance on this bridge may have its addresses: the attach replaces them.  They belong
    together, so an answer on one of them speaks against both.
    """
    seen = {question.address: sightings[question] for question in questions_of(order)}
    found = {address: _answer(order, address, sighting, switch) for address, sighting in seen.items()}
    if any(strangers or ours for strangers, ours in found.values()):
        return _conflict(order, found)
    for address, sighting in seen.items():
        if sighting.probing:
            reason = f"{', '.join(sorted(sighting.probing))} probes for {address} at the same moment"
            return Result(order.id, Retry.status, reason)
    return None


def _answer(
    order: Attach, address: Address, sighting: Sighting, switch: Switch
) -> tuple[list[str], list[Port]]:
    """Who answered on one address: MACs of strangers, and ports of ours that are another instance's."""
    same_address = [port for port in switch.ports.values() if str(address) in addresses_of(port.marks)]
    ours = [port for port in same_address if port.marks.get("instance") != order.instance]
    known = {_mac_of(order, port) for port in same_address}
    return sorted(sighting.using - known), ours if sighting.using & known else []


def _mac_of(order: Attach, port: Port) -> str:
    """What a port of ours with an address of the order answers with; one that was adopted has its own."""
    return port.marks.get(MAC_MARK) or mac_for(order.address)


def _conflict(order: Attach, found: Mapping[Address, tuple[list[str], list[Port]]]) -> Result:
    answered = {address: one for address, one in found.items() if any(one)}
    strangers = sorted({mac for macs, _ in answered.values() for mac in macs})
    ours = {port.name: port for _, ports in answered.values() for port in ports}
    told = [f"port {port.name} of {port.marks.get('instance')} on this bridge" for port in ours.values()]
    details = {
        "address": str(order.address),
        "answered_on": [str(address) for address in answered],
        "answered_by": strangers or sorted({_mac_of(order, port) for port in ours.values()}),
        "ours": [{"port": port.name, **port.marks} for port in ours.values()],
    }
    where = " and ".join(map(str, answered))
    reason = f"somebody answers on {where}: {', '.join([*strangers, *told])}"
    return Result(order.id, "conflict", reason, details=details)


def remove_probes(host: Host) -> None:
    """Remove all probe ports of ours; what cannot be removed now goes with the next call that probes."""
    with contextlib.suppress(*FAILURES):
        _change_ports(host, {})


def _probe_ports(host: Host, vlans: Iterable[int | None]) -> dict[int | None, str]:
    """Make a port in each VLAN; returns their names."""
    names = {vlan: f"mp{secrets.token_hex(7)[:13]}" for vlan in vlans}
    _change_ports(host, names)
    return names


def _change_ports(host: Host, names: dict[int | None, str]) -> None:
    """Add probe ports, and remove all others of ours."""
    for _ in range(ATTEMPTS):
        switch = host.switch()
        transaction = host.change(switch)
        for port in switch.probes:
            transaction.remove(port)
        for vlan, name in names.items():
            tag = UNTAGGED if vlan is None else vlan
            marks = {"probe": host.settings.owner}
            transaction.add(
                name, tag, marks, type="internal", mac=_probe_mac(switch), ofport_request=_number()
            )
        if transaction.empty:
            return
        try:
            wanted = transaction.commit(host.database)
        except OvsdbStale:
            continue
        if names and not host.database.wait_applied(wanted, APPLY_TIMEOUT_S):
            raise Retry(f"ovs-vswitchd did not make a port to probe from within {APPLY_TIMEOUT_S:g} s")
        return
    raise Retry("the switch keeps changing while a port to probe from is being added or removed")


def _number() -> int:
    """Below the range of our ports, and not the switch's next, which would reach that range in time."""
    return FIRST_NUMBER - 1 - secrets.randbelow(_PROBE_NUMBERS)


def _probe_mac(switch: Switch) -> str:
    """One for all probes of a host, so that the switches beyond it do not learn one for each."""
    return (b"\x0a\x00" + hashlib.sha256(switch.uuid.encode()).digest()[:4]).hex(":")


class _Ear:
    """A probe port that is up, with the questions of its VLAN."""

    def __init__(self, host: Host, name: str, questions: list[Question]) -> None:
        device = host.devices().get(name)
        if device is None:
            raise Retry(f"ovs-vswitchd did not make the device {name} to probe from")
        silence_host_end(name)
        host.netlink.set_link(name, up=True)
        self.mac = device.mac
        self.questions = {question.address: question for question in questions}
        self._frames = [frame_for(address, mac_bytes(self.mac)) for address in self.questions]
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        self.socket.setblocking(False)
        self.socket.bind((name, ETH_P_ALL))

    def __enter__(self) -> _Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self) -> None:
        """Send one probe for each address; raises OSError if the port does not take them."""
        for frame in self._frames:
            self.socket.send(frame)

    def heard(self) -> Iterator[Heard]:
        """What others have sent since."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, (_, _, kind, *_) = self.socket.recvfrom(256)
                found = None if kind == PACKET_OUTGOING else read_frame(data)
                if found is not None and found.mac != self.mac:
                    yield found


def _listen(ears: list[_Ear], sightings: dict[Question, Sighting]) -> None:
    """Send and collect until the window ends."""
    began = time.monotonic()
    for end in PAUSES_END_S:
        for ear in ears:
            ear.ask()
        while (left := began + end - time.monotonic()) > 0:
            select.select([ear.socket for ear in ears], [], [], left)
            for ear in ears:
                _note(ear, sightings)


def _note(ear: _Ear, sightings: dict[Question, Sighting]) -> None:
    for heard in ear.heard():
        question = ear.questions.get(heard.address)
        if question is not None:
            sighting = sightings[question]
            (sighting.probing if heard.probes else sighting.using).add(heard.mac)
