"""Attach, steps 3 to 5: what each container needs, and the veth pairs that it lacks.

A pair is made with both ends down.  Nothing can pass until the host's end is raised, and that is done by
`committing`, after the port's guards have been read back.  What pipework has made already is left to it.
"""

from __future__ import annotations

from collections.abc import Iterable

from .host import Host
from .jobs import Job
from .links import Interface, differences, mac_for, silence_host_end
from .netlink import Link
from .planning import MAC_MARK, adopted_for, device_alias, marks_for, plan_attach
from .survey import peer_of
from .switch import Port, Switch


def plan(host: Host, switch: Switch, devices: dict[str, Link], job: Job) -> None:
    """Steps 3 and 4 for one job."""
    order, settings = job.order, host.settings
    switch.check_epoch(settings.epoch, settings.sequence)
    adopted = _adopted(host, switch, devices, job)
    job.made = None
    job.wanted = Interface(
        name=adopted.marks["interface"] if adopted else order.interface,
        addresses=order.addresses,
        mac=adopted.marks[MAC_MARK] if adopted else mac_for(order.address),
        mtu=order.mtu,
        routes=order.routes,
        # Packets reach a userspace switch without the checksum that the kernel leaves to hardware.
        offload=not switch.userspace,
        alias=device_alias(settings.owner, order.instance, order.address),
    )
    job.view = job.inside.view(job.wanted.name, job.wanted.families)
    marks = marks_for(order, settings.owner, settings.epoch, job.container.incarnation, adopted)
    peer = peer_of(host, job.namespace, job.view.link, devices) if job.view else None
    job.plan = plan_attach(order, marks, switch, peer, set(devices) | set(switch.ports))
    job.down = job.plan.keep is not None and not devices[job.plan.keep.name].up
    fits = job.view is not None and not differences(job.view, job.wanted)
    job.idle = job.plan.idle and fits and not job.down


def _adopted(host: Host, switch: Switch, devices: dict[str, Link], job: Job) -> Port | None:
    """The port that was taken over for this start of the container, if it still leads there."""
    port = adopted_for(job.order, job.container.incarnation, switch)
    link = job.inside.links().get(port.marks["interface"]) if port else None
    if port is None or link is None:
        return None
    return port if peer_of(host, job.namespace, link, devices) == port.name else None


def link(host: Host, job: Job) -> None:
    """Step 5 for one job: make the veth pair, in place of an earlier one's remains; both ends stay down."""
    assert job.plan is not None
    assert job.wanted is not None
    name, wanted = job.plan.create, job.wanted
    if name is None or job.made is not None:
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
