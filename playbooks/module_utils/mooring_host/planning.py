"""What has to be done with ports, decided without touching anything.

Attach, for one container and interface:

    port for this start, address, interface  device is the peer  marks, VLAN equal  -> plan
    yes                                      yes                 yes                keep
    yes                                      yes                 no                 update in place
    yes                                      no                  -                  replace
    no                                       -                   -                  create

Whatever the case, every other port of ours is superseded that carries the same address, or that belongs to
the same instance and to another start of its container or to the same interface, or was taken over.

Port names hash the owner, the container and the moment it started: Open vSwitch loses all traffic of a
device that vanished and came back under the name of a port it still has.  For the same reason a replaced
port of the same start gets the next name of a sequence, never its old one.

Detach removes what matches the instance or the address, and spares two kinds of ports that a late request
could hit by mistake: those of another, living instance that has the address now, and those of a living
newer task of the same instance when the request names the task it means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container as Collection
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Union

from .errors import Stale
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


# What the mark of a port tells that we did not make but took over: it keeps its interface's name and MAC.
ADOPTED_MARK, MAC_MARK = "adopted", "mac"
_KEPT = ("interface", MAC_MARK, ADOPTED_MARK)


def marks_for(
    order: Union[Attach, Adopt],  # noqa: UP007 (Python 3.9)
    owner: str,
    epoch: int,
    incarnation: str,
    adopted: Port | None = None,
) -> dict[str, str]:
    """The marks a port carries; enough to rebuild the daemon's store from the hosts alone.

    `adopted` is the port that it has been since before it was ours.
    """
    kept = {key: adopted.marks[key] for key in _KEPT} if adopted is not None else {}
    return {
        "owner": owner, "app": order.app, "slot": order.slot, "instance": order.instance,
        "task": order.task_id, "address": str(order.address), "prefix": str(order.prefix),
        "generation": str(order.generation), "epoch": str(epoch),
        "interface": order.interface, "container": incarnation, **kept,
    }  # fmt: skip


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


def device_alias(owner: str, instance: str, address: object) -> str:
    """The mark on the devices themselves; it finds a pair whose port somebody removed from the switch."""
    return f"{alias_prefix(owner)}{address}:{hashlib.sha256(instance.encode()).hexdigest()[:16]}"


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
    """Whether the port was made for the same start of the container, address, interface and instance."""
    return all(port.marks.get(key) == marks[key] for key in ("container", "address", "interface", "instance"))


def _superseded(port: Port, marks: dict[str, str]) -> bool:
    if port.marks.get("address") == marks["address"]:
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
