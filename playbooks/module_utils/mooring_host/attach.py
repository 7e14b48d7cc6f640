"""Attach any number of containers to the switch, with one transaction for all of them.

    1. resolve     find each container, open its namespace, refuse the host's and one that others have wired
    2. detect      where asked, probe the wire: an address that somebody else answers on is not attached
    3. read        our ports, the host's devices, the container's interface; refuse a stale epoch
    4. plan        keep, update, replace or create (see planning)
    5. link        veth pairs, the peer born inside the container with its name and MAC
    6. commit      add, update and remove ports in one fenced transaction; wait for the switch daemon
    7. configure   offload, address, link up, routes; read everything back
    8. clean up    a container that failed or died on the way leaves neither port nor device

Where the host is wired by pipework, that program does step 5 and makes the port, behind a transaction of its
own that removes what is superseded (see `pipework`); step 6 then writes our marks on what it made.

A job that fails at any step leaves the batch and the others go on.  If the switch changed between 3 and 6,
the links are taken back and everything is planned anew; if the switch refuses the batch, each job is tried
alone, so that one bad port costs only itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from .announce import Announcement, announce_later
from .containers import Container
from .detect import Question, judge, probe_wire
from .errors import Refused, Retry
from .host import APPLY_TIMEOUT_S, FAILURES, Host, Result, failure
from .links import ContainerLinks, Interface, View, differences, mac_for, silence_host_end
from .namespaces import NetworkNamespace
from .netlink import Link
from .orders import Attach
from .ovsdb import OvsdbRejected, OvsdbStale
from .pipework import WIRING, mend, wire_all
from .planning import (
    MAC_MARK,
    Plan,
    adopted_for,
    device_alias,
    marks_for,
    plan_attach,
    same_seat,
)
from .survey import peer_of, refuse_others_wiring
from .switch import Port, Switch

ATTEMPTS = 4


@dataclass
class Job:
    """One attach on its way; `result` is set when it has ended."""

    order: Attach
    container: Container
    namespace: NetworkNamespace
    inside: ContainerLinks
    wanted: Interface | None = None
    view: View | None = None
    plan: Plan | None = None
    idle: bool = False  # nothing differs
    linked: bool = False
    made: Port | None = None  # by pipework
    cleared: list[str] = field(default_factory=list)  # ports that went before it ran
    result: Result | None = None

    def close(self) -> None:
        """Let go of the namespace."""
        self.inside.close()
        self.namespace.close()


def attach(host: Host, orders: list[Attach]) -> list[Result]:
    """Attach every container asked for; one result per order, in order."""
    jobs: list[Job | Result] = []
    seats: set[object] = set()
    try:
        for order in orders:
            jobs.append(_resolve(host, order, seats))
        open_jobs = [job for job in jobs if isinstance(job, Job)]
        _detect(host, open_jobs)
        _run(host, open_jobs)
        return [job if isinstance(job, Result) else _ended(job) for job in jobs]
    finally:
        for job in jobs:
            if isinstance(job, Job):
                job.close()


def _ended(job: Job) -> Result:
    assert job.result is not None, "every job ends with a result"
    return job.result


def _resolve(host: Host, order: Attach, seats: set[object]) -> Job | Result:
    """Step 1; a second order for the same address or the same interface of a task is refused."""
    try:
        for seat in (order.address, (order.task_id, order.interface)):
            if seat in seats:
                raise Refused(f"another attach of the same call already takes {seat}")
        container = host.engine.find(order.task_id)
        namespace = host.engine.namespace(container)
        try:
            inside = ContainerLinks(namespace)
        except OSError:
            namespace.close()
            raise
    except FAILURES as error:
        return failure(order.id, error)
    job = Job(order, container, namespace, inside)
    try:
        # Before the wire is asked: there the container itself would answer.
        refuse_others_wiring(inside, order, host.settings.owner)
    except FAILURES as error:
        job.close()
        return failure(order.id, error)
    seats.update((order.address, (order.task_id, order.interface)))
    return job


def _each(jobs: Iterable[Job], step: Callable[[Job], None]) -> list[Job]:
    """Run a step for each job; returns those that are still going."""
    going: list[Job] = []
    for job in jobs:
        if job.result is not None:
            continue
        try:
            step(job)
        except FAILURES as error:
            job.result = failure(job.order.id, error)
        if job.result is None:
            going.append(job)
    return going


def _detect(host: Host, jobs: list[Job]) -> None:
    """Step 2 for all jobs that ask for it, in one look at the wire."""
    asking = [job for job in jobs if job.order.detect]
    if not asking or host.settings.check:
        return
    try:
        switch = host.switch()
        devices = host.devices()
        asking = [job for job in asking if not _is_there(host, switch, devices, job)]
        questions = {Question(job.order.address, job.order.vlan) for job in asking}
        sightings = probe_wire(host, questions)
    except FAILURES as error:
        _fail_all(asking, error)
        return
    for job in asking:
        sighting = sightings[Question(job.order.address, job.order.vlan)]
        job.result = judge(job.order, sighting, switch)


def _is_there(host: Host, switch: Switch, devices: dict[str, Link], job: Job) -> bool:
    """Whether an earlier attach of the same order made the port, and only its answer was lost."""
    marks = marks_for(job.order, host.settings.owner, host.settings.epoch, job.container.incarnation)
    return any(
        same_seat(port, marks) and port.connected and port.name in devices for port in switch.ports.values()
    )


def _run(host: Host, jobs: list[Job]) -> None:
    """Steps 3 to 8 for jobs whose containers are open; every job has a result afterwards."""
    for _ in range(ATTEMPTS):
        jobs = [job for job in jobs if job.result is None]
        if not jobs:
            return
        try:
            _attempt(host, jobs)
            return
        except OvsdbStale:
            continue
        except OvsdbRejected as error:
            going = [job for job in jobs if job.result is None]
            if len(going) == 1:
                _fail_all(going, error)
            for job in going:
                _run(host, [job])
            return
        except FAILURES as error:
            _fail_all(jobs, error)
            return
    _fail_all(jobs, Retry("the switch keeps changing while ports are being added"))


def _attempt(host: Host, jobs: list[Job]) -> None:
    """Steps 3 to 8 once; raises what the switch answered, after taking back the links that were made."""
    switch, devices = host.switch(), host.devices()
    going = _each(jobs, partial(_plan, host, switch, devices))
    if host.settings.check:
        _each(going, _finish)
        return
    if host.settings.wiring == WIRING:
        switch = wire_all(host, switch, devices, going, _each)
    linked = _each(going, partial(_link, host))
    _drop_links(host, [job for job in going if job.result is not None])
    try:
        _commit_and_configure(host, switch, linked)
    except FAILURES:
        _drop_links(host, linked)
        raise


def _fail_all(jobs: Iterable[Job], error: Exception) -> None:
    for job in jobs:
        if job.result is None:
            job.result = failure(job.order.id, error)


def _plan(host: Host, switch: Switch, devices: dict[str, Link], job: Job) -> None:
    """Steps 3 and 4 for one job."""
    order, settings = job.order, host.settings
    switch.check_epoch(settings.epoch, settings.sequence)
    adopted = _adopted(host, switch, devices, job)
    job.made = None
    job.wanted = Interface(
        name=adopted.marks["interface"] if adopted else order.interface,
        address=order.address,
        prefix=order.prefix,
        mac=adopted.marks[MAC_MARK] if adopted else mac_for(order.address),
        mtu=order.mtu,
        routes=order.routes,
        # Packets reach a userspace switch without the checksum that the kernel leaves to hardware.
        offload=not switch.userspace,
        alias=device_alias(settings.owner, order.instance, order.address),
    )
    job.view = job.inside.view(job.wanted.name, order.address.version)
    marks = marks_for(order, settings.owner, settings.epoch, job.container.incarnation, adopted)
    peer = peer_of(host, job.namespace, job.view.link, devices) if job.view else None
    job.plan = plan_attach(order, marks, switch, peer, set(devices) | set(switch.ports))
    job.idle = job.plan.idle and job.view is not None and not differences(job.view, job.wanted)


def _adopted(host: Host, switch: Switch, devices: dict[str, Link], job: Job) -> Port | None:
    """The port that was taken over for this start of the container, if it still leads there."""
    port = adopted_for(job.order, job.container.incarnation, switch)
    link = job.inside.links().get(port.marks["interface"]) if port else None
    if port is None or link is None:
        return None
    return port if peer_of(host, job.namespace, link, devices) == port.name else None


def _link(host: Host, job: Job) -> None:
    """Step 5 for one job: make the veth pair, replacing what is left of an earlier one."""
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
    host.netlink.set_link(name, up=True, alias=wanted.alias)


def _drop_links(host: Host, jobs: Iterable[Job]) -> None:
    """Take back links whose port was not committed; one that cannot be deleted is inert without its port."""
    for job in jobs:
        if job.linked and job.plan is not None and job.plan.create is not None:
            job.linked = False
            try:
                host.netlink.delete_link(job.plan.create)
            except OSError as error:
                if job.result is not None:
                    job.result.reason += f"; its device {job.plan.create} was left behind: {error}"


def _commit_and_configure(host: Host, switch: Switch, jobs: list[Job]) -> None:
    """Steps 6 to 8; raises what the transaction raises, after which nothing of it was applied."""
    transaction = host.change(switch)
    for job in jobs:
        assert job.plan is not None
        for port in job.plan.supersede:
            transaction.remove(port)
        if job.made is not None:
            transaction.update(job.made, job.plan.tag, job.plan.marks)
        elif job.plan.create is not None:
            transaction.add(job.plan.create, job.plan.tag, job.plan.marks)
        elif job.plan.keep is not None and job.plan.update:
            transaction.update(job.plan.keep, job.plan.tag, job.plan.marks)
    if transaction.empty:
        _each(jobs, partial(_configure, host))
        return
    wanted = transaction.commit(host.database)
    try:
        _after_commit(host, jobs, wanted)
    except FAILURES as error:
        # The transaction stands; what could not be finished is repaired by the next call.
        _fail_all(jobs, Retry(str(error)))


def _after_commit(host: Host, jobs: list[Job], wanted: int) -> None:
    applied = host.database.wait_applied(wanted, APPLY_TIMEOUT_S)
    for job in jobs:
        assert job.plan is not None
        for port in job.plan.supersede:
            host.netlink.delete_link(port.name)
    if not applied:
        raise Retry(f"ovs-vswitchd did not apply the change within {APPLY_TIMEOUT_S:g} s")
    switch = host.switch()
    _each(jobs, partial(_check_port, switch))
    _each(jobs, partial(_configure, host))
    created = [job for job in jobs if job.linked]
    announce_later([_announcement(job) for job in created if _ended(job).status == "done"])
    _clean_up(host, [job for job in created if _ended(job).status != "done"])


def _check_port(switch: Switch, job: Job) -> None:
    """Read back whether the switch daemon took the new device."""
    assert job.plan is not None
    if job.plan.create is None:
        return
    port = switch.ports.get(job.plan.create)
    if port is None or not port.connected:
        raise Retry(f"the switch did not take the port: {port.error if port else 'its record vanished'}")


def _configure(host: Host, job: Job) -> None:
    """Step 7 for one job."""
    assert job.wanted is not None
    if job.idle:
        _finish(job)
        return
    version = job.wanted.address.version
    view = job.inside.view(job.wanted.name, version)
    if view is None:
        raise Retry("the container stopped while it was being attached")
    if job.made is not None:
        mend(host, job.made, job.inside, view, job.wanted)
        view = job.inside.view(job.wanted.name, version) or view
    job.inside.configure(view, job.wanted)
    view = job.inside.view(job.wanted.name, version)
    left = differences(view, job.wanted) if view is not None else ["everything: the interface vanished"]
    if left:
        raise Retry(f"the interface still differs after it was configured: {', '.join(left)}")
    _finish(job)


def _finish(job: Job) -> None:
    assert job.plan is not None
    assert job.wanted is not None
    port = job.plan.create or (job.plan.keep.name if job.plan.keep else "")
    details = {
        "port": port,
        "mac": job.wanted.mac,
        "address": str(job.order.address),
        "container": job.container.incarnation,
        "removed": sorted({*job.cleared, *(port.name for port in job.plan.supersede)}),
    }
    job.result = Result(job.order.id, "done", changed=not job.idle, details=details)


def _announcement(job: Job) -> Announcement:
    assert job.wanted is not None
    return Announcement(job.namespace.descriptor, job.wanted.name, job.wanted.mac, job.wanted.address)


def _clean_up(host: Host, failed: list[Job]) -> None:
    """Step 8: remove the ports of jobs that failed after the commit."""
    if not failed:
        return
    switch = host.switch()
    transaction = host.change(switch)
    for job in failed:
        assert job.plan is not None
        assert job.plan.create is not None
        port = switch.ports.get(job.plan.create)
        if port is not None:
            transaction.remove(port)
    if not transaction.empty:
        transaction.commit(host.database)
    _drop_links(host, failed)
