"""Detach: remove ports, their devices and with them the container's interface, and make sure that they are
gone.

The caller gives an address back to its pool when this says `done`, so `done` is said only after the switch
was read again: no port that had to go is left, the switch daemon has acknowledged, and no device is left
either. Devices are also looked for by their own mark, which finds a pair whose port somebody removed by hand.
Nothing to remove is `done` as well: the question is whether the port is gone, not who removed it. (A numbered
call waits for the switch daemon even then, because an earlier call may have given up waiting for it.)
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import Retry
from .host import APPLY_TIMEOUT_S, FAILURES, Host, Result, failure
from .isolation import isolate
from .netlink import Link
from .orders import Detach
from .planning import Removal, alias_prefix, device_alias, plan_detach
from .switch import Switch, Transaction
from .together import together


@dataclass
class Job:
    """One detach on its way."""

    order: Detach
    removal: Removal
    devices: list[str]

    @property
    def result(self) -> Result:
        """What is reported when everything went well."""
        names = sorted({port.name for port in self.removal.remove} | set(self.devices))
        spared = [{"port": port.name, **port.marks} for port in self.removal.spared]
        return Result(
            self.order.id, "done", changed=bool(names), details={"removed": names, "spared": spared}
        )


def detach(host: Host, orders: list[Detach]) -> list[Result]:
    """Remove what each order names; one result per order, in order."""
    if not orders:
        return []
    return together(host, orders, _attempt, "removed")


def _attempt(host: Host, orders: list[Detach]) -> list[Result]:
    """Plan all orders on one reading of the switch and remove everything in one transaction."""
    switch, devices = host.switch(), host.devices()
    transaction = host.change(switch)
    alive = host.alive(switch, devices)
    planned = [_plan(host, order, switch, devices, alive) for order in orders]
    jobs = [job for job in planned if isinstance(job, Job)]
    if not host.settings.check:
        for job in jobs:
            for port in job.removal.remove:
                transaction.remove(port)
        _remove(host, transaction, {name for job in jobs for name in job.devices})
        isolate(host, secure=False)  # the rules go after the port: a port of ours without them is silent
        left = _left(host, jobs)
        planned = [_confirm(job, left) if isinstance(job, Job) else job for job in planned]
    return [job.result if isinstance(job, Job) else job for job in planned]


def _plan(
    host: Host, order: Detach, switch: Switch, devices: dict[str, Link], alive: set[str]
) -> Job | Result:
    try:
        removal = plan_detach(order, switch, host.settings.epoch, alive)
    except FAILURES as error:
        return failure(order.id, error)
    found = [port.name for port in removal.remove if port.name in devices]
    found += [
        device.name
        for device in devices.values()
        if device.name not in switch.ports and _orphan(host, device, order)
    ]
    return Job(order, removal, found)


def _orphan(host: Host, device: Link, order: Detach) -> bool:
    """Whether a device without a port is what the order means: by its mark, or by its name if it is dead."""
    owner = host.settings.owner
    if not device.alias.startswith(alias_prefix(owner)):
        return False
    if order.port is not None:
        named = (order.port, order.container) == (device.name, None)
        return named and not _may_live(device, host.running_instances())
    address, _, instance = device.alias[len(alias_prefix(owner)) :].rpartition(":")
    wanted = device_alias(owner, order.instance, "").rpartition(":")[2] if order.instance else None
    return address == str(order.address) or instance == wanted


def _may_live(device: Link, running: set[str] | None) -> bool:
    """Whether a container of the instance that the device was made for runs; without an answer it may."""
    return running is None or device.alias.rpartition(":")[2] in running


def _remove(host: Host, transaction: Transaction, devices: set[str]) -> None:
    """Commit, wait for the switch daemon; delete the devices in any case, without them nothing flows."""
    applied = True
    if not transaction.empty:
        applied = host.database.wait_applied(transaction.commit(host.database), APPLY_TIMEOUT_S)
    for name in devices:
        host.netlink.delete_link(name)
    if not applied:
        raise Retry(f"ovs-vswitchd did not confirm the removal within {APPLY_TIMEOUT_S:g} s")


def _left(host: Host, jobs: list[Job]) -> set[str]:
    """Names that are still there after the removal."""
    if not any(job.result.changed for job in jobs):
        return set()
    return set(host.switch().ports) | set(host.devices())


def _confirm(job: Job, left: set[str]) -> Job | Result:
    still = sorted(left.intersection(job.result.details["removed"]))
    return failure(job.order.id, Retry(f"still there after removal: {', '.join(still)}")) if still else job
