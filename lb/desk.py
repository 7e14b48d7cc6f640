"""Where changes for a balancer are taken in: shares, refusals, and what to take back.

A balancer is one lane, so one flight of changes at a time lies on the desk.  `take` puts all its
changes into the shares and folds the table.  A change is taken whole or not at all: one that is
malformed, or asks for a port or host name of another app, is answered at once and its binding keeps
what it had, so a bad edit leaves the last good state in service.  Later the balancer itself may find
fault with a service; `Flight.reject` then takes those changes back in the same way.

Leaving is always possible: a drain or removal is never refused for what the share asked for earlier.

Services that came in by `prime` and prove bad have no change to take back.  They are barred for the
rest of the flight and tried again in the next, so they come back by themselves when the cause is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from mooring.core.errors import Fenced, Refused
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change, NotPossible, Outcome
from mooring.core.specs import Endpoint, MemberSpec, ServiceSpec, Spec
from mooring.lb.model import ServiceKey, Share, Table, fold, validate

log = structlog.get_logger(__name__)


def everything(_: ServiceSpec) -> bool:
    """The balancer serves every kind of service."""
    return True


class Desk:
    """All shares of one balancer and the table they fold into."""

    def __init__(
        self, *, reserved: Mapping[int, str], serves: Callable[[ServiceSpec], bool] = everything
    ) -> None:
        """`reserved`: ports of the balancer's own; `serves`: services of other kinds are ignored."""
        self.table = Table()
        self.shares: dict[BindingId, Share] = {}
        self.epoch = Epoch(0)
        self._reserved = reserved
        self._serves = serves
        self._held: Mapping[str, ServiceKey] = {}
        self._stamp = 0

    def prime(self, shown: Mapping[BindingId, Sequence[Spec]], held: Mapping[str, ServiceKey]) -> None:
        """Start from what the store says may be out there; `held` says who had which port or host name."""
        self._held = held
        for binding, specs in shown.items():
            kept = tuple(spec for spec in map(self._admit_old, specs) if spec is not None)
            if kept:
                self.shares[binding] = Share(kept)
        self.refold(())

    def take(self, changes: Sequence[Change]) -> Flight:
        """Take the changes in; raises `Fenced` for changes of an epoch older than one seen before."""
        newest = max((change.epoch for change in changes), default=self.epoch)
        if newest < self.epoch:
            raise Fenced(f"changes of epoch {newest} after changes of epoch {self.epoch}")
        self.epoch = newest
        flight = Flight(self, changes)
        flight.settle()
        return flight

    def put(self, change: Change) -> None:
        """Replace the binding's share; raises `Refused` and leaves it alone if the new one is malformed."""
        self._stamp += 1
        specs = () if change.wanted is None else (self._relevant(validate(change.wanted)),)
        self.set(change.binding, Share(specs, self._stamp) if specs else None)

    def set(self, binding: BindingId, share: Share | None) -> None:
        """Put this share, or none, in place of the present one."""
        if share is None:
            self.shares.pop(binding, None)
        else:
            self.shares[binding] = share

    def refold(self, barred: Sequence[ServiceSpec]) -> None:
        """Bring the table up to date."""
        self.table = fold(self.shares, held=self._held, reserved=self._reserved, refused=barred)

    def accept(self) -> None:
        """From now on the services of the present table keep their ports and host names."""
        self._held = self.table.claims()

    def _relevant(self, spec: MemberSpec) -> MemberSpec:
        return MemberSpec(tuple(one for one in spec.endpoints if self._serves(one.service)), spec.state)

    def _admit_old(self, spec: Spec) -> MemberSpec | None:
        try:
            return self._relevant(validate(spec))
        except Refused as error:
            log.warning("a stored share is not acceptable, left out", reason=str(error))
            return None


class Flight:
    """One batch of changes on its way through a balancer."""

    def __init__(self, desk: Desk, changes: Sequence[Change]) -> None:
        self.answers: dict[BindingId, Outcome] = {}
        self._desk = desk
        self._changes = changes
        self._before = {change.binding: desk.shares.get(change.binding) for change in changes}
        self._barred: list[ServiceSpec] = []
        for change in changes:
            self._put(change)

    @property
    def table(self) -> Table:
        """The table with everything in it that was not refused."""
        return self._desk.table

    def open(self) -> Iterator[Change]:
        """Changes that have no answer yet."""
        return (change for change in self._changes if change.binding not in self.answers)

    def touched(self, change: Change) -> list[Endpoint]:
        """Every endpoint that this change may have added, altered or removed."""
        before = self._before[change.binding]
        specs = [change.wanted, *change.was, *(before.specs if before else ())]
        return [one for spec in specs if isinstance(spec, MemberSpec) for one in spec.endpoints]

    def settle(self) -> None:
        """Fold again until no change of this flight takes part in a conflict."""
        while True:
            self._desk.refold(self._barred)
            reasons = {key: NotPossible(reason) for key, reason in self.table.conflicts.items()}
            if not self._take_back(reasons):
                return

    def reject(self, bad: Mapping[ServiceKey, Outcome], *, bar: bool = True) -> bool:
        """Take back the changes that touch these services and give them this answer.

        Services that stay bad without those changes (they were there before) are left out of the table for
        this flight if `bar` is set.  Returns whether the table changed.
        """
        if not bad:
            return False
        offered = {service.key: service.terms for service in self.table.services}
        altered = self._take_back(bad)
        self.settle()
        stubborn = [s for s in self.table.services if s.key in bad and s.terms == offered.get(s.key)]
        if bar and stubborn:
            for service in stubborn:
                log.error("service left out", app=service.terms.app, reason=str(bad[service.key]))
            self._barred.extend(service.terms for service in stubborn)
            self.settle()
        return altered or (bar and bool(stubborn))

    def outcomes(self, judge: Callable[[Change], Outcome]) -> list[Outcome]:
        """One outcome for each change in order; `judge` speaks for those that have no answer yet."""
        return [self.answers.get(change.binding) or judge(change) for change in self._changes]

    def _put(self, change: Change) -> None:
        try:
            self._desk.put(change)
        except Refused as error:
            if isinstance(change.wanted, MemberSpec) and change.wanted.state == "drain":
                self._desk.set(change.binding, None)
            else:
                self.answers[change.binding] = NotPossible(str(error))

    def _take_back(self, bad: Mapping[ServiceKey, Outcome]) -> bool:
        hits = [(change, answer) for change in self.open() if (answer := _hit(change, bad)) is not None]
        for change, answer in hits:
            self._desk.set(change.binding, self._before[change.binding])
            self.answers[change.binding] = answer
        return bool(hits)


def _hit(change: Change, bad: Mapping[ServiceKey, Outcome]) -> Outcome | None:
    wanted = change.wanted
    if not isinstance(wanted, MemberSpec) or wanted.state == "drain":
        return None
    keys = ((endpoint.service.app, endpoint.service.index) for endpoint in wanted.endpoints)
    return next((bad[key] for key in keys if key in bad), None)
