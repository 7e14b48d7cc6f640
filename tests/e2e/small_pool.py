"""A pool that is soon full: the lab's second network with all but its first addresses excluded.

Addresses also cool for a shorter time than elsewhere in the lab, since everybody here waits for them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

from mooring.lab import background
from mooring.lab.plan import VLANS, LabPlan
from mooring.lab.sample import app

_VLAN = next(vlan for vlan in VLANS if vlan.pool == "ops")
POOL = _VLAN.pool
FIRST = _VLAN.gateway + 1
COOLING_S = 15.0


def addresses(count: int) -> list[str]:
    """The pool's first addresses to give out."""
    return [str(FIRST + number) for number in range(count)]


def shrunk(size: int, reserve: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """What makes the pool so small in the text of the daemon's configuration, with these reservations."""
    last = IPv4Address(int(_VLAN.network.broadcast_address) - 1)
    more = f'exclude = ["{FIRST + size}-{last}"]\n'
    if reserve:
        more += "reserve = { " + ", ".join(f'"{one}" = "{why}"' for one, why in reserve.items()) + " }\n"
    heading = f"[pools.{POOL}]\n"

    def change(text: str) -> str:
        changed = re.sub(r"(?m)^cooling_s = .*$", f"cooling_s = {COOLING_S}", text)
        assert changed != text
        assert heading in changed
        return changed.replace(heading, heading + more)

    return change


@asynccontextmanager
async def configured(plan: LabPlan, change: Callable[[str], str]) -> AsyncIterator[None]:
    """Meanwhile the daemon has another configuration; it is started anew for it, and again at the end."""
    kept = plan.daemon_config.read_text()
    await _restarted(plan, change(kept))
    try:
        yield
    finally:
        await _restarted(plan, kept)


async def _restarted(plan: LabPlan, text: str) -> None:
    await background.stop(plan)
    plan.daemon_config.write_text(text)
    await background.start(plan)


def tenant(name: str, instances: int, labels: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    """An app of the pool, which Marathon lets wait for its address for as long as it takes."""
    definition = app(name, instances, 8080, {"MOORING_POOL": POOL, **(labels or {})})
    for check in definition["healthChecks"]:
        check["gracePeriodSeconds"] = 600
    return {**definition, **changes}
