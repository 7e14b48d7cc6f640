"""Adopt: put our marks on ports that somebody else has made, in place and without touching their traffic.

    1. find each container and its interface again; refuse what differs from what was surveyed
    2. in one fenced transaction write the marks; no port is added, removed, renamed or given another VLAN
    3. put in the guards of every port and read them back; until then the bridge forwards what the port says,
       as before, and afterwards what its leased address and its own MAC say
    4. leave the mark on both devices; read everything back

Step 3 does not make the bridge secure, for that would cost it its rules for a moment (see `isolation`); the
next attach does.

From then on the port is like any other of ours, with two exceptions that its mark tells (`adopted`, `mac`):
its interface keeps the name and the MAC that it has until the container starts anew.  Then it is wired by
ours, under a new port name.

A port that carries the same marks already is done; so an adoption that was cut off can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .containers import Container
from .errors import Refused, Retry
from .host import APPLY_TIMEOUT_S, FAILURES, Host, Result, failure
from .isolation import isolate
from .links import ContainerLinks
from .netlink import Address, Link
from .orders import Adopt
from .planning import ADOPTED_MARK, MAC_MARK, addresses_of, device_alias, marks_for
from .survey import peer_of
from .switch import Placed, Port, Switch, Transaction
from .together import together


@dataclass
class Job:
    """One port on its way to us."""

    order: Adopt
    port: Port
    marks: dict[str, str]
    mended: bool = False  # its guards were put in
    problem: Exception | None = None  # why its guards are not in force

    @property
    def marked(self) -> bool:
        """Whether the port carries these marks already."""
        return self.port.marks == self.marks


def adopt(host: Host, orders: list[Adopt]) -> list[Result]:
    """Take over what each order names; one result per order, in order."""
    return together(host, orders, _attempt, "taken over")


def _attempt(host: Host, orders: list[Adopt]) -> list[Result]:
    switch, devices, ports = host.switch(), host.devices(), host.all_ports()
    transaction = host.change(switch)
    found = [_caught(order, lambda order: _plan(host, order, switch, devices, ports)) for order in orders]
    jobs = [job for job in found if isinstance(job, Job)]
    for job in jobs:
        if not job.marked:
            transaction.update(job.port, job.port.tag, job.marks)
    if not host.settings.check:
        _commit(host, transaction)
        _guard(host, jobs)
    return [_finish(host, job) if isinstance(job, Job) else job for job in found]


def _commit(host: Host, transaction: Transaction) -> None:
    if transaction.empty:
        return
    if not host.database.wait_applied(transaction.commit(host.database), APPLY_TIMEOUT_S):
        raise Retry(f"ovs-vswitchd did not confirm the marks within {APPLY_TIMEOUT_S:g} s")


def _guard(host: Host, jobs: list[Job]) -> None:
    """Step 3 for all ports."""
    if not jobs:
        return
    try:
        isolation = isolate(host, secure=False)
    except FAILURES as error:
        for job in jobs:
            job.problem = Retry(f"port {job.port.name} is marked, and its guards are not in force: {error}")
        return
    for job in jobs:
        job.mended = job.port.name in isolation.changed
        if job.port.name not in isolation.guarded:
            job.problem = Retry(f"port {job.port.name} is marked, and its guards are not in force")


def _caught(order: Adopt, act: Callable[[Adopt], Job]) -> Job | Result:
    try:
        return act(order)
    except FAILURES as error:
        return failure(order.id, error)


def _plan(
    host: Host, order: Adopt, switch: Switch, devices: dict[str, Link], ports: dict[str, Placed]
) -> Job:
    """Step 1: the port, if everything still is as it was surveyed."""
    settings = host.settings
    container = host.engine.find(order.task_id)
    if container.incarnation != order.container:
        raise Retry("the container was started anew since it was surveyed; look again")
    link = _interface(host, container, order, devices)
    placed = ports.get(order.port)
    if placed is None or placed.bridge != switch.bridge:
        raise Refused(f"{order.port} is no port of bridge {switch.bridge}")
    marks = marks_for(order, settings.owner, settings.epoch, container.incarnation)
    marks = {**marks, MAC_MARK: link.mac, ADOPTED_MARK: "1"}
    _check_port(placed.port, marks, order)
    _check_rivals(switch, order)
    return Job(order, placed.port, marks)


def _interface(host: Host, container: Container, order: Adopt, devices: dict[str, Link]) -> Link:
    """The container's end; raises Refused unless it has the address and leads to the port."""
    with host.engine.namespace(container) as namespace, ContainerLinks(namespace) as inside:
        link = inside.links().get(order.interface)
        if link is None or peer_of(host, namespace, link, devices) != order.port:
            raise Refused(f"interface {order.interface} of the container does not lead to {order.port}")
        there = inside.addresses(link.index)
        for address, prefix in order.addresses:
            if (address, prefix) not in there:
                raise Refused(f"{order.interface} does not have {address}/{prefix}")
        _check_silenced(order, [address for address, _ in there])
        return link


def _check_silenced(order: Adopt, there: Iterable[Address]) -> None:
    """Refuse where the guards would take an address from the container that it has until now."""
    own = [address for address, _ in order.addresses]
    others = [str(one) for one in there if one not in own and not one.is_link_local]
    if others:
        raise Refused(
            f"{order.interface} has {', '.join(others)} as well, and through a port of ours only "
            f"{' and '.join(map(str, own))} may speak; remove it inside the container first"
        )


def _check_port(port: Port, marks: dict[str, str], order: Adopt) -> None:
    if "owner" in port.marks:
        same = all(port.marks.get(key) == marks[key] for key in ("owner", "instance", "address", "container"))
        if not same or ADOPTED_MARK not in port.marks:
            raise Refused(f"port {port.name} carries a mark already, of {port.marks.get('instance')}")
    if port.tag != order.vlan:
        raise Refused(f"port {port.name} is in VLAN {port.tag}, not in {order.vlan}")
    if not port.connected:
        raise Refused(f"the switch does not use port {port.name}")


def _check_rivals(switch: Switch, order: Adopt) -> None:
    """No port of ours may have the addresses or the instance: one address has one holder."""
    own = {str(address) for address, _ in order.addresses}
    for port in switch.ports.values():
        if port.name == order.port:
            continue
        if own & addresses_of(port.marks) or port.marks.get("instance") == order.instance:
            raise Refused(
                f"port {port.name} has {port.marks.get('address')} for {port.marks.get('instance')} already"
            )


def _finish(host: Host, job: Job) -> Result:
    """Step 4 for one port."""
    order = job.order
    if job.problem is not None:
        return failure(order.id, job.problem)
    details = {"port": job.port.name, "mac": job.marks[MAC_MARK], "address": str(order.address)}
    if not host.settings.check:
        try:
            _mark_devices(host, job)
            _read_back(host, job)
        except FAILURES as error:
            return failure(order.id, error)
    return Result(order.id, "done", changed=job.mended or not job.marked, details=details)


def _mark_devices(host: Host, job: Job) -> None:
    order = job.order
    alias = device_alias(host.settings.owner, order.instance, order.address)
    host.netlink.set_link(order.port, alias=alias)
    container = host.engine.find(order.task_id)
    with host.engine.namespace(container) as namespace, ContainerLinks(namespace) as inside:
        inside.set_alias(order.interface, alias)


def _read_back(host: Host, job: Job) -> None:
    port = host.switch().ports.get(job.port.name)
    if port is None or port.marks != job.marks or port.uuid != job.port.uuid:
        raise Retry(f"port {job.port.name} does not carry the marks that were written; somebody changed it")
