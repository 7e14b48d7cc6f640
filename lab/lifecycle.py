"""A lab from `up` to `down`.

`up` lays the cables first, then starts everything that does not need something else at the same
time: switches, edges and doors at once, the machine room before the container engine and the hosts,
Marathon after the engine, the hosts' guardians last.  `down` trusts nothing that `up` has written: it kills
every process that carries the lab's mark, then deletes namespaces, mounts, control groups and the state
directory by the names in the plan.  It is therefore the same after a clean `up`, after one that failed,
and after one that was killed; and `up` itself begins with it where it finds the remains of such a one.

The state directory is locked while either works, by the kernel, so a killed command never leaves a
lock behind.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mooring.lab import docker, doors, edges, guardians, namespaces, sshd, supervise, switches
from mooring.lab.daemon_config import render_daemon_config
from mooring.lab.plan import DEFAULT_PARENT, LabError, LabPlan
from mooring.lab.supervise import Part

_CGROUP_DEADLINE_S = 5.0
_LOCK_DEADLINE_S = 0.5
_PACKAGES = {
    "arping": "iputils-arping",
    "busybox": "busybox-static",
    "curl": "curl",
    "dig": "bind9-dnsutils",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "ethtool": "ethtool",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "named": "bind9",
    "nginx": "nginx-light",
    "nsenter": "util-linux",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch",
    "ovsdb-server": "openvswitch-switch",
    "prometheus": "prometheus",
    "redis-server": "redis-server",
    "runc": "runc",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "sysctl": "procps",
}


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One line of `status`."""

    part: str
    pid: int | None
    serves: bool
    where: str
    problem: str
    log: str


def check_machine(plan: LabPlan) -> None:
    """Raise `LabError`, in one line, where a lab cannot run: not Linux, not root, packages missing."""
    if not sys.platform.startswith("linux"):
        raise LabError("the lab needs Linux: it is made of network namespaces")
    if os.geteuid() != 0:
        raise LabError("the lab needs root, for network namespaces; run it with sudo")
    path = supervise.environment(plan)["PATH"]
    missing = sorted({package for name, package in _PACKAGES.items() if not shutil.which(name, path=path)})
    if missing:
        raise LabError(
            f"the lab needs more packages: apt-get install --no-install-recommends {' '.join(missing)}"
        )


def check_ports(plan: LabPlan) -> None:
    """Raise `LabError` naming every port of the plan that somebody else listens on."""
    taken = []
    for part, port in plan.ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(f"{port} ({part})")
    if taken:
        raise LabError(f"ports in use on 127.0.0.1: {', '.join(taken)}; give another --port-base")


# -- up


async def up(plan: LabPlan) -> bool:
    """Bring the lab up and wait until all of it serves; False when it was up already."""
    check_machine(plan)
    _refuse_foreign(plan)
    plan.state_dir.mkdir(parents=True, exist_ok=True)
    with _locked(plan.state_dir):
        if _is_complete(plan):
            await _refuse_broken(plan)
            return False
        _clear(plan, keep_dir=True)
        check_ports(plan)
        _write_marker(plan, complete=False)
        await _build(plan)
        _write_marker(plan, complete=True)
    return True


async def _build(plan: LabPlan) -> None:
    for directory in (plan.log_dir, plan.pid_dir, plan.daemon_dir):
        directory.mkdir()
    for agent in plan.agents:
        agent.ovs_dir.mkdir(parents=True)
    edges.write_configs(plan)
    edges.write_marathon(plan)
    docker.write_config(plan)
    await sshd.write_keys(plan)
    sshd.write_inventory(plan)
    plan.daemon_config.write_text(render_daemon_config(plan))
    await namespaces.create(plan)
    await _all(
        _network(plan),
        _machines(plan),
        *(supervise.start(plan, part) for part in edges.parts(plan)),
        supervise.start(plan, doors.part(plan)),
    )
    await _all(*(supervise.start(plan, guardians.part(plan, agent)) for agent in plan.agents))


async def _network(plan: LabPlan) -> None:
    await _all(*(switches.start(plan, switch) for switch in switches.all_switches(plan)))
    await namespaces.address_gateways(plan)


async def _machines(plan: LabPlan) -> None:
    await supervise.start(plan, sshd.machine_room(plan))
    await _all(_engine(plan), *(supervise.start(plan, sshd.part(plan, agent)) for agent in plan.agents))


async def _engine(plan: LabPlan) -> None:
    await supervise.start(plan, docker.part(plan))
    await docker.import_image(plan)
    await supervise.start(plan, edges.marathon(plan))


