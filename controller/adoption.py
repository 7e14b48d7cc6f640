"""`mooring adopt`: what pipework or a script has wired is taken over, host by host, with its addresses.

    1. survey     every host asked tells its containers without our mark       nothing is changed
    2. judge      each against Marathon, pools, leases and bindings            `takeover`
    3. seat       lease and binding in one transaction, as for any newcomer
    4. mark       its host writes our marks on the port that is there
    5. confirm    the binding shows it; the instance's own worker goes on from there

Steps 3 to 5 happen while no worker has the instance's key, so neither can undo the other's work.  Cut off
after 3, the instance has the seat, and its attach is refused as before until `mooring adopt` is given again;
after 4, its attach finds the marked port and confirms it.  From 5 on the instance is like any other: its
worker sends an ordinary attach, which finds the port in its place.

Where a container is taken over that already waits for another seat, that seat is given back first, and not
before its host has confirmed that no port of ours stands there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from mooring.controller.takeover import (
    Around,
    Candidate,
    at_home,
    candidates_in,
    is_second,
    look_around,
    second_of,
    why_not,
)
from mooring.core.errors import Refused, Retryable
from mooring.core.model import Binding, BindingId, Instance, PoolName
from mooring.core.specs import PortSpec
from mooring.core.store import PutBinding
from mooring.handlers.hosts import Hosts, Operation, detach_of
from mooring.handlers.wants import NETWORK, without_seat
from mooring.ipam.book import Request

if TYPE_CHECKING:
    from mooring.controller.engine import Engine

log = structlog.get_logger(__name__)

_ANY_SLOT = -1  # no slot at all: the book takes an unused one
_POOL_OF_ADDRESS = PoolName("")  # the book takes the pool that contains the address


class AdoptionRow(msgspec.Struct, frozen=True):
    """One address of a container that is not ours, and what becomes of it."""

    host: str
    task: str
    action: str  # "adopt" or "leave" in a plan; "adopted", "leave" or "failed" afterwards
    address: str = ""
    interface: str = ""
    port: str = ""
    app: str | None = None
    instance: str | None = None
    slot: int | None = None  # once it has one
    reason: str = ""  # why it is left alone, or what went wrong


class Adoption(msgspec.Struct, frozen=True):
    """What is planned, or was done."""

    rows: tuple[AdoptionRow, ...]
    silent: dict[str, str] = {}  # hosts that were not asked in full, and why

    @property
    def complete(self) -> bool:
        """Whether nothing was left alone, failed or unheard."""
        return not self.silent and all(row.action in ("adopt", "adopted") for row in self.rows)


class Adopter:
    """Plans and does it. `fences` False: this daemon only observes."""

    def __init__(self, engine: Engine, hosts: Hosts, inventory: Sequence[str], *, fences: bool) -> None:
        self._engine = engine
        self._hosts = hosts
        self._inventory = tuple(inventory)
        self._fences = fences

    async def plan(self, names: Sequence[str]) -> Adoption:
        """What `apply` would do now on these hosts, or on all. Changes nothing.

        `Refused` for a host that is unknown, by an observer and while a rebuild is waited for; `Retryable`
        before Marathon has been listed.
        """
        candidates, silent = await self._survey(names)
        around = self._around(candidates)
        rows = [_planned(one, around) for one in candidates if not is_second(one, around)]
        return Adoption(tuple(rows), silent)

    async def apply(self, names: Sequence[str]) -> Adoption:
        """Take over all that can be; one that fails does not keep the others. Raises what `plan` raises."""
        candidates, silent = await self._survey(names)
        around = self._around(candidates)
        chosen = [one for one in candidates if not is_second(one, around)]
        rows = await asyncio.gather(*(self._take(one, candidates) for one in chosen))
        return Adoption(tuple(rows), silent)

    # -- looking

    async def _survey(self, names: Sequence[str]) -> tuple[list[Candidate], dict[str, str]]:
        """Step 1."""
        self._check_may(names)
        wished = sorted(set(names)) or self._inventory
        silent = {name: why for name in wished if (why := self._left_alone(name))}
        asked = [name for name in wished if name not in silent]
        answers = await asyncio.gather(*map(self._hosts.survey, asked), return_exceptions=True)
        found: list[Candidate] = []
        for name, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Retryable | Refused):
                silent[name] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            elif answer.get("status") != "done":
                silent[name] = str(answer.get("reason"))
            else:
                found += candidates_in(name, answer)
        return at_home(found, self._engine.view.instances()), silent

    def _left_alone(self, host: str) -> str:
        """Why nothing is asked of a host; "" if it is."""
        if host in self._hosts.fenced:
            return f"fenced: {self._hosts.fenced[host]}"
        if host in self._hosts.maintained:
            return f"in maintenance: {self._hosts.maintained[host]}"
        return ""

    def _check_may(self, names: Sequence[str]) -> None:
        if not self._fences:
            raise Refused(
                "this daemon only observes, and rehearses with addresses of its own; ask one that runs "
                "without --observe: it leaves containers alone that others have wired"
            )
        unknown = sorted(set(names) - set(self._inventory))
        if unknown:
            raise Refused(f"not in the inventory: {', '.join(unknown)}; `mooring hosts` shows all that are")
        if not self._engine.rebuild.is_over:
            raise Refused("the store does not know every lease yet; `mooring rebuild` comes first")
        if not self._engine.watch.complete.is_set():
            raise Retryable("Marathon has not been listed yet; try again in a moment")

    def _around(self, candidates: Sequence[Candidate]) -> Around:
        engine = self._engine
        view = engine.view
        return look_around(candidates, view.instances(), view.app, engine.claims, engine.records)

    # -- doing

    async def _take(self, candidate: Candidate, candidates: Sequence[Candidate]) -> AdoptionRow:
        """Steps 2 to 5 for one candidate."""
        around = self._around(candidates)
        row = _planned(candidate, around)
        instance = around.instance_of(candidate)
        if row.action == "leave" or instance is None:
            return row
        key = BindingId(instance.id)
        try:
            async with self._engine.queue.held(key):
                await self._clear_former(key, candidate)
                seated = await self._seat(candidate, candidates)
                await self._mark(candidate, seated)
        except (Retryable, Refused) as error:
            log.warning("not taken over", instance=key, address=candidate.address, reason=str(error))
            return msgspec.structs.replace(row, action="failed", reason=str(error))
        finally:
            self._engine.queue.add(key)
        log.info("taken over", instance=key, address=candidate.address, host=candidate.host)
        return msgspec.structs.replace(row, action="adopted", slot=seated.slot)

    async def _clear_former(self, key: BindingId, candidate: Candidate) -> None:
        """Make sure that nothing of ours stands for a seat in which the instance waits."""
        binding = self._engine.records.get(key)
        if binding is None or binding.address in (None, candidate.address):
            return
        state = binding.sink(NETWORK)
        for spec in (*state.shown, state.wanted):
            if isinstance(spec, PortSpec):
                (answer,) = await self._hosts.do(spec.host, [detach_of(spec, key)])
                _check_done(answer)

    async def _seat(self, candidate: Candidate, candidates: Sequence[Candidate]) -> Binding:
        """Step 3. Raises `Refused` if something has come in between."""
        records, now = self._engine.records, self._engine.clock.now()
        async with records.changing():
            around = self._around(candidates)
            instance = around.instance_of(candidate)
            if instance is None or (why := why_not(candidate, around)):
                raise Refused(why if instance else "its instance is gone")
            known = records.get(BindingId(instance.id)) or _new_binding(instance)
            if known.address not in (None, candidate.address):
                known = await self._give_up(known, candidate, now)
            book = records.book
            lease = book.by_address(candidate.address)
            slot = _ANY_SLOT if lease is None or lease.slot is None else lease.slot
            request = Request(instance.app, _POOL_OF_ADDRESS, known.id, known.host)
            planned = book.plan_adopt(candidate.address, request, slot, 0, now)
            seated = _seated(known, instance, planned.lease.slot, planned.lease.pool, candidate)
            port = self._port(candidate, seated, planned.lease.generation, around)
            seated = seated.with_sink(NETWORK, seated.sink(NETWORK).want(port))
            await records.commit([*planned.writes, PutBinding(seated)])
        self._engine.seats.forget(seated.id)
        return seated

    def _port(self, candidate: Candidate, seated: Binding, generation: int, around: Around) -> PortSpec:
        """What the mark on the port will tell; gateway, routes, MTU and rates follow with its attach."""
        assert seated.slot is not None
        wiring, second = self._engine.wiring_of(candidate.address), second_of(candidate, around)
        return PortSpec(
            host=candidate.host,
            task=candidate.task,
            app=seated.app,
            slot=seated.slot,
            instance=seated.instance,
            address=candidate.address,
            prefix=candidate.prefix,
            vlan=candidate.vlan,
            lease_generation=generation,
            barred=wiring.barred if wiring is not None else (),
            address6=second[0] if second else None,
            prefix6=second[1] if second else None,
        )

    async def _give_up(self, known: Binding, candidate: Candidate, now: float) -> Binding:
        """The seat in which it waited goes back; the caller holds `changing()`."""
        assert known.address is not None
        records, left = self._engine.records, without_seat(known)
        reason = f"{known.instance} keeps {candidate.address}, which it had before it was ours"
        book = records.book
        writes = book.plan_release(known.address, keep=False, now=now, reason=reason, binding=known.id)
        await records.commit([*writes, PutBinding(left)])
        return left

    async def _mark(self, candidate: Candidate, seated: Binding) -> None:
        """Steps 4 and 5."""
        state = seated.sink(NETWORK)
        assert isinstance(state.wanted, PortSpec)
        for address in filter(None, (state.wanted.address, state.wanted.address6)):
            self._hosts.ahead.forget(address)
        (answer,) = await self._hosts.do(candidate.host, [_adopt(candidate, seated.id, state.wanted)])
        _check_done(answer)
        records = self._engine.records
        record = records.get(seated.id)
        if record is not None:
            shown = record.sink(NETWORK).confirmed(state.generation, state.wanted)
            await records.save(record.with_sink(NETWORK, shown))


def _planned(candidate: Candidate, around: Around) -> AdoptionRow:
    """Step 2."""
    instance, why = around.instance_of(candidate), why_not(candidate, around)
    return AdoptionRow(
        host=candidate.host,
        task=candidate.task,
        action="leave" if why else "adopt",
        address=candidate.address,
        interface=candidate.interface,
        port=candidate.port,
        app=instance.app if instance else None,
        instance=instance.id if instance else None,
        reason=why,
    )


def _new_binding(instance: Instance) -> Binding:
    assert instance.host is not None
    return Binding(
        BindingId(instance.id), instance.app, instance.id, instance.incarnation, instance.task, instance.host
    )


def _seated(
    known: Binding, instance: Instance, slot: int | None, pool: PoolName, candidate: Candidate
) -> Binding:
    assert instance.host is not None
    return replace(
        known,
        incarnation=instance.incarnation,
        task=instance.task,
        host=instance.host,
        slot=slot,
        pool=pool,
        address=candidate.address,
    )


def _adopt(candidate: Candidate, key: BindingId, port: PortSpec) -> Operation:
    return {
        "op": "adopt",
        "id": key,
        "task_id": port.task,
        "app": port.app,
        "slot": port.slot,
        "instance": port.instance,
        "address": port.address,
        "prefix": port.prefix,
        "vlan": port.vlan,
        "generation": port.lease_generation,
        "barred": list(port.barred),
        "address6": port.address6,
        "prefix6": port.prefix6,
        "interface": candidate.interface,
        "port": candidate.port,
        "container": candidate.container,
    }


def _check_done(answer: Mapping[str, Any]) -> None:
    if answer.get("status") == "done":
        return
    kind = Retryable if answer.get("status") == "retry" else Refused
    raise kind(str(answer.get("reason") or "its host gave no reason"))
