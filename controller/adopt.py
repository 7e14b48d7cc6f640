"""What the hosts have is entered in the books.

The switch ports carry our mark (instance, seat, address, generation, epoch), so they are the second copy
of the lease book, written at the moment an address becomes real.  At each start they give two things:

  * the epoch: one more than the store and every mark have seen, so that a restored backup of the store can
    never act in the past;
  * what the store does not know.

`adopt` is for a store that knows its leases.  A port whose address nobody has is adopted with its lease: it
stays up, and the first snapshot decides about it like about any other.  A port whose address is in another
hand is a leftover and gets a record that has it detached.

`enter` is for a store that does not (see `rebuild`): it writes down what `weigh` found out, with the names
that lead to each address.  Every step can be repeated, since what has been entered is known the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from mooring.controller.shown import Shown, ShownSpecs, with_shown
from mooring.controller.weigh import IN_HAND, Seating, Weighed, known_to
from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable
from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    Epoch,
    HostName,
    InstanceId,
    Lease,
    LeaseState,
    PoolName,
    SinkName,
    SinkState,
    TaskId,
)
from mooring.core.specs import FilesSpec, PortSpec, Spec
from mooring.core.store import NO_EPOCH, PutBinding
from mooring.handlers.hosts import Hosts, detach_of, newest_epoch
from mooring.handlers.marks import Mark, marks_in
from mooring.handlers.records import Records
from mooring.handlers.wants import FILES, NETWORK, without_seat
from mooring.ipam.book import Request
from mooring.ipam.errors import AddressTaken

log = structlog.get_logger(__name__)

_POOL_OF_ADDRESS = PoolName("")  # the book takes the pool that contains the address


@dataclass(slots=True)
class Survey:
    """What the hosts said."""

    epochs: dict[str, Epoch] = field(default_factory=dict)  # the highest that each host has seen
    marks: dict[str, list[Mark]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)  # host: why

    @property
    def epoch(self) -> Epoch:
        """The highest epoch of all."""
        return max(self.epochs.values(), default=NO_EPOCH)

    @property
    def ports(self) -> list[Mark]:
        """Every port of every host that answered."""
        return [mark for _, marks in sorted(self.marks.items()) for mark in marks]


async def survey(hosts: Hosts, names: Sequence[str], *, fence: bool = False) -> Survey:
    """Ask all hosts at once; none can hold up the others. `fence`: refuse older daemons from now on."""
    asked = (hosts.marks(name, fence=fence) for name in names)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    found = Survey()
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Mapping) and answer.get("status") == "done":
            found.marks[name] = marks_in(name, answer)
            found.epochs[name] = newest_epoch(answer)
        elif isinstance(answer, Mapping):
            found.silent[name] = str(answer.get("reason"))
        elif isinstance(answer, Retryable | Refused):
            found.silent[name] = str(answer)
        else:
            raise answer
    return found


# -- with a store that knows its leases


async def adopt(records: Records, found: Survey, clock: Clock) -> int:
    """Take over every marked port that no record knows; how many."""
    adopted = 0
    for mark in found.ports:
        if known_to(records, mark.port) is None:
            await _adopt_one(records, mark, clock)
            adopted += 1
    return adopted


async def _adopt_one(records: Records, mark: Mark, clock: Clock) -> None:
    async with records.changing():
        try:
            await _take_seat(records, mark, _free_key(records, mark), {}, clock.now())
        except (AddressTaken, Refused) as error:
            await _put_leftover(records, mark, _free_key(records, mark), str(error))


# -- with one that does not


async def enter(
    records: Records, weighed: Weighed, everything: Shown, clock: Clock
) -> list[tuple[BindingId, Mark]]:
    """Write down the verdicts; the leftovers among them, with their records."""
    leftovers = []
    async with records.changing():
        now = clock.now()
        await _make_room(records, weighed, now)
        for seat in weighed.seats:
            instance = seat.mark.port.instance
            key = records.spare_id(instance) if seat.left else BindingId(instance)
            shown = everything.get(seat.mark.port.address, {})
            await _take_seat(records, seat.mark, key, shown, now, seat.before)
        for leftover in weighed.leftovers:
            mark = leftover.mark
            key = _free_key(records, mark) if leftover.lives else records.spare_id(mark.port.instance)
            await _put_leftover(records, leftover.mark, key, leftover.reason)
            leftovers.append((key, leftover.mark))
        for binding in weighed.missing:
            if records.get(binding.id) != binding:
                continue  # its worker has come to it since it was weighed, and knows better
            doubted = binding.with_sink(NETWORK, binding.sink(NETWORK).doubted())
            await records.commit([PutBinding(doubted)])
    return leftovers


async def detach_leftovers(
    records: Records, hosts: Hosts, leftovers: Sequence[tuple[BindingId, Mark]]
) -> None:
    """Have the losers of an address gone before anything else is done; their hosts answered a moment ago.

    Their instances may have to wait for another seat, and must not keep the port until then.  What is not
    confirmed now is left to the records' own walks.
    """
    await asyncio.gather(*(_detach_one(records, hosts, key, mark) for key, mark in leftovers))


async def _detach_one(records: Records, hosts: Hosts, key: BindingId, mark: Mark) -> None:
    try:
        (answer,) = await hosts.do(mark.port.host, [detach_of(mark.port, key)])
    except (Retryable, Refused) as error:
        log.warning("leftover port not detached yet", address=mark.port.address, reason=str(error))
        return
    record = records.get(key)
    if answer.get("status") == "done" and record is not None:
        state = record.sink(NETWORK).confirmed(0, None)  # unless somebody has decided otherwise by now
        await records.save(record.with_sink(NETWORK, state))


async def _make_room(records: Records, weighed: Weighed, now: float) -> None:
    """Give back what the ports prove to be out of date: former addresses, and slots others have by now."""
    found = {seat.mark.port.address for seat in weighed.seats}
    for seat in weighed.seats:
        port = seat.mark.port
        reason = f"{port.instance} is found with {port.address} on {port.host}"
        for lease in records.book.by_app(AppId(port.app)):
            if lease.address in found or not _is_outdated(lease, seat):
                continue
            if lease.state in IN_HAND and lease.host not in weighed.answered:
                await _leave_behind(records, lease, seat, now, f"{reason}; {lease.host} is silent")
            else:
                writes = records.book.plan_release(lease.address, keep=False, now=now, reason=reason)
                await records.commit(writes)


async def _leave_behind(records: Records, lease: Lease, seat: Seating, now: float, reason: str) -> None:
    """The former address stays in the hand of a record of its own until its host has been heard."""
    binding = records.get(BindingId(seat.mark.port.instance))
    assert binding is not None
    key = records.spare_id(binding.instance)
    keeps_slot = lease.slot != seat.mark.port.slot  # the port that was found has the better right to it
    writes = records.book.plan_strand(lease.address, now, reason, key, keeps_slot=keeps_slot)
    ports = [spec for spec in binding.sink(NETWORK).shown if _is_at(spec, lease)]
    left = replace(
        binding,
        id=key,
        address=lease.address,
        host=lease.host or binding.host,
        slot=lease.slot if keeps_slot else None,
        departing=True,
        sinks={NETWORK: SinkState(None, ports[0], tuple(ports[1:]))} if ports else {},
    )
    await records.commit([*writes, PutBinding(left), PutBinding(without_seat(binding))])


def _is_at(spec: Spec, lease: Lease) -> bool:
    return isinstance(spec, PortSpec) and (spec.address, spec.host) == (lease.address, lease.host)


def _is_outdated(lease: Lease, seat: Seating) -> bool:
    if lease.state is LeaseState.IDLE:
        return lease.slot == seat.mark.port.slot
    return not seat.left and lease.state in IN_HAND and lease.binding == seat.mark.port.instance


def _unseated(binding: Binding) -> Binding:
    """Without the seat that has turned out to be another's; what had shown it is undone in its own time."""
    sinks = {name: state for name, state in binding.sinks.items() if name != NETWORK}
    return replace(binding, slot=None, address=None, pool=None, sinks=sinks)


