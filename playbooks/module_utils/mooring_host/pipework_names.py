"""What pipework leaves behind on a host, known by its names.

For the process PID and the interface IF of a container pipework makes the device `vIFplPID` on the host, and
a port of that name on the bridge; `vIFpgPID` is the other end until it is in the container.  While it works,
the link PID in the directory of named namespaces points to the process's.  A device's name has 15 characters
at most, so not every interface fits.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LONGEST = 15  # characters of a device's name
LINKS = Path("/var/run/netns")
_PORT = re.compile(r"v.{1,11}pl[0-9]{1,10}")


def port_of(interface: str, process: int) -> str:
    """The name of the port, and of the host's end of the pair."""
    return f"v{interface}pl{process}"


def guest_of(interface: str, process: int) -> str:
    """The name of the other end before it is moved into the container."""
    return f"v{interface}pg{process}"


def is_port(name: str) -> bool:
    """Whether a port's name is one that pipework gives."""
    return _PORT.fullmatch(name) is not None


def link_of(process: int) -> Path:
    """The link that it makes for a process, and leaves if it is cut off."""
    return LINKS / str(process)


def is_link(path: Path) -> bool:
    """Whether that is such a link and nothing else."""
    try:
        return path.name.isdecimal() and os.readlink(path) == f"/proc/{path.name}/ns/net"
    except OSError:
        return False


def dead_links() -> list[str]:
    """The links to processes that are no more."""
    try:
        found = sorted(LINKS.iterdir())
    except OSError:
        return []
    return [str(path) for path in found if is_link(path) and not os.path.exists(f"/proc/{path.name}")]
