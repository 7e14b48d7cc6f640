"""The switch's rules, read and changed through `ovs-ofctl`, which comes with every Open vSwitch.

A change of any number of rules is one bundle: all of it is in force from one packet to the next, or nothing.
Ports are named by number, never by name: one name that has vanished would void the bundle.

`ovs-ofctl` finds a bridge by its management socket, which lies in the run directory of ovs-vswitchd, beside
that of the database.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import Retry
from .guards import Rule

TIMEOUT_S = 5
VERSION = "OpenFlow14"  # the first with bundles
_FLOW = re.compile(
    r"\s*cookie=(?P<cookie>0x[0-9a-f]+|0),.*?\btable=(?P<table>\d+),.*?\bn_packets=(?P<packets>\d+),.*?"
    r"(?:\bpriority=(?P<priority>\d+)(?P<match>\S*))?\s+actions=(?P<actions>.*)"
)


@dataclass(frozen=True)
class Flow:
    """One rule as the switch tells it; `match` is in the switch's own words."""

    cookie: int
    table: int
    priority: int
    match: str
    actions: str
    packets: int = 0

    @property
    def seen(self) -> tuple[int, int, int, str]:
        """What identifies it among rules of ours (see `guards.Rule.seen`)."""
        return (self.cookie, self.table, self.priority, self.actions)


def management_socket(database: str, bridge: str) -> str:
    """Where the bridge takes OpenFlow connections of programs on the same host."""
    return os.path.join(os.path.dirname(database), f"{bridge}.mgmt")


class OpenFlow:
    """The rules of one bridge."""

    def __init__(self, database: str, bridge: str) -> None:
        self.bridge = bridge
        self._socket = management_socket(database, bridge)

    def flows(self) -> list[Flow]:
        """Every rule of the bridge, whoever made it; raises Retry."""
        return read_flows(self._run("", "--no-names", "dump-flows", self._target))

    def change(self, remove: Iterable[Flow], add: Iterable[Rule]) -> None:
        """Remove and add, all at once or not at all; raises Retry."""
        lines = [f"delete table={flow.table},cookie={flow.cookie:#x}/-1" for flow in remove]
        lines += [f"add {rule.text}" for rule in add]
        self._run("\n".join(lines) + "\n", "--bundle", "add-flows", self._target, "-")

    @property
    def _target(self) -> str:
        return f"unix:{self._socket}"

    def _run(self, text: str, *words: str) -> str:
        if not os.path.exists(self._socket):
            raise Retry(
                f"bridge {self.bridge} takes no OpenFlow connections at {self._socket}: is ovs-vswitchd "
                "running, with its run directory where the database's socket is?"
            )
        command = ["ovs-ofctl", "-O", VERSION, f"--timeout={TIMEOUT_S}", *words]
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S + 1, check=False
            )
        except FileNotFoundError:
            raise Retry("this host has no ovs-ofctl: install the package of Open vSwitch's tools") from None
        except subprocess.TimeoutExpired:
            raise Retry(f"bridge {self.bridge} did not answer ovs-ofctl within {TIMEOUT_S} s") from None
        if done.returncode:
            raise Retry(f"bridge {self.bridge} refused the rules: {_complaint(done.stderr)}")
        return done.stdout


def _complaint(text: str) -> str:
    if "version negotiation failed" in text:
        return f"it does not speak {VERSION}; add that to the bridge's `protocols`"
    return " ".join(text.split())[:300] or "ovs-ofctl gave no reason"


def read_flows(text: str) -> list[Flow]:
    """The rules in what `ovs-ofctl dump-flows` prints."""
    found = (_FLOW.fullmatch(line) for line in text.splitlines())
    return [
        Flow(
            cookie=int(flow["cookie"], 16),
            table=int(flow["table"]),
            # What is printed without a priority has the default one.
            priority=32768 if flow["priority"] is None else int(flow["priority"]),
            match=(flow["match"] or "").lstrip(","),
            actions=flow["actions"],
            packets=int(flow["packets"]),
        )
        for flow in found
        if flow is not None
    ]
