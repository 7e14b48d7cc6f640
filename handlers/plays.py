"""What both ways of running plays share: where the plays are, what Ansible is told, and how a play can fail.

`ansible` starts a process for each play (through ansible-runner), `warm` keeps them ready.  Which way a
play went is not to be seen in what it does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mooring.core.errors import Refused, Retryable

PLAYBOOK_DIR = Path(__file__).resolve().parent.parent / "playbooks"
HELPER_DIR = "/usr/local/lib/mooring-host"
FLIGHT_MARK = "MOORING_FLIGHT"  # in the environment of every program that a play starts
Operations = Sequence[Mapping[str, object]]
Results = list[dict[str, object]]
Helped = Callable[[str, str], None]  # told host, and version of the program that did a flight there; "": none

_SSH = "-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=2"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


class HostUnreachable(Retryable):
    """Ansible could not connect to the host; nothing was done there."""


class PlayFailed(Retryable):
    """The play ended without results; what was done on the host is unknown until it is read again."""


@dataclass(frozen=True, slots=True)
class Flying:
    """How plays are run.

    `inventory` is Ansible's, and may set `mooring_database`, `mooring_engine`, `mooring_state_dir` and
    `mooring_helper_dir` for hosts that differ, and `mooring_wiring` for those that are not wired as `wiring`
    says.  `owner` and `bridge` are what the module needs to know its own ports.  A play is ended after
    `timeout_s`; `grace_s` is the time it then has to end by itself.  `parallel` bounds the plays in flight; a
    quarter as many may be in flight besides, for hosts whose last play gave no results, so that hosts which
    hang never take all of them.
    """

    inventory: Path
    owner: str
    bridge: str
    helper_dir: str = HELPER_DIR
    wiring: str = "native"
    clean_pipework: bool = False
    playbook_dir: Path = PLAYBOOK_DIR
    timeout_s: float = 60.0
    connect_timeout_s: int = 5
    grace_s: float = 3.0
    parallel: int = 16
    host_key_checking: bool = True

    def playbook(self, name: str) -> Path:
        """The play of that name."""
        return self.playbook_dir.resolve() / f"{name}.yml"

    def variables(self, helper_version: str) -> dict[str, object]:
        """What every play is told."""
        return {
            "mooring_owner": self.owner,
            "mooring_bridge": self.bridge,
            "mooring_helper_version": helper_version,
            "mooring_usual_helper_dir": self.helper_dir,
            "mooring_usual_wiring": self.wiring,
            "mooring_clean_pipework": self.clean_pipework,
        }

    def environment(self, work_dir: Path) -> dict[str, str]:
        """What every play finds in its environment. `work_dir` needs a short path: it will hold sockets."""
        return {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_HOME": str(work_dir / "home"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(work_dir / "cp"),
            "ANSIBLE_SSH_ARGS": f"{_SSH} -o BatchMode=yes",
            "ANSIBLE_TIMEOUT": str(self.connect_timeout_s),
            "ANSIBLE_HOST_KEY_CHECKING": str(self.host_key_checking),
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_GATHERING": "explicit",
            "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3",
            "ANSIBLE_NOCOLOR": "True",
            "ANSIBLE_DEPRECATION_WARNINGS": "False",
        }


def nobody_told(host: str, version: str) -> None:
    """A `Helped` that nobody listens to."""


def check_host(host: str) -> None:
    """Raise `Refused` for a name that Ansible would take for a pattern of hosts."""
    if not _HOST.fullmatch(host):
        raise Refused(f"host {host[:80]!r}: not a host name; see what the agent calls itself in Marathon")


def close_connections(work_dir: Path) -> None:
    """End the ssh connections that plays have shared."""
    for control in work_dir.glob("cp/*"):
        words = ["ssh", "-o", f"ControlPath={control}", "-O", "exit", "any"]
        subprocess.run(words, capture_output=True, timeout=10, check=False)
