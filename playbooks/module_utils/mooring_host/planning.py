"""What has to be done with ports, decided without touching anything.

Attach, for one container and interface:

    port for this start, address, interface  device is the peer  marks, VLAN equal  -> plan
    yes                                      yes                 yes                keep
    yes                                      yes                 no                 update in place
    yes                                      no                  -                  replace
    no                                       -                   -                  create

Whatever the case, every other port of ours is superseded that carries one of its addresses, or that belongs
to the same instance and to another start of its container or to the same interface, or was taken over.

Port names hash the owner, the container and the moment it started: Open vSwitch loses all traffic of a
device that vanished and came back under the name of a port it still has.  For the same reason a replaced
port of the same start gets the next name of a sequence, never its old one.

Detach removes what matches the instance or the address, and spares two kinds of ports that a late request
could hit by mistake: those of another, living instance that has the address now, and those of a living
newer task of the same instance when the request names the task it means.

A detach that names a port is for what nobody wants any more: it removes that port of that start of a
container, and only if nothing lives behind it at this very moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container as Collection
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Union

from .errors import Retry, Stale
from .guards import FIRST_NUMBER, LAST_NUMBER
from .links import mac_for
from .orders import Adopt, Attach, Detach
from .switch import Port, Switch


@dataclass
class Plan:
    """What one attach needs: keep (perhaps update) a port or create one, and remove the superseded."""

    keep: Port | None
    create: str | None
    tag: int | None
    marks: dict[str, str]
    supersede: list[Port] = field(default_factory=list)

    @property
    def update(self) -> bool:
        """Whether the kept port's VLAN or marks differ."""
        return self.keep is not None and (self.keep.tag, self.keep.marks) != (self.tag, self.marks)

    @property
    def idle(self) -> bool:
        """Whether the switch needs no change."""
        return self.keep is not None and not self.update and not self.supersede


# What the marks of a port tell that we did not make but took over: its interface keeps its name and its MAC.
ADOPTED_MARK, MAC_MARK = "adopted", "mac"
_KEPT = ("interface", MAC_MARK, ADOPTED_MARK)


def marks_for(
    order: Union[Attach, Adopt],  # noqa: UP007 (Python 3.9)
    owner: str,
    epoch: int,
    incarnation: str,
    adopted: Port | None = None,
) -> dict[str, str]:
    """The marks a port carries; enough to rebuild the daemon's store and the port's guards from the host.

    `adopted` is the port that it has been since before it was ours.
    """
    kept = {key: adopted.marks[key] for key in _KEPT} if adopted is not None else {}
    marks = {
        "owner": owner, "app": order.app, "slot": order.slot, "instance": order.instance,
        "task": order.task_id, "address": str(order.address), "prefix": str(order.prefix),
        "generation": str(order.generation), "epoch": str(epoch),
        "interface": order.interface, "container": incarnation, MAC_MARK: mac_for(order.address), **kept,
    }  # fmt: skip
    if order.barred:
        marks["barred"] = " ".join(map(str, order.barred))
    if order.address6 is not None:
        marks.update(address6=str(order.address6), prefix6=str(order.prefix6))
    return marks


def addresses_of(marks: Mapping[str, str]) -> set[str]:
    """The addresses that a port's marks name: one, or one of either family."""
    return {marks[key] for key in ("address", "address6") if key in marks}


def adopted_for(order: Attach, incarnation: str, switch: Switch) -> Port | None:
    """The port of this very start of the container that was taken over for the same address."""
    same = {"container": incarnation, "address": str(order.address), "instance": order.instance}
    for port in switch.ports.values():
        marks = port.marks
        if all(key in marks for key in _KEPT) and all(marks.get(key) == same[key] for key in same):
            return port
    return None


def port_name(owner: str, incarnation: str, interface: str, taken: Collection[str]) -> str:
    """The first free name of the sequence of this start; 15 characters, as the kernel allows."""
    count = 0
    while True:
        seed = "\0".join((owner, incarnation, interface, str(count)))
        name = "mo" + hashlib.sha256(seed.encode()).hexdigest()[:13]
        if name not in taken:
            return name
        count += 1


