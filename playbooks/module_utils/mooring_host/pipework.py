"""Wiring by the pipework program, for hosts whose operators want it: their program, inside our rules.

    1. refuse what it does wrongly or cannot do: IPv6, names that do not fit, a host without the program
    2. one fenced transaction removes what is superseded, and any dead port of the name that it will choose;
       wait until the switch has applied it
    3. run it: no shell, a small environment, a limit of time
    4. read back what is there, whatever its exit code says; take back what is not as it should be
    5. the caller writes our marks and the VLAN on the port it made, puts in its guards, configures the
       interface (a second address, of IPv6, is among that) and announces it

Why 2: pipework skips `add-port` for a name that the bridge still has, and names come again with process ids.
The container would get the old port with its old VLAN, or, where the port is as new as its device, none of
its traffic would pass.  Two transactions are needed, because removing and adding a name in one is nothing to
the switch.

Why 4: `ovs-vsctl` ends with 0 for a device that it cannot use, and pipework with it.  Until the marks are
written the port is nobody's.  A call that dies here leaves a port that step 2 of the next one removes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import IO

from .budget import Budget
from .containers import Container
from .errors import Refused, Retry
from .host import APPLY_TIMEOUT_S, FAILURES, Host
from .jobs import Job, each
from .links import ContainerLinks, Interface, View, mac_for, silence_host_end
from .namespaces import NetworkNamespace
from .orders import Attach
from .pipework_names import LONGEST, guest_of, is_link, link_of, port_of
from .survey import peer_of
from .switch import Placed, Port, Switch

NATIVE, WIRING = "native", "pipework"
PROGRAM = "pipework"
ALSO_IN = "/usr/local/bin"
RUN_S = 10.0  # one run; it takes a second, most of which is its announcement
RUNS_S = 30.0  # all runs of a call
_MADE = re.compile(r"v.{1,11}p[lg]([0-9]{1,10})")


@dataclass
class Task:
    """One container to be wired by it; `cleared` are the names that had to go before."""

    order: Attach
    container: Container
    namespace: NetworkNamespace
    inside: ContainerLinks
    supersede: list[Port]
    replaces: bool  # whether the container has the interface, as one of ours that led nowhere
    cleared: list[str] = field(default_factory=list)


def wire_all(host: Host, switch: Switch, devices: Collection[str], jobs: list[Job]) -> Switch:
    """Steps 1 to 4 for the jobs of an attach that need a port; returns the switch as it is then."""
    ports, budget = host.all_ports(), Budget(RUNS_S, "runs of pipework")
    tasks: dict[int, Task] = {}

    def prepare(job: Job) -> None:
        assert job.plan is not None
        if job.plan.create is None:
            return
        check(job.order, job.container)
        plan, replaces = job.plan, job.view is not None
        task = Task(job.order, job.container, job.namespace, job.inside, plan.supersede, replaces)
        check_way(task, switch, ports, devices)
        tasks[id(job)] = task

    def run(job: Job) -> None:
        task = tasks.get(id(job))
        if task is None:
            return
        assert job.plan is not None
        job.cleared, job.plan.supersede = task.cleared, []
        job.made = wire(host, task, budget)
        job.plan.create, job.linked = job.made.name, True

    going = each(jobs, prepare)
    if not tasks:
        return switch
    make_way(host, switch, tasks.values())
    each(going, run)
    return host.switch()


def check_wiring(wiring: str) -> None:
    """Raises Refused for a word that says nothing about how ports are made."""
    if wiring not in (NATIVE, WIRING):
        raise Refused(f"mooring_wiring is {wiring[:80]!r} for this host; set it to {NATIVE} or {WIRING}")


def mend(host: Host, port: Port, inside: ContainerLinks, view: View, wanted: Interface) -> None:
    """Put right what it does differently from us, as far as `ContainerLinks.configure` does not."""
    silence_host_end(port.name)
    host.netlink.set_link(port.name, alias=wanted.alias)
    inside.take_routes(view, wanted)


def check(order: Attach, container: Container) -> None:
    """Step 1; raises Refused."""
    if order.address.version == 6:
        raise Refused(
            f"pipework cannot wire {order.address}: it sets the route to an IPv6 gateway wrongly; "
            "set mooring_wiring=native for this host"
        )
    name = port_of(order.interface, container.pid)
    if len(name) > LONGEST:
        raise Refused(
            f"pipework would name the port {name}, and a name has {LONGEST} characters at most; "
            "shorten ansible.interface"
        )
    find_program()


def find_program() -> str:
    """Where the host has it; raises Refused."""
    found = shutil.which(PROGRAM, path=_path())
    if found is None:
        raise Refused(
            f"this host is to be wired by pipework and has no such program in PATH or {ALSO_IN}; "
            "install it there, or set mooring_wiring=native for this host"
        )
    return found


def command(program: str, bridge: str, order: Attach, container: Container) -> list[str]:
    """Its documented command line."""
    defaults = (route for route in order.routes if route.to.version == 4 and not route.to.prefixlen)
    gateway = next((route.via for route in defaults if route.via), None)
    address = f"{order.address}/{order.prefix}" + (f"@{gateway}" if gateway else "")
    mac = mac_for(order.address) + (f"@{order.vlan}" if order.vlan else "")
    return [program, bridge, "-i", order.interface, container.id, address, mac]


def make_way(host: Host, switch: Switch, tasks: Iterable[Task]) -> None:
    """Step 2 for all tasks. Raises what the transaction raises; nothing was done then."""
    tasks = list(tasks)
    ports, transaction = host.all_ports(), host.change(switch)
    for task in tasks:
        going = {port.name: port for port in task.supersede}
        left = ports.get(port_of(task.order.interface, task.container.pid))
        if left is not None and left.bridge == switch.bridge:
            going[left.port.name] = left.port
        for port in going.values():
            transaction.remove(port)
        task.cleared = sorted(going)
    if not transaction.empty:
        wanted = transaction.commit(host.database)
        if not host.database.wait_applied(wanted, APPLY_TIMEOUT_S):
            raise Retry(f"ovs-vswitchd did not confirm the removal within {APPLY_TIMEOUT_S:g} s")
    for task in tasks:
        for name in task.cleared:
            host.netlink.delete_link(name)


def check_way(task: Task, switch: Switch, ports: dict[str, Placed], devices: Collection[str]) -> None:
    """Raises Refused if the name that it will choose is somebody's who is alive and not ours."""
    name = port_of(task.order.interface, task.container.pid)
    placed = ports.get(name)
    if name in devices and (placed is None or placed.port.name not in switch.ports):
        raise Refused(
            f"pipework would name the port {name}, and the host has a device of that name that is not ours; "
            "remove it, or take its container over with `mooring adopt`"
        )


