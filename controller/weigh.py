"""What stands on the hosts, weighed against what the store knows: whose is each port? Pure.

It is asked when the store does not know every lease: it is empty, or older than what the hosts remember.

    the port                                        becomes
    ─────────────────────────────────────────────   ──────────────────────────────────────────────────────
    the store has it as it stands                   known: nothing to do
    nobody else claims its address                  a seat: it stays, its lease is entered
    it has the strongest claim on its address       a seat; who had the address in the store loses it
    another claim on its address is stronger        a leftover: detached
    its instance has a newer port elsewhere         a seat in a record that leaves: detached, then given back
    no pool contains its address                    a leftover: detached
    the store knows it, its host does not show it   missing: wired again, if Marathon still runs it

A claim is as strong as (epoch, lease generation).  The store's own claims have the epoch that it ended in, or
that of the port which it took over since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mooring.core.errors import Refused
from mooring.core.model import AppId, Binding, BindingId, InstanceId, Lease, LeaseState
from mooring.core.specs import PortSpec
from mooring.handlers.marks import Mark, Strength
from mooring.handlers.records import Records
from mooring.handlers.wants import NETWORK
from mooring.ipam.numbers import address_of
from mooring.ipam.pools import Pools

IN_HAND = (LeaseState.BOUND, LeaseState.STRANDED)
Held = tuple[Binding, Lease]
_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class Seating:
    """A port that keeps its address."""

    mark: Mark
    left: bool = False  # its instance lives elsewhere: the record leaves, and the port with it
    before: BindingId | None = None  # who has the address in the store, and loses it


@dataclass(frozen=True, slots=True)
class Leftover:
    """A port that has to go."""

    mark: Mark
    reason: str
    lives: bool  # its container runs, as Marathon says: the instance needs another seat


@dataclass(slots=True)
class Weighed:
    """The verdict about every port."""

    known: int = 0  # ports that are as the store has them
    seats: list[Seating] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    missing: list[Binding] = field(default_factory=list)
    answered: frozenset[str] = frozenset()  # the hosts that told of their ports
    found: dict[BindingId, str] = field(default_factory=dict)  # whose own port stands, with its address


def weigh(
    marks: Sequence[Mark],
    answered: Collection[str],
    records: Records,
    strength: Callable[[Lease], Strength],
    lives_at: Callable[[InstanceId], tuple[str, str] | None],
) -> Weighed:
    """`answered`: the hosts that `marks` are of; `lives_at`: an instance's host and task, says Marathon."""
    weighed = Weighed(answered=frozenset(answered))
    winners: list[Mark] = []
    found = {(mark.port.host, mark.port.address, mark.port.instance) for mark in marks}
    claims = [mark for mark in marks if not _is_given_up(records, mark)]
    for rivals in _grouped(claims, lambda mark: mark.port.address):
        winner = _contest(rivals, records, strength, lives_at, weighed)
        winners += [winner] if winner else []
    for ports in _grouped(winners, lambda mark: mark.port.instance):
        instance = InstanceId(ports[0].port.instance)
        held = _held(records, instance, answered, found)
        claim = (held, strength(held[1])) if held is not None else None
        _seat(ports, records, lives_at(instance), claim, weighed)
    seated = {seat.mark.port.instance for seat in weighed.seats if not seat.left}
    displaced = {seat.before for seat in weighed.seats}
    for binding in records.all():
        if binding.instance not in seated and binding.id not in displaced:
            weighed.missing += _missing(binding, answered, found)
    return weighed


def _contest(
    rivals: Sequence[Mark],
    records: Records,
    strength: Callable[[Lease], Strength],
    lives_at: Callable[[InstanceId], tuple[str, str] | None],
    weighed: Weighed,
) -> Mark | None:
    """Who has the address, if anybody of these; the others are leftovers, unless their records know it."""
    best = max(rivals, key=lambda mark: (*mark.strength, mark.alive, mark.port.host, mark.port.task))
    address = best.port.address
    winner: Mark | None = best
    why = f"{best.port.instance} on {best.port.host} has the address by a newer epoch or generation"
    lease = records.book.by_address(address)
    if lease is not None and lease.state in IN_HAND and best.strength <= strength(lease):
        own = [mark for mark in rivals if mark.port.instance == holder_of(lease)]
        winner = max(own, key=lambda mark: (*mark.strength, mark.port.host == lease.host), default=None)
        why = f"the store gives the address to {holder_of(lease)} on {lease.host}, by a newer claim"
    if not has_pool(records.book.pools, address):
        winner, why = None, "no pool contains its address: add one first (`mooring pool add`) to keep it"
    for mark in rivals:
        if mark is not winner and not _leaves_already(records, mark):
            home = lives_at(InstanceId(mark.port.instance))
            weighed.leftovers.append(Leftover(mark, why, home == (mark.port.host, mark.port.task)))
    return winner


