"""Which TCP ports a balancer could not have, because another process listens there.

Neither `haproxy -c` nor `nginx -t` finds out, and a reload that meets a taken port does harm: HAProxy
2.6 pauses its old listeners while it tries, so every client is refused for about two seconds.  So we
look before we reload, in the network namespace of the balancer, which need not be ours:
/proc/<pid>/net lists every socket of that namespace, /proc/<pid>/fd which of them are its own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from mooring.core.sink import RetryAfter
from mooring.lb.desk import Flight

_LISTENING = "0A"


def foreign_ports(pid: int, program: str, proc: Path = Path("/proc")) -> frozenset[int]:
    """Ports on which somebody other than `pid` listens in its network namespace.

    Empty where /proc does not show the process or shows another `program` under that id (another PID
    namespace, not enough rights): the reload will tell then.
    """
    own = _socket_inodes(proc / str(pid) / "fd")
    if own is None or not _program(pid, proc).startswith(program):
        return frozenset()
    found = set()
    for table in ("tcp", "tcp6"):
        for port, inode in _listening(proc / str(pid) / "net" / table):
            if inode not in own:
                found.add(port)
    return frozenset(found)


async def refuse_taken_ports(flight: Flight, pid: int, program: str) -> None:
    """Take back, for now, the services of a flight whose port another process has."""
    taken = await asyncio.to_thread(foreign_ports, pid, program)
    flight.reject(
        {
            service.key: RetryAfter(
                f"app {service.terms.app}: another process listens on port {service.port} at the balancer"
            )
            for service in flight.table.services
            if service.port in taken
        }
    )


def _socket_inodes(directory: Path) -> set[str] | None:
    inodes = set()
    try:
        for entry in directory.iterdir():
            try:
                target = str(entry.readlink())
            except FileNotFoundError:  # closed since it was listed
                continue
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    except OSError:
        return None
    return inodes


def _listening(table: Path) -> list[tuple[int, str]]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [(int(row[1].rpartition(":")[2], 16), row[9]) for row in rows if row[3] == _LISTENING]


def _program(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except OSError:
        return ""


def children(pid: int, proc: Path = Path("/proc")) -> dict[int, str]:
    """The child processes of `pid` with their command lines as the kernel shows them."""
    try:
        listed = (proc / str(pid) / "task" / str(pid) / "children").read_text().split()
    except OSError:
        return {}
    return {int(child): title for child in listed if (title := command_line(int(child), proc))}


def command_line(pid: int, proc: Path = Path("/proc")) -> str:
    """The command line of a process, its arguments joined by blanks; empty if there is none."""
    try:
        return (
            (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
    except OSError:
        return ""