def wire(host: Host, task: Task, budget: Budget) -> Port:
    """Steps 3 and 4 for one task: the port that it made. Raises Retry, and has taken back what it made."""
    limit = budget.left(RUN_S)
    if task.replaces:
        task.inside.delete(task.order.interface)
    before, links = host.devices(), is_link(link_of(task.container.pid))
    known = {placed.port.uuid for placed in host.all_ports().values()}
    try:
        said = _run(host, command(find_program(), host.settings.bridge, task.order, task.container), limit)
        return _read_back(host, task, known, said)
    except BaseException:
        with contextlib.suppress(*FAILURES):  # what stays leads nowhere, and goes with the next attempt
            _take_back(host, task, before)
        raise
    finally:
        if not links and is_link(link_of(task.container.pid)):
            link_of(task.container.pid).unlink()


def _run(host: Host, words: list[str], limit_s: float) -> str:
    """Run the program; what it said, for an error that is found later. Raises Retry if it fails."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=_environment(host),
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Retry(f"pipework did not end within {limit_s:.0f} s; {_said(output)}") from None
        finally:
            _end(process)
        if code:
            raise Retry(f"pipework ended with {code}; {_said(output)}")
        return _said(output)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of it behind, neither itself nor what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(host: Host) -> dict[str, str]:
    """What its tools need to find the switch and the engine of this host, and nothing else."""
    return {
        "PATH": _path(),
        "LC_ALL": "C",
        "HOME": "/",
        "OVS_RUNDIR": os.path.dirname(host.settings.database),
        "DOCKER_HOST": f"unix://{host.settings.engine}",
    }


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{ALSO_IN}"


def _said(output: IO[bytes]) -> str:
    output.seek(0, os.SEEK_END)
    output.seek(max(0, output.tell() - 500))
    text = " ".join(output.read().decode(errors="replace").split())
    return f"it said: {text}" if text else "it said nothing"


def _read_back(host: Host, task: Task, known: set[str], said: str) -> Port:
    """The port behind the container's interface; raises Retry if it is not what was asked for."""
    interface, bridge = task.order.interface, host.settings.bridge
    link = task.inside.links().get(interface)
    if link is None:
        raise Retry(f"pipework ended with 0, but the container has no {interface}; {said}")
    peer = peer_of(host, task.namespace, link, host.devices())
    placed = host.all_ports().get(peer or "")
    if placed is None or placed.bridge != bridge:
        raise Retry(
            f"pipework ended with 0, but {peer or interface} leads to no port of bridge {bridge}; {said}"
        )
    if placed.port.uuid in known:
        raise Retry(f"pipework took {peer}, an old port, for its own; it was removed")
    if not placed.port.connected:
        raise Retry(f"pipework ended with 0, but the switch does not use {peer}: {placed.port.error}; {said}")
    return placed.port


def _take_back(host: Host, task: Task, before: Collection[str]) -> None:
    """Remove the devices that it made for this container, and the ports that led to them."""
    interface, process = task.order.interface, task.container.pid
    names = {port_of(interface, process), guest_of(interface, process)}
    for name in set(host.devices()) - set(before):
        if name in names or _leads_to(name, task.namespace):
            names.add(name)
            host.netlink.delete_link(name)
    switch = host.switch()
    transaction = host.change(switch)
    for placed in host.all_ports().values():
        ours = not placed.marked or placed.port.name in switch.ports
        if placed.port.name in names and placed.bridge == switch.bridge and ours:
            transaction.remove(placed.port)
    if not transaction.empty:
        host.database.wait_applied(transaction.commit(host.database), APPLY_TIMEOUT_S)


def _leads_to(name: str, namespace: NetworkNamespace) -> bool:
    """Whether a device is named after a process that lives in the container."""
    made = _MADE.fullmatch(name)
    try:
        status = os.stat(f"/proc/{made.group(1)}/ns/net") if made else None
    except OSError:
        return False
    return status is not None and (status.st_dev, status.st_ino) == namespace.identity
