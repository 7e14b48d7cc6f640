"""What leads clients to addresses: names and balancers, as they stand when the books are written anew.

Of each address there is a port, or a record of who has it, or neither:

    a port is entered             what leads there goes into its record with it           `adopt.enter`
    a record has it already       it takes over the names that it does not know of        `take_over_names`
    neither                       what leads there is removed, and the address cools      `quarantine_shown`

The second happens with an old copy of the store: the instance had not been given its app's name when the copy
was made.  Without its record nobody would remove that name before the address is given to somebody else.
Members need no such care: a balancer is told of all that it shall show when the hold ends (see `hold`).

An address that the store keeps for a seat or lets cool belongs to the third kind as well: the copy was made
after its holder had gone, or before the next one came.

What stands in files inside containers cannot be read.  After an old copy they are written once more
(`doubt_files`), which changes nothing where they are as they should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import structlog

from mooring.controller.leftover import UNKNOWN_APP, leftover
from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable
from mooring.core.model import Binding, BindingId, SinkName, SinkState
from mooring.core.sink import Sink
from mooring.core.specs import MemberSpec, NameSpec, SharedNameSpec, Spec
from mooring.core.store import PutBinding, Write
from mooring.handlers.records import Records
from mooring.handlers.wants import APP_NAMES, BALANCERS, FILES, NAMES
from mooring.ipam.numbers import address_of
from mooring.ipam.pools import Pools

log = structlog.get_logger(__name__)

ShownSpec = NameSpec | SharedNameSpec | MemberSpec
ShownSpecs = Sequence[ShownSpec]
Shown = Mapping[str, Mapping[SinkName, ShownSpecs]]


async def observe_shown(sinks: Sequence[Sink], pools: Pools) -> Shown:
    """What leads clients to addresses, by address and by the sink that shows it.

    Names are all taken, members of balancers as far as their addresses are of our pools.  `Retryable` or
    `Refused` if names cannot be read; a balancer that is away sends nobody anywhere.
    """
    found: dict[str, dict[SinkName, list[ShownSpec]]] = {}
    for sink in sinks:
        if sink.name in (NAMES, APP_NAMES):
            shown: Iterable[Spec] = (await sink.observe()).shown.values()
        elif sink.name in BALANCERS:
            shown = await _members_of(sink)
        else:
            continue
        for spec in shown:
            if (address := _leads_to(spec, pools)) is not None:
                assert isinstance(spec, ShownSpec)
                found.setdefault(address, {}).setdefault(sink.name, []).append(spec)
    return found


async def _members_of(sink: Sink) -> Iterable[Spec]:
    try:
        return (await sink.observe()).shown.values()
    except (Retryable, Refused) as error:
        log.warning("members not known", sink=sink.name, reason=str(error))
        return ()


def _leads_to(spec: Spec, pools: Pools) -> str | None:
    """The leased address that clients are led to; None if that is none of our concern."""
    if isinstance(spec, NameSpec | SharedNameSpec):
        return pools.leased(spec.address)
    if not isinstance(spec, MemberSpec) or len(spec.endpoints) != 1:
        return None
    address = spec.endpoints[0].address
    try:
        return address if pools.containing(address_of(address)) else None
    except Refused:  # somebody gave it a name or a socket by hand
        return None


def with_shown(state: SinkState, shown: Iterable[Spec]) -> SinkState:
    """The state of a sink that shows all this as well: it is the record's own to keep or to undo."""
    more = tuple(spec for spec in shown if spec not in state.shown)
    return replace(state, residue=(*state.residue, *more)) if more else state


async def take_over_names(records: Records, everything: Shown) -> None:
    """Names that lead to an address in somebody's hand become known to his record; nobody works yet."""
    async with records.changing():
        for address, shown in everything.items():
            lease = records.book.by_address(address)
            binding = records.get(lease.binding) if lease is not None and lease.binding else None
            if binding is None:
                continue
            taken = binding
            for sink in (NAMES, APP_NAMES):
                if sink in shown:
                    taken = taken.with_sink(sink, with_shown(taken.sink(sink), shown[sink]))
            if taken != binding:
                log.info("takes over names", instance=binding.instance, address=address)
                await records.commit([PutBinding(taken)])


async def doubt_files(records: Records) -> None:
    """Which version of its files a container has is not certain; nobody works yet."""
    async with records.changing():
        for binding in records.all():
            if binding.sink(FILES).applied is not None:
                doubted = binding.sink(FILES).doubted()
                await records.commit([PutBinding(binding.with_sink(FILES, doubted))])


async def quarantine_shown(records: Records, everything: Shown, clock: Clock) -> None:
    """What leads to addresses in nobody's hand is removed, and they cool.

    One that is reserved by now, or in conflict, stays so.
    """
    for address, shown in everything.items():
        async with records.changing():
            known = records.book.by_address(address)
            if known is not None and known.binding is not None:
                continue
            # One transaction: the lease says afterwards that the address has been dealt with, whole.
            writes: list[Write] = [PutBinding(record) for record in _stale_records(records, shown)]
            reason = "only a name or member of ours is known of it"
            try:
                writes += records.book.plan_quarantine(address, clock.now(), reason, again=True)
            except Refused as error:  # no pool of ours holds it; the names go all the same
                log.warning("stale name outside the pools", address=address, reason=str(error))
            await records.commit(writes)
        log.info("stale name", address=address)


async def quarantine(records: Records, addresses: Iterable[str], reason: str, clock: Clock) -> None:
    """Let those of the addresses cool that are without a lease."""
    async with records.changing():
        for address in addresses:
            if records.book.by_address(address) is None:
                await records.commit(records.book.plan_quarantine(address, clock.now(), reason))


def _stale_records(records: Records, shown: Mapping[SinkName, ShownSpecs]) -> Iterator[Binding]:
    """Records with nothing but what has to go. A name may have led to several addresses."""
    taken: set[BindingId] = set()
    for sink, specs in shown.items():
        for spec in specs:
            number = 1
            while (key := BindingId(f"{label(spec)}~{number}")) in taken or records.get(key) is not None:
                number += 1
            taken.add(key)
            yield leftover(key, UNKNOWN_APP, sink, spec)


def label(spec: ShownSpec) -> str:
    """What a person calls it."""
    if isinstance(spec, MemberSpec):
        return f"{spec.endpoints[0].address}:{spec.endpoints[0].port}"
    return spec.name
