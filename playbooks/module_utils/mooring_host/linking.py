"""Attach, steps 3 to 5: what each container needs, and the veth pairs that it lacks.

A pair is made with both ends down.  Nothing can pass until the host's end is raised, and that is done by
`committing`, after the port's guards have been read back.
"""

from __future__ import annotations

from collections.abc import Iterable

from .errors import Refused
from .host import Host
from .jobs import Job
from .links import Interface, View, differences, mac_for, silence_host_end
from .netlink import Link
from .planning import alias_prefix, device_alias, marks_for, plan_attach
from .switch import Switch


def plan(host: Host, switch: Switch, devices: dict[str, Link], job: Job) -> None:
    """Steps 3 and 4 for one job."""
    order, settings = job.order, host.settings
    switch.check_epoch(settings.epoch, settings.sequence)
    job.wanted = Interface(
        name=order.interface,
        addresses=order.addresses,
        mac=mac_for(order.address),
        mtu=order.mtu,
        routes=order.routes,
        # Packets reach a userspace switch without the checksum that the kernel leaves to hardware.
        offload=not switch.userspace,
        alias=device_alias(settings.owner, order.instance, order.address),
    )
    job.view = job.inside.view(order.interface, job.wanted.families)
    _check_interface(job.view, job.wanted, settings.owner)
    marks = marks_for(order, settings.owner, settings.epoch, job.container.incarnation)
    peer = _peer(job.view, devices)
    job.plan = plan_attach(order, marks, switch, peer, set(devices) | set(switch.ports))
    job.down = job.plan.keep is not None and not devices[job.plan.keep.name].up
    fits = job.view is not None and not differences(job.view, job.wanted)
    job.idle = job.plan.idle and fits and not job.down


def _check_interface(view: View | None, wanted: Interface, owner: str) -> None:
    if view is None or view.link.mac == wanted.mac or view.link.alias.startswith(alias_prefix(owner)):
        return
    raise Refused(
        f"the container already has an interface {wanted.name} that is not ours; "
        "run it with network none or ask for another interface"
    )


def _peer(view: View | None, devices: dict[str, Link]) -> str | None:
    """The host device at the other end of the container's interface."""
    if view is None:
        return None
    for device in devices.values():
        if device.index == view.link.peer and device.peer == view.link.index:
            return device.name
    return None


def link(host: Host, job: Job) -> None:
    """Step 5 for one job: make the veth pair, in place of an earlier one's remains; both ends stay down."""
    assert job.plan is not None
    assert job.wanted is not None
    name, wanted = job.plan.create, job.wanted
    if name is None:
        return
    if job.view is not None:
        job.inside.delete(wanted.name)
    host.netlink.create_veth(name, wanted.name, job.namespace.descriptor, wanted.mac, wanted.mtu)
    job.linked = True
    silence_host_end(name)
    host.netlink.set_link(name, alias=wanted.alias)


def drop_links(host: Host, jobs: Iterable[Job]) -> None:
    """Take back links whose port was not committed; one that cannot be deleted is inert without its port."""
    for job in jobs:
        if job.linked and job.plan is not None and job.plan.create is not None:
            job.linked = False
            try:
                host.netlink.delete_link(job.plan.create)
            except OSError as error:
                if job.result is not None:
                    job.result.reason += f"; its device {job.plan.create} was left behind: {error}"
