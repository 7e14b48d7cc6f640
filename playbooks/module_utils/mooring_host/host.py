"""The host as the operations see it: its switch, its devices, its container engine; and what they report.

Connections are made on first use, so a call that only writes a file does not need the switch and a call
that only detaches does not need the container engine.
"""

from __future__ import annotations

from collections.abc import Container as Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from .containers import Engine
from .errors import OperationError, Retry
from .netlink import Link, Netlink
from .openflow import OpenFlow
from .ovsdb import Ovsdb, OvsdbRejected, OvsdbUnreachable
from .planning import instance_mark
from .switch import Placed, Port, Switch, Transaction, read_all_ports, read_switch

APPLY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Settings:
    """What one call is told about the host and about its caller; `sequence` numbers the caller's calls."""

    owner: str
    epoch: int
    bridge: str
    sequence: int = 0
    check: bool = False
    database: str = "/var/run/openvswitch/db.sock"
    engine: str = "/var/run/docker.sock"
    state_dir: str = "/run/mooring"
    wiring: str = "native"  # or "pipework" (see that module)
    clean_pipework: bool = False  # whether leftovers of pipework without any mark may be removed


@dataclass
class Result:
    """What became of one operation; `details` are reported beside the fixed keys."""

    id: str
    status: str
    reason: str = ""
    changed: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """The form in which the caller gets it."""
        report = asdict(self)
        return {**report.pop("details"), **report}


def failure(order_id: str, error: Exception) -> Result:
    """The result of an operation that ended in an error; what is not a refusal may be tried again."""
    status = error.status if isinstance(error, OperationError) else "retry"
    return Result(order_id, status, str(error) or type(error).__name__)


# What an operation may end in without ending the others of the call.
FAILURES = (OperationError, OSError, OvsdbUnreachable, OvsdbRejected)


class Host:
    """Lazily opened access to everything on this host."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = Engine(settings.engine)
        self._database: Ovsdb | None = None
        self._netlink: Netlink | None = None

    def close(self) -> None:
        """Close all connections."""
        self.engine.close()
        if self._database is not None:
            self._database.close()
        if self._netlink is not None:
            self._netlink.close()

    @property
    def database(self) -> Ovsdb:
        """The switch database; raises OvsdbUnreachable."""
        if self._database is None:
            self._database = Ovsdb(self.settings.database)
        return self._database

    @property
    def netlink(self) -> Netlink:
        """Netlink in the host's own namespace."""
        if self._netlink is None:
            self._netlink = Netlink()
        return self._netlink

    @property
    def openflow(self) -> OpenFlow:
        """The rules of the bridge."""
        return OpenFlow(self.settings.database, self.settings.bridge)

    def switch(self) -> Switch:
        """Read the bridge and our ports."""
        return read_switch(self.database, self.settings.bridge, self.settings.owner)

    def all_ports(self) -> dict[str, Placed]:
        """Every port of every bridge by name, whoever it belongs to."""
        return read_all_ports(self.database)

    def change(self, switch: Switch) -> Transaction:
        """Begin to change ports; raises an OperationError if this call was overtaken."""
        return Transaction(switch, self.settings.epoch, self.settings.sequence)

    def devices(self) -> dict[str, Link]:
        """The host's network devices by name."""
        return self.netlink.links()

    def running(self) -> set[str] | None:
        """Ids of the running containers, or None if the engine does not answer."""
        try:
            return self.engine.running_ids()
        except Retry:
            return None

    def running_instances(self) -> set[str] | None:
        """What the devices of running containers may have in their alias for an instance; None: no answer.

        A task's id begins with its instance's, which ends at one of the points in it.
        """
        try:
            tasks = self.engine.running_tasks()
        except Retry:
            return None
        return {instance_mark(start) for task in tasks for start in _starts(task)}

    def alive(self, switch: Switch, devices: Collection[str]) -> set[str]:
        """Names of our ports whose device exists and whose container runs.

        A restarted container keeps its id but not its namespace, so its old device is gone; without an answer
        from the engine the device alone decides.
        """
        running = self.running()
        return {port.name for port in switch.ports.values() if port.name in devices and _runs(port, running)}


def _starts(task: str) -> list[str]:
    """Every beginning of a task's id that ends before a point, and all of it."""
    parts = task.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _runs(port: Port, running: set[str] | None) -> bool:
    return running is None or port.marks.get("container", "").partition("@")[0] in running
