"""Orders done in one transaction: anew when the switch changed meanwhile, one by one when it refuses.

A batch that the switch refuses is tried order by order, so that one bad order costs only itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import Retry
from .host import FAILURES, Host, Result, failure
from .ovsdb import OvsdbRejected, OvsdbStale

ATTEMPTS = 4


def together(
    host: Host, orders: list[Any], attempt: Callable[[Host, list[Any]], list[Result]], what: str
) -> list[Result]:
    """One result per order, in order; `what` is being done to ports, for the error."""
    error: Exception = Retry(f"the switch keeps changing while ports are being {what}")
    for _ in range(ATTEMPTS):
        try:
            return attempt(host, orders)
        except OvsdbStale:
            continue
        except OvsdbRejected as rejected:
            if len(orders) > 1:
                return [together(host, [order], attempt, what)[0] for order in orders]
            error = rejected
            break
        except FAILURES as failed:
            error = failed
            break
    return [failure(order.id, error) for order in orders]
