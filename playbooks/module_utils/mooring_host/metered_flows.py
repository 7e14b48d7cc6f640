"""The flow that sends what a limited port says through its meter: one for each port, known by its cookie.

It lies just above the bridge's own flow, and forwards as that does.  Flows of a higher priority decide
first; whoever adds one that lets a limited port speak has to begin its actions with `meter:N`.
"""

from __future__ import annotations

import hashlib

from .meters import Bridge

PRIORITY = 1


def cookie_for(port: str) -> int:
    """The cookie of a port's flow."""
    return int.from_bytes(hashlib.sha256(f"limit\0{port}".encode()).digest()[:8], "big") >> 1


def put_flows(bridge: Bridge, meters: dict[str, tuple[int, int]]) -> None:
    """Send each port through its meter: (OpenFlow port, meter) by name; all or none."""
    lines = [
        f"cookie={cookie_for(port):#x},priority={PRIORITY},in_port={number},actions=meter:{meter},NORMAL"
        for port, (number, meter) in meters.items()
    ]
    bridge.change_flows(lines)


def delete_flows(bridge: Bridge, ports: list[str]) -> None:
    """Delete the flows of these ports; all or none."""
    lines = [f"delete cookie={cookie_for(port):#x}/-1" for port in ports]
    bridge.change_flows(lines)
