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
from collections.abc import Mapping, Sequence
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
from mooring.core.store import NO_EPOCH, PutBinding
from mooring.handlers.hosts import Hosts, newest_epoch, port_marks
from mooring.handlers.records import Records
from mooring.handlers.wants import NETWORK
from mooring.ipam.book import Request
from mooring.ipam.errors import AddressTaken

log = structlog.get_logger(__name__)

_INCARNATION_AFTER = "._app."
_UNKNOWN_APP = AppId("(unknown)")  # a name does not tell which app it was for
_POOL_OF_ADDRESS = PoolName("")  # the book takes the pool that contains the address


@dataclass(slots=True)
class Survey:
    """What the hosts said."""

    epoch: Epoch = NO_EPOCH
    marks: dict[str, list[PortSpec]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)  # host: why


async def survey(hosts: Hosts, names: Sequence[str], *, fence: bool = False) -> Survey:
    """Ask all hosts at once; none can hold up the others. `fence`: refuse older daemons from now on."""
    asked = (hosts.marks(name, fence=fence) for name in names)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    found = Survey()
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Mapping) and answer.get("status") == "done":
            found.marks[name] = port_marks(name, answer)
            found.epoch = max(found.epoch, newest_epoch(answer))
        elif isinstance(answer, Mapping):
            found.silent[name] = str(answer.get("reason"))
        elif isinstance(answer, Retryable | Refused):
            found.silent[name] = str(answer)
        else:
            raise answer
    return found


async def adopt(records: Records, found: Survey, clock: Clock) -> int:
    """Take over every marked port that no record knows; how many there were."""
    adopted = 0
    for marks in found.marks.values():
        for spec in marks:
            if not _is_known(records, spec):
                await _adopt_one(records, spec, clock)
                adopted += 1
    return adopted


def _is_known(records: Records, spec: PortSpec) -> bool:
    return any(
        isinstance(shown, PortSpec) and (shown.address, shown.host) == (spec.address, spec.host)
        for binding in records.of_app(AppId(spec.app))
        if binding.instance == spec.instance
        for shown in (*binding.sink(NETWORK).shown, binding.sink(NETWORK).wanted)
    )


async def _adopt_one(records: Records, spec: PortSpec, clock: Clock) -> None:
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
            sinks={NETWORK: SinkState(spec, spec)},
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


async def quarantine_named(records: Records, sinks: Sequence[Sink], clock: Clock) -> None:
    """Addresses that only a name of ours still leads to: let them cool, and have those names removed."""
    for sink in sinks:
        for spec in (await sink.observe()).values():
            if not isinstance(spec, NameSpec | SharedNameSpec) or records.book.by_address(spec.address):
                continue
            async with records.changing():
                stale = _stale_name(records, sink.name, spec)
                try:
                    writes = records.book.plan_quarantine(
                        spec.address, clock.now(), f"only the name {spec.name} is known of it"
                    )
                except Refused as error:  # no pool of ours holds it; the name goes all the same
                    log.warning("stale name outside the pools", name=spec.name, reason=str(error))
                    writes = []
                await records.commit([*writes, PutBinding(stale)])
            log.info("stale name", name=spec.name, address=spec.address)


def _stale_name(records: Records, sink: SinkName, spec: NameSpec | SharedNameSpec) -> Binding:
    """A record with nothing but the name that has to go."""
    number = 1
    while records.get(BindingId(f"{spec.name}~{number}")) is not None:
        number += 1
    return Binding(
        id=BindingId(f"{spec.name}~{number}"),
        app=_UNKNOWN_APP,
        instance=InstanceId(spec.name),
        incarnation=1,
        task=TaskId(spec.name),
        host=HostName(""),
        departing=True,
        sinks={sink: SinkState(None, spec)},
    )