async def _take_seat(
    records: Records,
    mark: Mark,
    key: BindingId,
    found: Mapping[SinkName, ShownSpecs],
    now: float,
    before: BindingId | None = None,
) -> None:
    """Enter a port with its lease; the caller holds `changing()`. Raises what `plan_adopt` raises.

    `before` has the address in the store, and loses it in the same transaction.
    """
    port = mark.port
    binding = _record(records, mark, key)
    request = Request(binding.app, _POOL_OF_ADDRESS, key, binding.host)
    planned = records.book.plan_adopt(
        port.address, request, port.slot, port.lease_generation, now, instead_of=before
    )
    seated = replace(
        binding,
        slot=planned.lease.slot,
        address=planned.lease.address,
        pool=planned.lease.pool,
        sinks=_as_found(binding, mark, found),
    )
    loser = records.get(before) if before else None
    unseated = [PutBinding(_unseated(loser))] if loser is not None and loser.address == port.address else []
    await records.commit([*planned.writes, *unseated, PutBinding(seated)])
    log.info("adopted", instance=port.instance, address=port.address, host=port.host, binding=key)


def _as_found(
    binding: Binding, mark: Mark, found: Mapping[SinkName, ShownSpecs]
) -> dict[SinkName, SinkState]:
    sinks = dict(binding.sinks)
    generation = binding.sink(NETWORK).generation
    sinks[NETWORK] = SinkState(mark.port, mark.port, generation=generation + 1)
    for sink, shown in found.items():
        sinks[sink] = with_shown(binding.sink(sink), shown)
    if mark.alive and FILES not in sinks:
        # It got its files before it served, and has them; which version of them is not known.
        files = FilesSpec(mark.port.host, mark.port.task, ())
        sinks[FILES] = SinkState(files, files)
    return sinks


async def _put_leftover(records: Records, mark: Mark, key: BindingId, reason: str) -> None:
    """A record without an address that has the port detached; the caller holds `changing()`."""
    port, claim = mark.port, mark.strength
    log.warning("leftover port", instance=port.instance, address=port.address, host=port.host,
                epoch=claim[0], generation=claim[1], reason=reason)  # fmt: skip
    sinks = {NETWORK: SinkState(None, port)}
    leftover = replace(_new_record(mark, key), departing=True, sinks=sinks)
    await records.commit([PutBinding(leftover)])


def _record(records: Records, mark: Mark, key: BindingId) -> Binding:
    """The record to enter the port in: the one that is there, at the place of the port, or a new one."""
    known, port = records.get(key), mark.port
    if known is None:
        return _new_record(mark, key)
    if known.address not in (None, port.address):
        known = without_seat(known)  # what led to the address that it had is not wanted any more
    return replace(
        known,
        app=AppId(port.app),
        incarnation=mark.incarnation,
        task=TaskId(port.task),
        host=HostName(port.host),
        departing=False,
    )


def _new_record(mark: Mark, key: BindingId) -> Binding:
    return Binding(
        id=key,
        app=AppId(mark.port.app),
        instance=InstanceId(mark.port.instance),
        incarnation=mark.incarnation,
        task=TaskId(mark.port.task),
        host=HostName(mark.port.host),
    )


def _free_key(records: Records, mark: Mark) -> BindingId:
    own = BindingId(mark.port.instance)
    return own if records.get(own) is None else records.spare_id(mark.port.instance)
