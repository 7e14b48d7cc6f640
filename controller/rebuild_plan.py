"""What a rebuild would enter in the books, line by line, for a person to look at before it is done.  Pure.

A line for a port or address that the store already has as it stands is left out: after an empty store
everything is shown, after a restored backup only what changed since.  The digest stands for the lines and for
the hosts that could not be heard; it leaves out the reasons, since what Marathon says of an instance may
change without any address being concerned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Literal

import msgspec

from mooring.controller.shown import Shown, label
from mooring.controller.weigh import Leftover, Seating, Weighed, has_pool
from mooring.core.errors import Refused
from mooring.core.model import InstanceId, LeaseState
from mooring.core.specs import PortSpec
from mooring.handlers.wants import NETWORK
from mooring.ipam.book import LeaseBook
from mooring.ipam.numbers import place_of
from mooring.ipam.pools import Pools

Action = Literal["keep", "detach", "quarantine", "reserved"]


class RebuildRow(msgspec.Struct, frozen=True):
    """One address, and what becomes of it."""

    address: str
    action: Action
    app: str | None = None
    slot: int | None = None
    instance: str | None = None
    host: str | None = None
    reason: str = ""


class RebuildPlan(msgspec.Struct, frozen=True):
    """All lines, by address, and what stands in the way of giving out addresses afterwards."""

    rows: tuple[RebuildRow, ...]
    blocked_by: dict[str, str]  # hosts that do not answer and are not fenced: why
    digest: str  # names exactly this plan
    known: int = 0  # ports that the store has as they stand, which have no line
    unheard: tuple[
        str, ...
    ] = ()  # fenced hosts that do not answer: what is not proven in use rests afterwards
    homeless: tuple[str, ...] = ()  # addresses of living containers that would go, because no pool has them


def draw(
    weighed: Weighed,
    shown: Shown,
    others: Mapping[str, str],
    book: LeaseBook,
    listed: Collection[InstanceId],
    blocked_by: Mapping[str, str],
    unheard: Sequence[str],
) -> RebuildPlan:
    """The plan.

    `shown`: names and members by the address they lead to; `others`: addresses that something else shows,
    with what it is; `book`: the pools, and the leases that the store has; `listed`: the instances that
    Marathon lists; `blocked_by`: hosts that do not answer, and why; `unheard`: fenced hosts that do not.
    """
    held = {lease.address for lease in book.leases() if lease.binding is not None}
    seated = {seat.mark.port.address for seat in weighed.seats}
    rows = [
        *(_kept(seat, weighed.seats, listed) for seat in weighed.seats),
        *(_lost(leftover) for leftover in weighed.leftovers),
        *_missing(weighed),
        *_only_shown(shown, held | seated, _set_aside(book), blocked_by),
        *_only_elsewhere(others, seated | shown.keys(), blocked_by),
        *_reserved(book.pools),
    ]
    rows.sort(key=lambda row: (_by_number(row.address), row.address, row.host or ""))
    digest = _digest(rows, [*blocked_by, "fenced", *unheard])
    homeless = tuple(_homeless(weighed, book.pools))
    return RebuildPlan(tuple(rows), dict(blocked_by), digest, weighed.known, tuple(unheard), homeless)


def _kept(seat: Seating, seats: Sequence[Seating], listed: Collection[InstanceId]) -> RebuildRow:
    port = seat.mark.port
    if seat.left:
        # Its own port has no seat here if the store has it as it stands, or where its host is silent.
        owns = (one.mark.port for one in seats if one.mark.port.instance == port.instance and not one.left)
        own = next(owns, None)
        where = f"on {own.host} with {own.address}" if own else "elsewhere, as the store has it"
        return _row(port, "detach", f"its instance lives {where}; given back then")
    reasons = [f"the store had it for {seat.before}"] if seat.before else []
    if InstanceId(port.instance) not in listed:
        reasons.append("Marathon does not list it: it leaves in the ordinary way")
    elif not seat.mark.alive:
        reasons.append("its container has ended")
    return _row(port, "keep", "; ".join(reasons))


def _lost(leftover: Leftover) -> RebuildRow:
    return _row(leftover.mark.port, "detach", leftover.reason)


def _homeless(weighed: Weighed, pools: Pools) -> Iterator[str]:
    for leftover in weighed.leftovers:
        address = leftover.mark.port.address
        if leftover.lives and not has_pool(pools, address):
            yield address


def _row(port: PortSpec, action: Action, reason: str) -> RebuildRow:
    return RebuildRow(port.address, action, port.app, port.slot, port.instance, port.host, reason)


def _missing(weighed: Weighed) -> Iterator[RebuildRow]:
    for binding in weighed.missing:
        port = binding.sink(NETWORK).applied
        if isinstance(port, PortSpec):
            yield _row(port, "keep", "its port is missing: wired again if Marathon still runs it")


def _only_shown(
    shown: Shown, known: Collection[str], set_aside: Mapping[str, str], silent: Collection[str]
) -> Iterator[RebuildRow]:
    for address, sinks in shown.items():
        if address in known:
            continue
        told = {f"{sink} {label(spec)}" for sink, specs in sinks.items() for spec in specs}
        reason = f"only known from what leads there, which goes: {', '.join(sorted(told))}"
        if address in set_aside:
            yield RebuildRow(address, "reserved", reason=f"{reason}; stays {set_aside[address]}")
        else:
            yield RebuildRow(address, "quarantine", reason=reason + _unless(silent))


def _only_elsewhere(
    others: Mapping[str, str], known: Collection[str], silent: Collection[str]
) -> Iterator[RebuildRow]:
    for address, what in others.items():
        if address not in known:
            yield RebuildRow(address, "quarantine", reason=f"only known from {what}{_unless(silent)}")


def _unless(silent: Collection[str]) -> str:
    return f"; kept if {' or '.join(silent)} still has it" if silent else ""


def _set_aside(book: LeaseBook) -> Mapping[str, str]:
    """Addresses that the store itself keeps from everybody, and how."""
    kept = (LeaseState.RESERVED, LeaseState.CONFLICTED)
    return {lease.address: lease.state.value for lease in book.leases() if lease.state in kept}


def _reserved(pools: Pools) -> Iterator[RebuildRow]:
    for pool in pools:
        for address, note in pool.reservations.items():
            yield RebuildRow(str(address), "reserved", reason=f"pool {pool.name}: {note}")


def _by_number(address: str) -> int:
    """Its place on the line of addresses; what is none comes first."""
    try:
        return place_of(address)
    except Refused:
        return -1


def _digest(rows: Sequence[RebuildRow], silent: Sequence[str]) -> str:
    told = [(row.address, row.action, row.app, row.slot, row.instance, row.host) for row in rows]
    return sha256(msgspec.json.encode([told, silent])).hexdigest()[:16]
