"""What the lab's Marathon asks of the machines it launches on.

The lab's Marathon decides *what* runs and *where*; an `Engine` makes it run.  The Docker engine
(`lab/docker.py`) starts real containers with no network of their own; the process engine
(`lab/processes.py`) starts plain processes in fresh network namespaces for machines where no
Docker engine can run.  Both hide behind this protocol, so Marathon cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Workload:
    """One container to start, as Marathon describes it to an agent."""

    task_id: str
    app_id: str
    host: str  # the agent's host name, e.g. "agent-1"
    image: str
    argv: Sequence[str]  # what to execute; Marathon's `cmd` arrives as ["/bin/sh", "-c", cmd]
    env: Mapping[str, str]
    labels: Mapping[str, str]  # Docker labels; MESOS_TASK_ID is always among them
    network: str = "none"  # "none": its own empty namespace; "host": the agent's namespace
    memory_mb: float = 32.0


@dataclass(frozen=True, slots=True)
class Exit:
    """A container has ended."""

    container: str
    task_id: str
    exit_code: int


class Engine(Protocol):
    """Starts and stops containers on the lab's hosts."""

    async def launch(self, workload: Workload) -> str:
        """Start the workload and return its container name, `mesos-<uuid>`."""

    async def kill(self, container: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; returns when the container is gone and removed."""

    async def pid(self, container: str) -> int:
        """Process id of the container's first process, as seen from the root PID namespace."""

    async def execute(self, container: str, argv: Sequence[str], timeout_s: float) -> int:
        """Run a command inside the container; its exit status (124 when it took too long)."""

    def exits(self) -> AsyncIterator[Exit]:
        """Every container that ends from now on, whoever ended it (also `docker kill` by hand)."""
