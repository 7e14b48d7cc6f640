"""What the twin of a host answers to `check`: a sound host, in the form of the real one's answer."""

from __future__ import annotations

from typing import Any

_GIB = 1 << 30


def facts_in_memory(name: str, ports: int) -> dict[str, Any]:
    """The facts of a host of that name with that many ports of ours."""
    uplink: dict[str, Any] = {
        "name": "eth1",
        "type": "system",
        "tag": None,
        "trunks": [],
        "mtu": 1500,
        "up": True,
        "error": "",
    }
    return {
        "node": name,
        "kernel": "6.1.0",
        "python": "3.11.2",
        "program": "0" * 12,
        "ipv6": True,
        "programs": {"tc": "/sbin/tc", "ovs-ofctl": "/usr/bin/ovs-ofctl", "ovs-vsctl": "/usr/bin/ovs-vsctl",
                     "pipework": None},
        "state_dir": "/run/mooring",
        "free_bytes": _GIB,
        "switch": {
            "error": "", "version": "3.1.0", "schema": "8.3.1", "behind": 0, "bridge": "br-mooring",
            "exists": True, "datapath": "netdev", "checksum_offload_off": True, "fail_mode": "secure",
            "controllers": {}, "uplinks": [uplink], "ports": ports,
        },
        "engine": {"error": "", "version": "20.10.24"},
        "limits": {"tbf": "", "htb": "", "policing": "", "meters": ""},
    }  # fmt: skip
