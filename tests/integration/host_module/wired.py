"""Containers that pipework has wired: the stand-in, and the real program where this machine has one.

The real one is looked for in PATH, and at the path in MOORING_PIPEWORK.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .rig import BRIDGE, HostRig

STAND_IN = Path(__file__).with_name("pipework_stand_in.py")
# A host of these tests is a namespace for networks only, and would see the machine's devices below /sys.
_WRAPPER = """#!/bin/sh
exec unshare --mount sh -c 'mount -t sysfs sysfs /sys && exec "$0" "$@"' {program} "$@"
"""


@dataclass
class Pipework:
    """The program `pipework` in a directory of its own, to be put into PATH."""

    directory: Path

    @property
    def path(self) -> str:
        return f"{self.directory}{os.pathsep}{os.environ['PATH']}"

    def run(self, rig: HostRig, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it on the host by hand, as operators' scripts do."""
        assert rig.namespace is not None
        environment = {
            "PATH": self.path,
            "OVS_RUNDIR": str(rig.directory),
            "DOCKER_HOST": f"unix://{rig.engine}",
        }
        with rig.namespace.entered():
            return subprocess.run(
                [str(self.directory / "pipework"), *words],
                env=environment,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )

    def wire(self, rig: HostRig, container: str, address: str, mac: str, *, interface: str = "eth1") -> None:
        """Give a container an interface with an address (`IP/LEN[@GATEWAY]`)."""
        done = self.run(rig, BRIDGE, "-i", interface, container, address, mac)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def installed(which: str, directory: Path) -> Iterator[Pipework]:
    """The stand-in or the real one; skips the test where this machine has no real one."""
    program = STAND_IN if which == "stand-in" else _real()
    script = directory / "pipework"
    script.write_text(_WRAPPER.format(program=program))
    script.chmod(0o755)
    yield Pipework(directory)


def _real() -> Path:
    found = os.environ.get("MOORING_PIPEWORK") or shutil.which("pipework")
    if found is None:
        pytest.skip("pipework is not in PATH, and MOORING_PIPEWORK does not say where it is")
    return Path(found)


def process_of(rig: HostRig, container: str) -> str:
    """The id of a container's first process."""
    return rig.docker("inspect", "--format={{ .State.Pid }}", container)


def port_for(rig: HostRig, container: str, interface: str) -> str:
    """What pipework calls the port."""
    return f"v{interface}pl{process_of(rig, container)}"


def tag_of(rig: HostRig, port: str) -> str:
    """The port's VLAN as the switch's own client tells it."""
    return rig.vsctl("get", "Port", port, "tag")