def _held(
    records: Records, instance: InstanceId, answered: Collection[str], found: Collection[tuple[str, str, str]]
) -> Held | None:
    """The instance's record with its lease, unless its port was found too, or was looked for in vain.

    A host that answers late tells of its own ports only; where the instance lives may have been heard before.
    """
    binding = records.get(BindingId(instance))
    if binding is None or binding.departing or binding.address is None:
        return None
    lease = records.book.by_address(binding.address)
    port = binding.sink(NETWORK).applied
    if lease is None or lease.binding != binding.id or not isinstance(port, PortSpec):
        return None
    if port.host in answered or (port.host, port.address, port.instance) in found:
        return None
    return binding, lease


def _seat(
    ports: Sequence[Mark],
    records: Records,
    home: tuple[str, str] | None,
    claim: tuple[Held, Strength] | None,
    weighed: Weighed,
) -> None:
    """The ports of one instance, each the winner of its address: the newest is its own, others are left.

    `claim`: what its record has elsewhere, which may be newer than all of them.
    """

    def newest(mark: Mark) -> tuple[object, ...]:
        return ((mark.port.host, mark.port.task) == home, mark.incarnation, *mark.strength, mark.alive)

    best = max(ports, key=newest)
    own: Mark | None = best
    if claim is not None:
        (binding, _), strength = claim
        held = ((binding.host, binding.task) == home, binding.incarnation, *strength, True)
        own = best if newest(best) > held else None
    for mark in ports:
        holder = _holder(records, mark.port.address)
        if mark is own:
            weighed.found[BindingId(mark.port.instance)] = mark.port.address
        # What a record of its own leaves behind on a lost host is known as well, and left to that record.
        if holder is not None and shows(holder, mark.port) and (mark is own or "~" in holder.id):
            weighed.known += 1
            continue
        mine = holder is not None and mark is own and holder.id == mark.port.instance
        before = None if holder is None or mine else holder.id
        weighed.seats.append(Seating(mark, left=mark is not own, before=before))


def _missing(
    binding: Binding, answered: Collection[str], found: Collection[tuple[str, str, str]]
) -> list[Binding]:
    port = binding.sink(NETWORK).applied
    if binding.departing or not isinstance(port, PortSpec) or port.host not in answered:
        return []
    return [] if (port.host, port.address, port.instance) in found else [binding]


def known_to(records: Records, port: PortSpec) -> Binding | None:
    """The record that has this port as its own: as wanted, or as something that has to go."""
    return next(
        (
            binding
            for binding in records.of_app(AppId(port.app))
            if binding.instance == port.instance and shows(binding, port)
        ),
        None,
    )


def shows(binding: Binding, port: PortSpec) -> bool:
    """Whether the binding is the instance's, and its port may stand at that address on that host."""
    state = binding.sink(NETWORK)
    return binding.instance == port.instance and any(
        isinstance(spec, PortSpec) and (spec.address, spec.host) == (port.address, port.host)
        for spec in (*state.shown, state.wanted)
    )


def holder_of(lease: Lease) -> str:
    """The instance whose hand the address is in."""
    return (lease.binding or "").partition("~")[0]


def _holder(records: Records, address: str) -> Binding | None:
    lease = records.book.by_address(address)
    if lease is None or lease.state not in IN_HAND or lease.binding is None:
        return None
    return records.get(lease.binding)


def _leaves_already(records: Records, mark: Mark) -> bool:
    """Whether a record without that address has the port detached anyway."""
    known = known_to(records, mark.port)
    return known is not None and (known.departing or known.address != mark.port.address)


def _is_given_up(records: Records, mark: Mark) -> bool:
    """Whether a record that has no claim on the address has the port detached: it was decided before."""
    known = known_to(records, mark.port)
    return known is not None and known.departing and known.address != mark.port.address


def has_pool(pools: Pools, address: str) -> bool:
    """Whether a pool contains it; a mark may have been changed by hand to what is no address at all."""
    try:
        return pools.containing(address_of(address)) is not None
    except Refused:
        return False


def _grouped(marks: Iterable[Mark], key: Callable[[Mark], _K]) -> list[list[Mark]]:
    groups: defaultdict[_K, list[Mark]] = defaultdict(list)
    for mark in marks:
        groups[key(mark)].append(mark)
    return list(groups.values())
