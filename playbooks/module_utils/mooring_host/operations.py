"""One call: any number of operations on one host, each with a result of its own, in the order asked.

Operations of a kind are done together, kinds in this order: detach, attach, write, probe, observe.  Removing
comes first, because a call may take an address from one container and give it to another; observing comes
last, because it shall report what the others did.

Writes and probes depend on other people's programs.  Each kind has a budget of time (8 s and 2 s), so that
whatever these do, a call answers long before its caller gives up and loses the results of all operations.
What did not get its turn is answered with `retry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .attach import attach
from .detach import detach
from .errors import OperationError
from .host import FAILURES, Host, Result, Settings, failure
from .observe import observe
from .orders import Attach, Detach, Observe, Order, Probe, Write, parse
from .probing import probe
from .reloads import write


def perform(settings: Settings, operations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Do all operations; returns one report per operation, in the order asked."""
    results: dict[int, Result] = {}
    orders: dict[int, Order] = {}
    for index, operation in enumerate(operations):
        try:
            orders[index] = parse(operation)
        except OperationError as error:
            results[index] = failure(str(operation.get("id", "")), error)
    host = Host(settings)
    try:
        for kind, act in _KINDS:
            chosen = [index for index, order in orders.items() if isinstance(order, kind)]
            if chosen:
                done = _guarded(act, host, [orders[index] for index in chosen])
                results.update({index: done[place] for place, index in enumerate(chosen)})
    finally:
        host.close()
    return [results[index].report() for index in range(len(operations))]


def _guarded(act: Callable[[Host, Any], list[Result]], host: Host, orders: Sequence[Order]) -> list[Result]:
    """Keep a fault in one kind of operation from taking the results of the others with it."""
    try:
        return act(host, orders)
    except Exception as error:
        return [failure(order.id, RuntimeError(f"{type(error).__name__}: {error}")) for order in orders]


def _singly(act: Callable[[Host, Any], Result]) -> Callable[[Host, Any], list[Result]]:
    """Turn an operation on one order into one on many."""

    def each(host: Host, orders: Sequence[Any]) -> list[Result]:
        results: list[Result] = []
        for order in orders:
            try:
                results.append(act(host, order))
            except FAILURES as error:
                results.append(failure(order.id, error))
        return results

    return each


_KINDS: list[tuple[type, Callable[[Host, Any], list[Result]]]] = [
    (Detach, detach),
    (Attach, attach),
    (Write, write),
    (Probe, probe),
    (Observe, _singly(observe)),
]
