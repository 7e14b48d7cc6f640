"""Before anything is given out: ask every host what is already there.

The switch ports carry our mark (instance, seat, address, generation, epoch), so they are the second copy
of the lease book, written at the moment an address becomes real.  At each start they give two things:

  * the epoch: one more than the store and every mark have seen, so that a restored backup of the store can
    never act in the past;
  * what the store does not know.  A port whose address nobody has is adopted with its lease: it stays up, and
    the first snapshot decides about it like about any other.  A port whose address is in another hand
    is a leftover and gets a record that has it detached.

With an empty store a host that does not answer may hold any address, so nothing is given out until all
hosts of the inventory have answered.  With a store that knows its leases, silence is no obstacle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable
from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    Epoch,
    HostName,
    InstanceId,
    PoolName,
    SinkName,
    SinkState,
    TaskId,
)
from mooring.core.sink import Sink
from mooring.core.specs import NameSpec, PortSpec, SharedNameSpec
from mooring.core.store import NO_EPOCH, PutBinding, Write
from mooring.handlers.hosts import Hosts, newest_epoch, port_marks
from mooring.handlers.records import Records
from mooring.handlers.wants import NETWORK
from mooring.ipam.book import Request
from mooring.ipam.errors import AddressTaken

log = structlog.get_logger(__name__)

_INCARNATION_AFTER = "._app."
_UNKNOWN_APP = AppId("(unknown)")  # a name does not tell which app it was for
Names = Mapping[str, Mapping[SinkName, Sequence[NameSpec | SharedNameSpec]]]
_NO_NAMES: Names = {}
_POOL_OF_ADDRESS = PoolName("")  # the book takes the pool that contains the address


@dataclass(slots=True)
class Survey:
    """What the hosts said."""

    epochs: dict[str, Epoch] = field(default_factory=dict)  # the highest that each host has seen
    marks: dict[str, list[PortSpec]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)  # host: why

    @property
    def epoch(self) -> Epoch:
        """The highest epoch of all."""
        return max(self.epochs.values(), default=NO_EPOCH)


async def survey(hosts: Hosts, names: Sequence[str], *, fence: bool = False) -> Survey:
    """Ask all hosts at once; none can hold up the others. `fence`: refuse older daemons from now on."""
    asked = (hosts.marks(name, fence=fence) for name in names)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    found = Survey()
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Mapping) and answer.get("status") == "done":
            found.marks[name] = port_marks(name, answer)
            found.epochs[name] = newest_epoch(answer)
        elif isinstance(answer, Mapping):
            found.silent[name] = str(answer.get("reason"))
        elif isinstance(answer, Retryable | Refused):
            found.silent[name] = str(answer)
        else:
            raise answer
    return found


async def adopt(records: Records, found: Survey, clock: Clock, names: Names = _NO_NAMES) -> int:
    """Take over every marked port that no record knows, with the names that lead there; how many."""
    adopted = 0
    for marks in found.marks.values():
        for spec in marks:
            if not _is_known(records, spec):
                await _adopt_one(records, spec, names.get(spec.address, {}), clock)
                adopted += 1
    return adopted


async def observe_names(sinks: Sequence[Sink]) -> Names:
    """Every name of ours, by the address that it leads to and the sink that shows it."""
    found: dict[str, dict[SinkName, list[NameSpec | SharedNameSpec]]] = {}
    for sink in sinks:
        for spec in (await sink.observe()).values():
            if isinstance(spec, NameSpec | SharedNameSpec):
                found.setdefault(spec.address, {}).setdefault(sink.name, []).append(spec)
    return found


def _is_known(records: Records, spec: PortSpec) -> bool:
    return any(
        isinstance(shown, PortSpec) and (shown.address, shown.host) == (spec.address, spec.host)
        for binding in records.of_app(AppId(spec.app))
        if binding.instance == spec.instance
        for shown in (*binding.sink(NETWORK).shown, binding.sink(NETWORK).wanted)
    )


async def _adopt_one(
    records: Records,
    spec: PortSpec,
    names: Mapping[SinkName, Sequence[NameSpec | SharedNameSpec]],
    clock: Clock,
) -> None:
    binding = _record_for(records, spec)
    async with records.changing():
        try:
            request = Request(binding.app, _POOL_OF_ADDRESS, binding.id, binding.host)
            planned = records.book.plan_adopt(
                spec.address, request, spec.slot, spec.lease_generation, clock.now()
            )
        except (AddressTaken, Refused) as error:
            log.warning("leftover port", instance=spec.instance, address=spec.address, reason=str(error))
            leftover = replace(binding, departing=True, sinks={NETWORK: SinkState(None, spec)})
            await records.commit([PutBinding(leftover)])
            return
        seated = replace(
            binding,
            slot=planned.lease.slot,
            address=planned.lease.address,
            pool=planned.lease.pool,
            # Whatever becomes of the instance, its names are its own to keep or to undo.
            sinks={NETWORK: SinkState(spec, spec)}
            | {sink: SinkState(residue=tuple(shown)) for sink, shown in names.items()},
        )
        await records.commit([*planned.writes, PutBinding(seated)])
    log.info("adopted", instance=spec.instance, address=spec.address, host=spec.host)


def _record_for(records: Records, spec: PortSpec) -> Binding:
    number, key = 0, spec.instance
    while records.get(BindingId(key)) is not None:
        number += 1
        key = f"{spec.instance}~{number}"
    _, _, incarnation = spec.task.rpartition(_INCARNATION_AFTER)
    return Binding(
        id=BindingId(key),
        app=AppId(spec.app),
        instance=InstanceId(spec.instance),
        incarnation=int(incarnation) if incarnation.isdigit() else 1,
        task=TaskId(spec.task),
        host=HostName(spec.host),
    )


async def quarantine_named(records: Records, names: Names, clock: Clock) -> None:
    """Addresses that only names of ours still lead to: let them cool, and have those names removed."""
    for address, shown in names.items():
        async with records.changing():
            if records.book.by_address(address) is not None:
                continue
            # One transaction: the lease says afterwards that the address has been dealt with, whole.
            writes: list[Write] = [PutBinding(record) for record in _stale_names(records, shown)]
            reason = "only a name of ours is known of it"
            try:
                writes += records.book.plan_quarantine(address, clock.now(), reason)
            except Refused as error:  # no pool of ours holds it; the names go all the same
                log.warning("stale name outside the pools", address=address, reason=str(error))
            await records.commit(writes)
        log.info("stale name", address=address)


def _stale_names(
    records: Records, shown: Mapping[SinkName, Sequence[NameSpec | SharedNameSpec]]
) -> Iterator[Binding]:
    """Records with nothing but names that have to go. A name may have led to several addresses."""
    taken: set[BindingId] = set()
    for sink, specs in shown.items():
        for spec in specs:
            number = 1
            while (key := BindingId(f"{spec.name}~{number}")) in taken or records.get(key) is not None:
                number += 1
            taken.add(key)
            yield _stale_name(key, sink, spec)


def _stale_name(key: BindingId, sink: SinkName, spec: NameSpec | SharedNameSpec) -> Binding:
    return Binding(
        id=key,
        app=_UNKNOWN_APP,
        instance=InstanceId(spec.name),
        incarnation=1,
        task=TaskId(spec.name),
        host=HostName(""),
        departing=True,
        sinks={sink: SinkState(None, spec)},
    )
