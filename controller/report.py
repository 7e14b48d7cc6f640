"""The read model over the daemon's own memory: what status, leases, pools and metrics show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from mooring.controller.claims import Claims
from mooring.controller.condition import Condition
from mooring.controller.reconcile import Reconciler
from mooring.controller.view import View
from mooring.core.model import Binding, BindingId, Instance, Lease, LeaseState, SinkName, SinkState, State
from mooring.core.readmodel import InstanceRow, Phase, PoolRow, SinkRow, Vitals
from mooring.core.specs import (
    FilesSpec,
    ItemSpec,
    MemberSpec,
    NameSpec,
    PortSpec,
    ProbeSpec,
    SharedNameSpec,
    Spec,
)
from mooring.handlers.maintenance import left_alone_in
from mooring.handlers.records import Records


class Report:
    """Implements `ReadModel`."""

    def __init__(
        self,
        view: View,
        records: Records,
        claims: Claims,
        reconciler: Reconciler,
        condition: Condition,
        sinks: Collection[str],
        pools: Callable[[], Sequence[PoolRow]],
        waits_for_a_seat: Callable[[BindingId], bool],
    ) -> None:
        """`condition` knows the daemon's running parts; `sinks` are the configured ones."""
        self._view = view
        self._records = records
        self._claims = claims
        self._reconciler = reconciler
        self.overview = condition.overview
        self.readiness = condition.readiness
        self._unreadable = condition.unreadable
        self._vitals = condition.vitals
        self._sinks = sinks
        self.pools = pools
        self._waits_for_a_seat = waits_for_a_seat

    def instances(self) -> Sequence[InstanceRow]:
        rows = [self._bound(binding) for binding in self._records.all()]
        rows += [self._unbound(instance) for instance in self._waiting()]
        return sorted(rows, key=lambda row: (row.app, row.slot is None, row.slot or 0, row.instance))

    def refusals(self) -> Mapping[str, str]:
        refused = {**self._claims.refusals, **self._unreadable()}
        return {str(app): reason for app, reason in refused.items()}

    def leases(self) -> Sequence[Lease]:
        return self._records.book.leases()

    def vitals(self) -> Vitals:
        unsettled, left_alone = self._records.unsettled(), left_alone_in(self._records)
        return self._vitals(
            {sink: unsettled.get(SinkName(sink), 0) - left_alone[SinkName(sink)] for sink in self._sinks}
        )

    def _waiting(self) -> Iterator[Instance]:
        """Instances that should have a binding, or soon will."""
        for instance in self._view.instances():
            known = self._records.get(BindingId(instance.id)) is not None
            if not known and instance.state in (State.STARTING, State.RUNNING):
                yield instance

    def _bound(self, binding: Binding) -> InstanceRow:
        observed = self._view.instance(binding.instance)
        lease = self._records.book.by_address(binding.address) if binding.address else None
        mine = lease is not None and lease.binding == binding.id
        return InstanceRow(
            app=binding.app,
            slot=binding.slot,
            instance=binding.id,
            incarnation=binding.incarnation,
            task=binding.task,
            host=binding.host,
            address=binding.address,
            pool=binding.pool,
            state=observed.state.value if observed else State.GONE.value,
            health=observed.health.value if observed else "",
            lease=lease.state.value if lease is not None and mine else None,
            phase=Phase.WAITING if self._waits_for_a_seat(binding.id) else _phase(binding, lease, observed),
            sinks={name: _sink_row(state) for name, state in binding.sinks.items()},
            problem=self._reconciler.problems.get(binding.id, ""),
        )

    def _unbound(self, instance: Instance) -> InstanceRow:
        refused = instance.app in self._claims.refusals
        return InstanceRow(
            app=instance.app,
            slot=None,
            instance=instance.id,
            incarnation=instance.incarnation,
            task=instance.task,
            host=instance.host,
            address=None,
            pool=None,
            state=instance.state.value,
            health=instance.health.value,
            lease=None,
            phase=Phase.REFUSED if refused else Phase.WAITING,
            problem=self._reconciler.problems.get(BindingId(instance.id), ""),
        )


def _phase(binding: Binding, lease: Lease | None, observed: Instance | None) -> Phase:
    if lease is not None and lease.state is LeaseState.STRANDED and lease.binding == binding.id:
        return Phase.LEFT_BEHIND
    if binding.departing:
        return Phase.LEAVING
    if not binding.settled:
        return Phase.WIRING
    if observed is None or observed.state is not State.RUNNING:
        return Phase.STANDBY
    members = [state.wanted for state in binding.sinks.values() if isinstance(state.wanted, MemberSpec)]
    return Phase.SERVING if all(member.state == "up" for member in members) else Phase.STANDBY


def _sink_row(state: SinkState) -> SinkRow:
    return SinkRow(_short(state.wanted), _short(state.applied), state.settled)


def _short(spec: Spec | None) -> str | None:
    """A spec in a few words."""
    match spec:
        case None:
            return None
        case PortSpec():
            second = f" and {spec.address6}/{spec.prefix6}" if spec.address6 else ""
            return f"{spec.address}/{spec.prefix}{second} on {spec.host}"
        case ProbeSpec():
            return ",".join(map(str, spec.ports))
        case NameSpec() | SharedNameSpec():
            return spec.name
        case ItemSpec():
            return spec.status
        case MemberSpec():
            return spec.state
        case FilesSpec():
            return ",".join(file.path for file in spec.files)
