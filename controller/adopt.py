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
    SinkState,
    TaskId,
)
from mooring.core.specs import PortSpec
from mooring.core.store import NO_EPOCH, PutBinding
from mooring.handlers.hosts import Hosts, newest_epoch, port_marks
from mooring.handlers.records import Records
from mooring.handlers.wants import NETWORK
from mooring.ipam.book import Request
from mooring.ipam.errors import AddressTaken

log = structlog.get_logger(__name__)

_INCARNATION_AFTER = "._app."
_POOL_OF_ADDRESS = PoolName("")  # the book takes the pool that contains the address


@dataclass(slots=True)
class Survey:
    """What the hosts said."""

    epoch: Epoch = NO_EPOCH
    marks: dict[str, list[PortSpec]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)  # host: why


async def survey(hosts: Hosts, names: Sequence[str]) -> Survey:
    """Ask all hosts at once; none can hold up the others."""
    answers = await asyncio.gather(*map(hosts.marks, names), return_exceptions=True)
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
