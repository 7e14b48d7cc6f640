"""Attach, steps 6 to 9: the transaction, the guards, the container's end, and taking back what failed.

The order is the promise: a port's guards have been read back from the switch before its host end comes up,
and the container's end comes up last, because only then does the kernel announce the address.  A port that
pipework made is up already; its marks and, from these, its guards follow as soon as it is known.
"""

from __future__ import annotations

import contextlib
from functools import partial

from .announce import Announcement, announce_later
from .bandwidth import set_limits
from .errors import Retry
from .host import APPLY_TIMEOUT_S, FAILURES, Host, Result
from .isolation import Isolation, isolate
from .jobs import Job, each, ended, fail_all
from .linking import drop_links
from .links import differences
from .pipework import mend
from .planning import port_number
from .switch import Switch


def commit_and_configure(host: Host, switch: Switch, jobs: list[Job]) -> None:
    """Steps 6 to 9; raises what the transaction raises, after which nothing of it was applied."""
    transaction = host.change(switch)
    numbers = {port.ofport for port in switch.ports.values()}
    for job in jobs:
        assert job.plan is not None
        for port in job.plan.supersede:
            transaction.remove(port)
        if job.made is not None:
            transaction.update(job.made, job.plan.tag, job.plan.marks)
        elif job.plan.create is not None:
            number = port_number(job.plan.create, numbers)
            numbers.add(number)
            transaction.add(job.plan.create, job.plan.tag, job.plan.marks, ofport_request=number)
        elif job.plan.keep is not None and job.plan.update:
            transaction.update(job.plan.keep, job.plan.tag, job.plan.marks)
    wanted = None if transaction.empty else transaction.commit(host.database)
    try:
        _after_commit(host, jobs, wanted)
    except FAILURES as error:
        # The transaction stands; what could not be finished is repaired by the next call.
        fail_all(jobs, Retry(str(error)))


def _after_commit(host: Host, jobs: list[Job], wanted: int | None) -> None:
    applied = wanted is None or host.database.wait_applied(wanted, APPLY_TIMEOUT_S)
    for job in jobs:
        assert job.plan is not None
        for port in job.plan.supersede:
            host.netlink.delete_link(port.name)
    if not applied:
        raise Retry(f"ovs-vswitchd did not apply the change within {APPLY_TIMEOUT_S:g} s")
    switch = host.switch()
    _guard(host, each(jobs, partial(_check_port, switch)))
    set_limits(host, [job for job in jobs if job.result is None])
    each(jobs, partial(_raise, host))
    each(jobs, partial(_configure, host))
    created = [job for job in jobs if job.linked]
    announce_later([one for job in created if ended(job).status == "done" for one in _announcements(job)])
    _clean_up(host, [job for job in created if ended(job).status != "done"])


def _check_port(switch: Switch, job: Job) -> None:
    """Read back whether the switch daemon took the new device."""
    assert job.plan is not None
    if job.plan.create is None:
        return
    port = switch.ports.get(job.plan.create)
    if port is None or not port.connected:
        raise Retry(f"the switch did not take the port: {port.error if port else 'its record vanished'}")


def _guard(host: Host, jobs: list[Job]) -> None:
    """Step 7: the guards of all ports; a port whose guards are not in force does not come up."""
    try:
        isolation = isolate(host)
    except FAILURES as error:
        fail_all(jobs, Retry(f"no port comes up without its guards: {error}"))
        return
    each(jobs, partial(_check_guards, isolation))


def _check_guards(isolation: Isolation, job: Job) -> None:
    if job.port not in isolation.guarded:
        raise Retry(f"the guards of port {job.port} are not in force; it does not come up without them")
    if job.port in isolation.changed:
        job.idle = False


def _raise(host: Host, job: Job) -> None:
    """The host's end, which an earlier call may have left down."""
    if job.linked or job.down:
        host.netlink.set_link(job.port, up=True)


def _configure(host: Host, job: Job) -> None:
    """Step 8 for one job."""
    assert job.wanted is not None
    if job.idle:
        finish(job)
        return
    families = job.wanted.families
    view = job.inside.view(job.wanted.name, families)
    if view is None:
        raise Retry("the container stopped while it was being attached")
    if job.made is not None:
        mend(host, job.made, job.inside, view, job.wanted)
        view = job.inside.view(job.wanted.name, families) or view
    job.inside.configure(view, job.wanted)
    view = job.inside.view(job.wanted.name, families)
    left = differences(view, job.wanted) if view is not None else ["everything: the interface vanished"]
    if left:
        raise Retry(f"the interface still differs after it was configured: {', '.join(left)}")
    finish(job)


def finish(job: Job) -> None:
    """The result of a job that has reached its end."""
    assert job.plan is not None
    assert job.wanted is not None
    details = {
        "port": job.port,
        "mac": job.wanted.mac,
        "address": str(job.order.address),
        "address6": job.order.address6 and str(job.order.address6),
        "container": job.container.incarnation,
        "removed": sorted({*job.cleared, *(port.name for port in job.plan.supersede)}),
    }
    job.result = Result(job.order.id, "done", changed=job.limited or not job.idle, details=details)


def _announcements(job: Job) -> list[Announcement]:
    assert job.wanted is not None
    name, mac = job.wanted.name, job.wanted.mac
    return [Announcement(job.namespace.descriptor, name, mac, one) for one, _ in job.wanted.addresses]


def _clean_up(host: Host, failed: list[Job]) -> None:
    """Step 9: remove the ports of jobs that failed after the commit, and their rules."""
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
    drop_links(host, failed)
    with contextlib.suppress(*FAILURES):  # without ports they do nothing; the next call removes them
        isolate(host, secure=False)
