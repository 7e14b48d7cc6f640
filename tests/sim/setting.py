"""The configuration of a simulated daemon, and where its log goes."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from mooring.controller.settings import Settings
from tests.sim import pairs
from tests.sim.world import ZONE

COOLING_S = 20.0
POOLS: dict[str, dict[str, Any]] = {
    "blue": {"network": "10.64.0.0/26", "gateway": "10.64.0.1", "vlan": 10,
             "ipv6": pairs.NETWORK, "gateway6": "fe80::1",
             "exclude": ["10.64.0.4"], "reserve": {"10.64.0.6": "a printer"}},
    "green": {"network": "10.64.1.0/28", "gateway": "10.64.1.1"},
    "tiny": {"network": "10.64.2.0/29", "gateway": "10.64.2.1"},
}  # fmt: skip
SET_ASIDE = ("10.64.0.1", "10.64.0.4", "10.64.0.6", "10.64.1.1", "10.64.2.1")


def sim_settings(directory: Path, pools: dict[str, str], **changes: Any) -> Settings:
    """A configuration with short waits; the networks of its pools are entered in `pools`."""
    pools.update({name: pool["network"] for name, pool in POOLS.items()})
    table: dict[str, Any] = {
        "store": directory / "store.db",
        "balancer_groups": ["*"],
        "hosts": {f"h{number}": f"192.0.2.{number}" for number in range(1, 9)},
        "workers": 16,
        "verify_every_s": 20.0,
        "marathon": {"endpoints": ["http://m:1"], "snapshot_every_s": 30.0, "absence_confirm_s": 15.0},
        "pools": POOLS,
        "leases": {"cooling_s": COOLING_S, "seat_wait_s": 10.0},
        "ansible": {"inventory": directory / "inventory"},
        "dns": {"server": "memory", "zone": ZONE, "key_name": "k", "secret_file": directory / "secret"},
    }
    return Settings.model_validate({**table, **changes})


@contextlib.contextmanager
def logs_into(trace: Callable[[str], None], defects: list[str]) -> Any:
    """For the time of the body the daemon's log lines go into the trace; defects are collected."""

    def write(_: Any, level: str, line: dict[str, Any]) -> Any:
        trace_back = line.pop("exc_info", None)
        event, rest = line.pop("event"), {key: value for key, value in line.items() if value is not None}
        trace(f"  log {level}: {event} {' '.join(f'{key}={value}' for key, value in rest.items())}")
        if trace_back or level in ("exception", "critical"):
            defects.append(f"{event}: {rest.get('error')}")
            trace(traceback.format_exc())
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, write])
    try:
        yield
    finally:
        structlog.configure(**before)
