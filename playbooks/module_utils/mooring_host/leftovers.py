"""What pipework left behind: told to whoever observes, and removed where we may.

    a port whose device is gone, with pipework's kind of name    is removed
      under our mark                                             by a detach, as every dead port of ours
      under somebody else's                                      never
      under nobody's                                             if seen dead twice, and `clean_pipework`
    a link in the directory of namespaces to a dead process      if seen dead twice, and `clean_pipework`

What carries our mark is the caller's to judge, however it was made: the mark may be the last trace of a
lease, or of a daemon that knows more than this one.

A dead port is not harmless: pipework names ports after process ids, and when an id comes again, the container
that has it gets the old port with its old VLAN.  But others may use pipework on the same bridge, so what
carries no mark is left alone unless the inventory's owner says otherwise.

Twice means in two calls that change ports, and at least `APART_S` apart.  What was seen is kept in a file
below the state directory; a reboot forgets it, and the ports are still there to be seen again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .host import APPLY_TIMEOUT_S, FAILURES, Host
from .pipework_names import dead_links, is_port
from .switch import Placed, Switch

APART_S = 5.0
_FILE = "pipework-seen.json"


def leftovers(host: Host, switch: Switch, devices: Collection[str]) -> list[dict[str, Any]]:
    """What nobody's mark is on and nothing uses any more, for a report."""
    told: list[dict[str, Any]] = [
        {"port": placed.port.name, "vlan": placed.port.tag}
        for placed in sorted(_ports(host, switch, devices), key=lambda placed: placed.port.name)
    ]
    return [*told, *({"link": link} for link in dead_links())]


def collect(host: Host) -> None:
    """Remove what was seen dead before and still is.

    Nobody waits for it and nothing depends on it, so an error leaves it to the next call.
    """
    settings = host.settings
    if settings.check or not settings.clean_pipework:
        return
    with contextlib.suppress(*FAILURES):
        switch = host.switch()
        switch.check_epoch(settings.epoch, settings.sequence)
        ports, links = _ports(host, switch, host.devices()), dead_links()
        due = _seen_before(Path(settings.state_dir), [*(placed.port.uuid for placed in ports), *links])
        _remove_ports(host, switch, [placed for placed in ports if placed.port.uuid in due])
        for link in due.intersection(links):
            os.unlink(link)


def _ports(host: Host, switch: Switch, devices: Collection[str]) -> list[Placed]:
    """Dead ports under nobody's mark."""
    return [
        placed
        for placed in host.all_ports().values()
        if placed.bridge == switch.bridge
        and not placed.marked
        and is_port(placed.port.name)
        and placed.port.name not in devices
    ]


def _remove_ports(host: Host, switch: Switch, ports: list[Placed]) -> None:
    if not ports:
        return
    transaction = host.change(switch)
    for placed in ports:
        transaction.remove(placed.port)
    host.database.wait_applied(transaction.commit(host.database), APPLY_TIMEOUT_S)


def _seen_before(state_dir: Path, dead: Collection[str]) -> set[str]:
    """Which of them were seen dead long enough ago; all are remembered for the next time."""
    path, now = state_dir / _FILE, time.clock_gettime(time.CLOCK_BOOTTIME)
    seen = _read(path)
    kept = {name: min(seen.get(name, now), now) for name in dead}
    waiting = path.with_suffix(".new")
    waiting.write_text(json.dumps(kept), encoding="utf-8")
    waiting.replace(path)
    return {name for name, since in kept.items() if now - since >= APART_S}


def _read(path: Path) -> dict[str, float]:
    try:
        return {
            str(name): float(since) for name, since in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # the first time, or somebody has damaged it: everything is seen for the first time
