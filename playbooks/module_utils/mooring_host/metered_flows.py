"""The flow that sends what a limited port says through its meter: one for each port, known by its cookie.

It lies in the table where whatever the guards let pass is forwarded (see `guards`), just above the rule that
forwards without a meter, and forwards as that does.
"""

from __future__ import annotations

import hashlib

from .guards import FORWARD, FORWARD_TABLE, LIMITED, MAGIC
from .meters import Bridge

PRIORITY = 1


def cookie_for(port: str) -> int:
    """The cookie of a port's flow."""
    own = int.from_bytes(hashlib.sha256(f"limit\0{port}".encode()).digest()[:8], "big") >> 28
    return MAGIC << 52 | LIMITED << 36 | own


def put_flows(bridge: Bridge, meters: dict[str, tuple[int, int]]) -> None:
    """Send each port through its meter: (OpenFlow port, meter) by name; all or none."""
    lines = [
        f"cookie={cookie_for(port):#x},table={FORWARD_TABLE},priority={PRIORITY},in_port={number},"
        f"actions=meter:{meter},{FORWARD}"
        for port, (number, meter) in meters.items()
    ]
    bridge.change_flows(lines)


def delete_flows(bridge: Bridge, ports: list[str]) -> None:
    """Delete the flows of these ports; all or none."""
    lines = [f"delete cookie={cookie_for(port):#x}/-1" for port in ports]
    bridge.change_flows(lines)
