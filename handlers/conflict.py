"""Somebody else answers on an address that an instance was about to get.

The host has probed the wire and attached nothing.  Who answers is found out by asking all hosts for their
ports:

  * A port of ours that no record wants there is a leftover.  It gets a record of its own, which leaves, so
    that the ordinary way has it detached; the newcomer tries again until it is gone, at most `patience_s`.
  * A port of ours whose record holds the address, or nobody of ours: then the newcomer is wrong.  The address
    becomes `conflicted`, with a note of who answered, and is nobody's until an operator releases it.  In the
    same transaction the newcomer loses its seat, and what led there is no longer wanted; it takes another.

A host that is silent may be the one that answers on the wire.  The newcomer does not wait for it; the note
says which hosts could not be asked.

A router that answers on behalf of everybody would use up a whole pool in this way.  So one MAC can take
`_OF_ONE_MAC` addresses from us; whoever meets it after that keeps its seat and waits for an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog

from mooring.core.clock import Clock
from mooring.core.model import AppId, Binding, BindingId, HostName, InstanceId, LeaseState, SinkState, TaskId
from mooring.core.sink import Conflict, Observation, Sink
from mooring.core.specs import PortSpec
from mooring.core.store import PutBinding, Write
from mooring.handlers.records import Records
from mooring.handlers.wants import NETWORK, without_seat

log = structlog.get_logger(__name__)

_INCARNATION_AFTER = "._app."
_OF_ONE_MAC = 8


class Conflicts:
    """Finds out whose an answer is, and gets newcomers out of the way of others."""

    def __init__(
        self,
        network: Sink,
        records: Records,
        clock: Clock,
        patience_s: float,
        wake: Callable[[BindingId], None],
        on_conflict: Callable[[], None],
    ) -> None:
        """`wake` puts a record's key into the queue; `on_conflict` hears of every address that is lost."""
        self._network = network
        self._records = records
        self._clock = clock
        self._patience_s = patience_s
        self._wake = wake
        self._on_conflict = on_conflict
        self._since: dict[BindingId, float] = {}

    async def resolve(self, binding: Binding, conflict: Conflict) -> str:
        """Do what can be done; "" if the binding can go on at once, else what it waits for."""
        if binding.departing or binding.address != conflict.address:
            return ""
        seen = await self._network.observe()
        others = _others(seen, binding)
        if others and not any(self._is_held(port) for port in others) and self._is_patient(binding):
            for port in others:
                await self._have_detached(port)
            hosts = ", ".join(sorted({port.host for port in others}))
            return f"a port that was left on {hosts} answers on {conflict.address}; it is being detached"
        self.forget(binding.id)
        if usual := self._answers_everywhere(conflict):
            return f"{usual} answers on {conflict.address}, as on {_OF_ONE_MAC} others; take proxy ARP off it"
        await self._give_up(binding, conflict, _who(conflict, others, seen.unseen))
        return ""

    def forget(self, key: BindingId) -> None:
        """The instance is gone, or its conflict is over."""
        self._since.pop(key, None)

    def _answers_everywhere(self, conflict: Conflict) -> str:
        """A MAC that has taken its share of addresses, or ""."""
        notes = [
            lease.note or "" for lease in self._records.book.leases() if lease.state is LeaseState.CONFLICTED
        ]
        shares = ((mac, sum(mac in note for note in notes)) for mac in conflict.answered_by)
        return next((mac for mac, share in shares if share >= _OF_ONE_MAC), "")

    def _is_held(self, port: PortSpec) -> bool:
        """Whether the port is where its record has it."""
        record = self._record_of(port)
        return record is not None and not record.departing and record.address == port.address

    def _is_patient(self, binding: Binding) -> bool:
        now = self._clock.monotonic()
        return now - self._since.setdefault(binding.id, now) < self._patience_s

    def _record_of(self, port: PortSpec) -> Binding | None:
        """The record that knows of the port."""
        for record in self._records.of_app(AppId(port.app)):
            state = record.sink(NETWORK)
            for spec in (*state.shown, state.wanted):
                if isinstance(spec, PortSpec) and _seat(spec) == _seat(port):
                    return record
        return None

    async def _have_detached(self, port: PortSpec) -> None:
        record = self._record_of(port)
        if record is None:
            record = await self._records.save(_leftover(self._records, port))
            log.warning("leftover port", instance=port.instance, address=port.address, host=port.host)
        self._wake(record.id)

    async def _give_up(self, binding: Binding, conflict: Conflict, who: str) -> None:
        """The address is nobody's, and the binding has no seat: one transaction."""
        async with self._records.changing():
            if self._records.get(binding.id) != binding:
                return  # somebody has changed it while the hosts were asked; it is looked at anew
            book = self._records.book
            lease = book.by_address(conflict.address)
            writes: list[Write] = [PutBinding(without_seat(binding))]
            if lease is not None and lease.binding == binding.id:
                writes += book.plan_conflict(conflict.address, self._clock.now(), who)
            await self._records.commit(writes)
        self._on_conflict()
        log.warning(
            "address conflict",
            address=conflict.address,
            answered_by=list(conflict.answered_by),
            host=binding.host,
            instance=binding.instance,
            reason=who,
        )


def _others(seen: Observation, binding: Binding) -> list[PortSpec]:
    """Ports of ours that have the binding's address, without its own on its host."""
    own = (binding.host, binding.address, binding.instance)
    return [
        port
        for port in seen.shown.values()
        if isinstance(port, PortSpec) and port.address == binding.address and _seat(port) != own
    ]


def _seat(port: PortSpec) -> tuple[str, str, str]:
    return (port.host, port.address, port.instance)


def _who(conflict: Conflict, others: Collection[PortSpec], silent: Collection[str]) -> str:
    """Who answered, for the note on the lease and for the history."""
    who = f"answered by {', '.join(conflict.answered_by)}"
    if conflict.answered_on not in ((), (conflict.address,)):
        who += f" on {', '.join(conflict.answered_on)}"
    if others:
        who += "; ours: " + ", ".join(sorted(f"{port.instance} on {port.host}" for port in others))
    elif silent:
        who += f"; could not be asked whether it is theirs: {', '.join(sorted(silent))}"
    return who


def _leftover(records: Records, port: PortSpec) -> Binding:
    """A record that stands for nothing but a port that has to go."""
    _, _, incarnation = port.task.rpartition(_INCARNATION_AFTER)
    return Binding(
        id=records.spare_id(port.instance),
        app=AppId(port.app),
        instance=InstanceId(port.instance),
        incarnation=int(incarnation) if incarnation.isdigit() else 1,
        task=TaskId(port.task),
        host=HostName(port.host),
        departing=True,
        sinks={NETWORK: SinkState(None, port)},
    )
