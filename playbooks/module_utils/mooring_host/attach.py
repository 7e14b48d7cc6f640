"""Attach any number of containers to the switch, with one transaction for all of them.

    1. resolve     find each container, open its namespace, refuse the host's and one that others have wired
    2. detect      where asked, probe the wire: an address that somebody else answers on is not attached
    3. read        our ports, the host's devices, the container's interface; refuse a stale epoch
    4. plan        keep, update, replace or create (see planning)
    5. link        veth pairs, the peer born inside the container with its name and MAC
    6. commit      add, update and remove ports in one fenced transaction; wait for the switch daemon
    7. guard       the rules of every port, read back; only then the host's end comes up (see isolation)
    8. configure   offload, address, link up, routes; read everything back
    9. clean up    a container that failed or died on the way leaves neither port, rules nor device

Where the host is wired by pipework, that program does step 5 and makes the port, behind a transaction of its
own that removes what is superseded (see `pipework`); step 6 then writes our marks on what it made.  Its
device is up from the beginning, so there step 7 comes as soon after as it can, and before the answer.

A job that fails at any step leaves the batch and the others go on.  If the switch changed between 3 and 6,
the links are taken back and everything is planned anew; if the switch refuses the batch, each job is tried
alone, so that one bad port costs only itself.
"""

from __future__ import annotations

from functools import partial

from .bandwidth import set_limits
from .committing import commit_and_configure, finish
from .detect import judge, probe_wire, questions_of, remove_probes
from .errors import Refused, Retry
from .host import FAILURES, Host, Result, failure
from .jobs import Job, each, ended, fail_all
from .linking import drop_links, link, plan
from .links import ContainerLinks
from .netlink import Link
from .orders import Attach
from .ovsdb import OvsdbRejected, OvsdbStale
from .pipework import WIRING, check_wiring, wire_all
from .planning import addresses_of, marks_for, same_seat
from .survey import refuse_others_wiring
from .switch import Switch

ATTEMPTS = 4


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
        return [job if isinstance(job, Result) else ended(job) for job in jobs]
    finally:
        if not host.settings.check and any(isinstance(job, Job) and job.order.detect for job in jobs):
            remove_probes(host)
        for job in jobs:
            if isinstance(job, Job):
                job.close()


def _resolve(host: Host, order: Attach, seats: set[object]) -> Job | Result:
    """Step 1; a second order for the same address or the same interface of a task is refused."""
    try:
        check_wiring(host.settings.wiring)
        asked = [*(address for address, _ in order.addresses), (order.task_id, order.interface)]
        for seat in asked:
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
    seats.update(asked)
    return job


def _detect(host: Host, jobs: list[Job]) -> None:
    """Step 2 for all jobs that ask for it, in one look at the wire."""
    asking = [job for job in jobs if job.order.detect]
    if not asking or host.settings.check:
        return
    try:
        switch = host.switch()
        devices = host.devices()
        asking = [job for job in asking if not _is_there(host, switch, devices, job)]
        sightings = probe_wire(host, {one for job in asking for one in questions_of(job.order)})
    except FAILURES as error:
        fail_all(asking, error)
        return
    for job in asking:
        job.result = judge(job.order, sightings, switch)


def _is_there(host: Host, switch: Switch, devices: dict[str, Link], job: Job) -> bool:
    """Whether an earlier attach of the same order made the port, and only its answer was lost."""
    marks = marks_for(job.order, host.settings.owner, host.settings.epoch, job.container.incarnation)
    return any(
        same_seat(port, marks)
        and addresses_of(port.marks) == addresses_of(marks)
        and port.connected
        and port.name in devices
        for port in switch.ports.values()
    )


def _run(host: Host, jobs: list[Job]) -> None:
    """Steps 3 to 9 for jobs whose containers are open; every job has a result afterwards."""
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
                fail_all(going, error)
            for job in going:
                _run(host, [job])
            return
        except FAILURES as error:
            fail_all(jobs, error)
            return
    fail_all(jobs, Retry("the switch keeps changing while ports are being added"))


def _attempt(host: Host, jobs: list[Job]) -> None:
    """Steps 3 to 9 once; raises what the switch answered, after taking back the links that were made."""
    switch, devices = host.switch(), host.devices()
    going = each(jobs, partial(plan, host, switch, devices))
    if host.settings.check:
        set_limits(host, going)
        each(going, finish)
        return
    try:
        if host.settings.wiring == WIRING:
            switch = wire_all(host, switch, devices, going)
        linked = each(going, partial(link, host))
        drop_links(host, [job for job in going if job.result is not None])
        commit_and_configure(host, switch, linked)
    except FAILURES:
        drop_links(host, going)
        raise
