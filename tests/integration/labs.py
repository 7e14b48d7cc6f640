"""What the lab's own tests need: a plan nobody else uses, and proof that nothing is left of a lab.

The proof looks at the machine with its own eyes; none of the lab's code is asked.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from mooring.lab.plan import LabPlan

_taken: set[int] = set()  # bases given out by this process, whose labs may not be up yet


def fresh_plan(prefix: str) -> LabPlan:
    """A plan with a random name, a short state directory, and a hundred free ports."""
    name = prefix + secrets.token_hex(3)
    return LabPlan(name, Path("/tmp") / f"mlab-{name}", _free_base())


def _free_base() -> int:
    for _ in range(50):
        base = 22000 + 100 * secrets.randbelow(40)  # the labs of the end-to-end tests begin at 26000
        if base not in _taken and all(_is_free(base + offset) for offset in range(100)):
            _taken.add(base)
            return base
    raise AssertionError("no hundred free ports in a row on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def remains(plan: LabPlan) -> list[str]:
    """Everything on this machine that still belongs to the lab, in words; empty is clean."""
    found = [f"namespace {line}" for line in _namespaces() if line.startswith(f"mlab-{plan.name}-")]
    found += [f"process {entry}" for entry in _processes(plan)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if str(plan.state_dir) in line or plan.name in line]
    found += [f"port {port}" for port in range(plan.port_base, plan.port_base + 100) if not _is_free(port)]
    groups = subprocess.run(
        ["find", "/sys/fs/cgroup", "-type", "d", "-name", f"*{plan.name}*"], capture_output=True, text=True
    )
    found += [f"control group {line}" for line in groups.stdout.split()]
    found += [f"directory {plan.state_dir}"] if plan.state_dir.exists() else []
    return found


def _namespaces() -> list[str]:
    told = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in told.stdout.splitlines() if line]


def _processes(plan: LabPlan) -> list[str]:
    """Live processes that carry the mark, or whose command line names the state directory."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended
            place = Path("/proc") / name
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            marked = f"MOORING_LAB={plan.name}".encode() in (place / "environ").read_bytes().split(b"\0")
            if int(name) != os.getpid() and (marked or str(plan.state_dir) in command):
                found.append(f"{name} {command}")
    return found