async def _all(*jobs: Awaitable[None]) -> None:
    """Do all at once; when one fails, stop the others and raise its error, not a group of errors."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- down


def down(plan: LabPlan) -> bool:
    """Leave nothing of the lab behind; False when there was nothing."""
    check_machine(plan)
    _refuse_foreign(plan)
    if not plan.state_dir.exists():
        return _clear(plan)
    with _locked(plan.state_dir):
        return _clear(plan)


def _clear(plan: LabPlan, *, keep_dir: bool = False) -> bool:
    """Remove everything of the lab by name; with `keep_dir` the (locked) state directory stays, empty."""
    found = supervise.kill_all(plan) > 0
    found |= namespaces.delete(plan) > 0
    found |= namespaces.delete_mounts(plan.state_dir) > 0
    found |= _delete_cgroups(plan)
    if not plan.state_dir.exists():
        return found
    # The marker goes last: a `down` that is killed half-way can still be repeated.
    for entry in sorted(plan.state_dir.iterdir(), key=lambda path: path == plan.marker):
        found = True
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    if not keep_dir:
        plan.state_dir.rmdir()
        with suppress(OSError):  # other labs live there, or it is not ours
            DEFAULT_PARENT.rmdir()
    return found


def _delete_cgroups(plan: LabPlan) -> bool:
    """Remove the lab's control groups in every hierarchy, the deepest first."""
    tops = supervise.cgroups(plan)
    for top in tops:
        for directory, _, _ in os.walk(top, topdown=False):
            _delete_cgroup(Path(directory))
    return bool(tops)


def _delete_cgroup(directory: Path) -> None:
    """Remove one group; the kernel calls it busy for a moment after its last process has ended."""
    give_up = time.monotonic() + _CGROUP_DEADLINE_S
    while True:
        try:
            directory.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > give_up:
                raise LabError(
                    f"control group {directory} stays busy: {error}; see its cgroup.procs"
                ) from error
            time.sleep(0.02)


# -- status


def all_parts(plan: LabPlan) -> list[Part]:
    """Every process of the lab, in the order a person would look at them."""
    found = [part for switch in switches.all_switches(plan) for part in switches.parts(plan, switch)]
    found += [sshd.machine_room(plan), docker.part(plan)]
    found += [sshd.part(plan, agent) for agent in plan.agents]
    found += [guardians.part(plan, agent) for agent in plan.agents]
    return [*found, *edges.parts(plan), doors.part(plan), edges.marathon(plan)]


async def status(plan: LabPlan) -> list[PartStatus]:
    """Ask every part whether it serves; `LabError` when there is no such lab."""
    if not plan.marker.exists():
        raise LabError(f"lab {plan.name} is not up; run `mooring lab up --name {plan.name}`")
    return list(await asyncio.gather(*(_ask(plan, part) for part in all_parts(plan))))


async def _ask(plan: LabPlan, part: Part) -> PartStatus:
    pid = supervise.pid_of(plan, part.name)
    problem = "" if pid else "process has ended"
    if pid:
        try:
            await asyncio.wait_for(part.ready(), 5)
        except Exception as error:  # every way to fail is an answer here
            problem = f"{type(error).__name__}: {error}".strip(": ")
    log = str(supervise.log_file(plan, part.name))
    return PartStatus(part.name, pid, not problem, part.where, problem, log)


async def _refuse_broken(plan: LabPlan) -> None:
    broken = [part for part in await status(plan) if not part.serves]
    if broken:
        named = ", ".join(f"{part.part} ({part.problem}; see {part.log})" for part in broken)
        raise LabError(f"lab {plan.name} is up, but broken: {named}; run `mooring lab down`, then `up`")


# -- the state directory


def _write_marker(plan: LabPlan, *, complete: bool) -> None:
    fresh = plan.marker.with_suffix(".new")
    fresh.write_text(json.dumps({**plan.remember(), "complete": complete}) + "\n")
    fresh.replace(plan.marker)


def _is_complete(plan: LabPlan) -> bool:
    """Whether an `up` came to its end here, and the machine has not been restarted since."""
    try:
        kept = json.loads(plan.marker.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(kept.get("complete")) and bool(supervise.find_all(plan))


def _refuse_foreign(plan: LabPlan) -> None:
    """Never write into, and never delete, a directory that is not this lab's."""
    if not plan.state_dir.exists():
        return
    kept = LabPlan.recall(plan.state_dir)
    if kept is None and any(plan.state_dir.iterdir()):
        raise LabError(f"{plan.state_dir} holds something that is no lab; empty it or give --state-dir")
    if kept is not None and kept != plan:
        what = f"lab {kept.name} with port base {kept.port_base}"
        raise LabError(f"{plan.state_dir} belongs to {what}; give its --name, or another --state-dir")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory for one `up` or `down`; `LabError` when another one works on it.

    A child of a killed `up` that has forked but not yet executed its program still holds the lock, and
    does not yet carry the lab's mark.  Waiting for the lock therefore also waits until every process
    that `down` has to find can be found.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(handle, directory)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, directory: Path) -> None:
    give_up = time.monotonic() + _LOCK_DEADLINE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up:
                what = "another `mooring lab` command works on"
                raise LabError(f"{what} {directory}; wait for its end") from None
        time.sleep(0.01)
