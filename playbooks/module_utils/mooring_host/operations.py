"""One call: any number of operations on one host, each with a result of its own, in the order asked.

Operations of a kind are done together, kinds in this order: fabric, gateway, detach, adopt, detect, attach,
write, probe, observe, check, survey.  The ways between hosts come first, because what is attached wants to be
heard on them; removing comes before adding, because a call may take an address from one container and give it
to another; observing comes late, because it shall report what the others did.

Calls that change ports or files take turns (see `turns`), and may carry a number, by which a call that was
overtaken is turned away: the switch keeps it for ports (see `switch`), a record for each file (`tellings`).

Writes and probes depend on other people's programs.  Each kind has a budget of time (8 s and 2 s), so that
whatever these do, a call answers long before its caller gives up and loses the results of all operations.
What did not get its turn is answered with `retry`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .attach import attach
from .detach import detach
from .detect import detect
from .errors import OperationError
from .host import FAILURES, Host, Result, Settings, failure
from .leftovers import collect
from .orders import (
    Adopt,
    Attach,
    Check,
    Detach,
    Detect,
    Fabric,
    Gateway,
    Observe,
    Order,
    Probe,
    Survey,
    Write,
    parse,
)
from .seldom import adopt, check, fabric, gateway, observe, probe, survey, write
from .turns import PORTS, my_turn
from .upkeep import keep_up_limits

Kinds = Sequence[tuple[type, Callable[[Host, Any], list[Result]]]]


def perform(settings: Settings, operations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Do all operations; returns one report per operation, in the order asked."""
    results: dict[int, Result] = {}
    orders: dict[int, Order] = {}
    for index, operation in enumerate(operations):
        try:
            orders[index] = parse(operation)
        except OperationError as error:
            results[index] = failure(str(operation.get("id", "")), error)
    sequence = max((order.sequence for order in orders.values() if isinstance(order, _PORTS)), default=0)
    host = Host(replace(settings, sequence=sequence))
    try:
        results.update(_wire(host, orders))
        results.update(_perform(host, _THEN, orders))
    finally:
        host.close()
    return [results[index].report() for index in range(len(operations))]


def _wire(host: Host, orders: Mapping[int, Order]) -> dict[int, Result]:
    """Whatever changes ports, when it is this call's turn; then tidy up."""
    wiring = {index: order for index, order in orders.items() if isinstance(order, _WIRING)}
    if not wiring:
        return {}
    try:
        with my_turn(host.settings.state_dir, PORTS):
            results = _perform(host, _FIRST, wiring)
            _tidy_up(host)
            return results
    except OSError as error:  # of the lock; whatever an operation meets is in its result
        return {index: failure(order.id, error) for index, order in wiring.items()}


def _tidy_up(host: Host) -> None:
    """What cannot be cleaned up or restored now is by the next call."""
    if not host.settings.check:
        with contextlib.suppress(*FAILURES):
            keep_up_limits(host)
        collect(host)


def _perform(host: Host, kinds: Kinds, orders: Mapping[int, Order]) -> dict[int, Result]:
    """Do the operations of the given kinds; results by index."""
    results: dict[int, Result] = {}
    for kind, act in kinds:
        chosen = [index for index, order in orders.items() if isinstance(order, kind)]
        if chosen:
            done = _guarded(act, host, [orders[index] for index in chosen])
            results.update({index: done[place] for place, index in enumerate(chosen)})
    return results


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


_WIRING = (Fabric, Gateway, Detach, Adopt, Detect, Attach)
_PORTS = (Fabric, Gateway, Detach, Adopt, Attach, Observe)
_FIRST: Kinds = [
    (Fabric, _singly(fabric)),
    (Gateway, _singly(gateway)),
    (Detach, detach),
    (Adopt, adopt),
    (Detect, detect),
    (Attach, attach),
]
_THEN: Kinds = [
    (Write, write),
    (Probe, probe),
    (Observe, _singly(observe)),
    (Check, _singly(check)),
    (Survey, _singly(survey)),
]
