"""Run the module once and stop its process at a given point; whoever started it may let it go on later.

Arguments: the point, the module's settings as JSON, the operations as JSON.  Prints the results as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from mooring.playbooks.module_utils.mooring_host import operations
from mooring.playbooks.module_utils.mooring_host.host import Host, Settings
from mooring.playbooks.module_utils.mooring_host.links import ContainerLinks
from mooring.playbooks.module_utils.mooring_host.netlink import Netlink
from mooring.playbooks.module_utils.mooring_host.switch import Transaction

POINTS: dict[str, tuple[Any, str]] = {
    "before its turn": (operations, "my_turn"),
    "before the switch is read": (Host, "switch"),
    "before the link is made": (Netlink, "create_veth"),
    "before the transaction": (Transaction, "commit"),
    "before the interface is configured": (ContainerLinks, "configure"),
}


def stop_at(point: str) -> None:
    """Stop this process when it comes to the point for the first time."""
    owner, name = POINTS[point]
    original: Callable[..., Any] = getattr(owner, name)

    def stopping(*arguments: Any, **named: Any) -> Any:
        setattr(owner, name, original)
        os.kill(os.getpid(), signal.SIGSTOP)
        return original(*arguments, **named)

    setattr(owner, name, stopping)


def main() -> None:
    point, settings, orders = sys.argv[1:]
    stop_at(point)
    print(json.dumps(operations.perform(Settings(**json.loads(settings)), json.loads(orders))))


if __name__ == "__main__":
    main()