def port_number(name: str, taken: Collection[object]) -> int:
    """The OpenFlow number to ask for: one of our range, by which the switch knows the port for ours."""
    size = LAST_NUMBER - FIRST_NUMBER + 1
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    for step in range(size):
        number = FIRST_NUMBER + (place + step) % size
        if number not in taken:
            return number
    raise Retry(f"all {size} port numbers of ours are taken on this bridge")


def device_alias(owner: str, instance: str, address: object) -> str:
    """The mark on the devices themselves; it finds a pair whose port somebody removed from the switch."""
    return f"{alias_prefix(owner)}{address}:{instance_mark(instance)}"


def instance_mark(instance: str) -> str:
    """An instance's part of an alias, which has no room for its id."""
    return hashlib.sha256(instance.encode()).hexdigest()[:16]


def alias_prefix(owner: str) -> str:
    """What the alias of each of our devices begins with."""
    return f"mooring-port:{owner}:"


def plan_attach(
    order: Attach, marks: dict[str, str], switch: Switch, peer: str | None, taken: Collection[str]
) -> Plan:
    """Decide one attach.

    `peer` is the host device at the other end of the container's interface, if there is one; `taken` are
    the names in use.  Raises Refused if a port concerned was last changed by a higher epoch.
    """
    keep: Port | None = None
    supersede: list[Port] = []
    for port in switch.ports.values():
        if port.name == peer and port.connected and same_seat(port, marks):
            keep = port
        elif _superseded(port, marks):
            supersede.append(port)
    _check_epochs([*supersede, *([keep] if keep else [])], int(marks["epoch"]))
    create = None if keep else port_name(marks["owner"], marks["container"], order.interface, taken)
    return Plan(keep=keep, create=create, tag=order.vlan, marks=marks, supersede=supersede)


def same_seat(port: Port, marks: dict[str, str]) -> bool:
    """Whether the port was made for the same start of the container, address, interface and instance.

    A second address may come and go on a port as it stands.
    """
    return all(port.marks.get(key) == marks[key] for key in ("container", "address", "interface", "instance"))


def _superseded(port: Port, marks: dict[str, str]) -> bool:
    if addresses_of(port.marks) & addresses_of(marks):
        return True
    if port.marks.get("instance") != marks["instance"]:
        return False
    if port.marks.get("container") != marks["container"] or ADOPTED_MARK in port.marks:
        return True
    return port.marks.get("interface") == marks["interface"]


def _check_epochs(ports: Iterable[Port], epoch: int) -> None:
    for port in ports:
        if port.epoch > epoch:
            raise Stale(f"epoch {epoch} is stale: port {port.name} was changed by epoch {port.epoch}")


@dataclass(frozen=True)
class Removal:
    """What one detach removes, and the living ports it spared."""

    remove: list[Port]
    spared: list[Port]


def plan_detach(order: Detach, switch: Switch, epoch: int, alive: Collection[str]) -> Removal:
    """Decide one detach; `alive` names the ports whose container lives."""
    if order.port is not None:
        return _plan_dead(order, switch, epoch, alive)
    remove: list[Port] = []
    spared: list[Port] = []
    for port in switch.ports.values():
        same_instance = order.instance is not None and port.marks.get("instance") == order.instance
        same_address = order.address is not None and port.marks.get("address") == str(order.address)
        if not (same_instance or same_address):
            continue
        foreign = order.instance is not None and not same_instance
        newer = order.task_id is not None and port.marks.get("task") != order.task_id
        (spared if (foreign or newer) and port.name in alive else remove).append(port)
    _check_epochs(remove, epoch)
    return Removal(remove, spared)


def _plan_dead(order: Detach, switch: Switch, epoch: int, alive: Collection[str]) -> Removal:
    """The one port, if it is still the same and nothing lives behind it."""
    port = switch.ports.get(order.port or "")
    if port is None or port.marks.get("container") != order.container:
        return Removal([], [])
    if port.name in alive:
        return Removal([], [port])
    _check_epochs([port], epoch)
    return Removal([port], [])
