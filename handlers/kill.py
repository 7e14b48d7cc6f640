"""An instance leaves: everything is undone in the reverse order, and the address is given back last.

Marathon's word starts this, but it does not free an address.  The lease stays in the binding's hand until
every sink is settled on showing nothing: no balancer, no name and, above all, no port points at the
address any more.  While the host cannot confirm that, the lease is `stranded`, and the binding stays and
is tried again.  Only then is the seat kept for its app (`idle`) or put into quarantine (`cooling`).
"""

from __future__ import annotations

from dataclasses import replace

from mooring.core.clock import Clock
from mooring.core.model import Binding, LeaseState
from mooring.core.specs import MemberSpec, Spec
from mooring.core.store import DropBinding, Write
from mooring.handlers.records import Records
from mooring.handlers.restart import hosts_of, name_the_host
from mooring.handlers.wants import NETWORK, nothing


class Kills:
    """Lets instances go."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self._records = records
        self._clock = clock

    async def depart(self, binding: Binding) -> Binding:
        """Decide that the instance leaves: stored before the first effect."""
        if binding.departing:
            return binding
        leaving = replace(binding, departing=True)
        for sink, spec in nothing().items():
            if sink in leaving.sinks:
                leaving = leaving.with_sink(sink, leaving.sink(sink).want(spec))
        return await self._records.save(leaving)

    async def strand(self, binding: Binding, reason: str) -> None:
        """Its host could not confirm the detach: nobody else may have the address."""
        if binding.address is None or binding.sink(NETWORK).settled:
            return
        async with self._records.changing():
            book, now = self._records.book, self._clock.now()
            lease = book.by_address(binding.address)
            if lease is None or lease.binding != binding.id:
                return
            if lease.state is LeaseState.STRANDED:
                if lease.host in hosts_of(binding):
                    return
                # It was undone there meanwhile; what is left lies on another host.
                await self._records.commit(book.plan_unstrand(binding.address, now, f"{lease.host} let go"))
            await name_the_host(self._records, binding, now, reason)
            await self._records.commit(book.plan_strand(binding.address, now, reason))

    def still_leads_there(self, binding: Binding) -> bool:
        """Whether a binding that moved to another seat still shows this one's address anywhere.

        What was left behind on a lost host may be undone before the instance itself has caught up: its
        names and members lead to the old address until then.
        """
        return binding.address is not None and any(
            leads_to(other, binding.address)
            for other in self._records.of_app(binding.app)
            if other.id != binding.id and other.address != binding.address
        )

    async def finish(self, binding: Binding, keep_seat: bool, reason: str) -> None:
        """Everything is undone: give the address back and forget the binding, in one transaction."""
        assert binding.departing
        assert binding.settled, "an address may be given back only when nothing points at it"
        async with self._records.changing():
            writes: list[Write] = [DropBinding(binding.id)]
            if binding.address is not None:
                writes += self._records.book.plan_release(
                    binding.address,
                    keep=keep_seat,
                    now=self._clock.now(),
                    reason=reason,
                    binding=binding.id,
                )
            await self._records.commit(writes)


def leads_to(binding: Binding, address: str) -> bool:
    """Whether a sink shows the address for that binding, or shall."""
    states = binding.sinks.values()
    return any(_leads_to(spec, address) for state in states for spec in (state.wanted, *state.shown))


def _leads_to(spec: Spec | None, address: str) -> bool:
    if isinstance(spec, MemberSpec):
        return any(endpoint.address == address for endpoint in spec.endpoints)
    return getattr(spec, "address", None) == address
