"""One instance, brought in step: the body of every worker.

    1. compare what Marathon says with what we hold            decide
    2. do what the comparison asks of our records              handlers: create, restart, kill
    3. compute what every sink shall show, store it            wants, health
    4. walk the sinks, asking 1 to 3 again at every step       converge
    5. give back what is proven unused, or come back later     Verdict

Nothing here knows why it was called.  An event, a snapshot, a retry and an operator's `resume` all put the
same key into the same queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from mooring.controller.claims import Claims
from mooring.controller.decide import Decision, decide
from mooring.controller.doubts import Doubts
from mooring.core.errors import Refused, Retryable
from mooring.core.labels import Claim, IpPolicy
from mooring.core.model import (
    App,
    AppId,
    Binding,
    BindingId,
    HostName,
    Instance,
    InstanceId,
    SinkName,
    State,
)
from mooring.core.sink import Conflict, NotPossible
from mooring.core.specs import Spec
from mooring.core.template import Member
from mooring.handlers.ahead import Addresses
from mooring.handlers.conflict import Conflicts
from mooring.handlers.converge import Converger, Walk
from mooring.handlers.create import Seats
from mooring.handlers.health import show
from mooring.handlers.kill import Kills
from mooring.handlers.records import Records
from mooring.handlers.restart import Restarts, waits_for_maintenance
from mooring.handlers.wants import LEDGER, NETWORK, Facts, Wiring, member_of, wants_of, without_seat

log = structlog.get_logger(__name__)

_NEEDS_NO_SEAT = (State.KILLING, State.DEAD)  # its container ends, or has ended


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the queue shall do with the key. `after_s` None with `again` leaves the delay to its back-off."""

    again: bool = False
    after_s: float | None = None
    reason: str = ""


class Observed(Protocol):
    """The part of the view that is needed here."""

    def instance(self, id: InstanceId) -> Instance | None: ...

    def app(self, id: AppId) -> App | None: ...

    def knows(self, app: AppId) -> bool: ...

    def is_deleted(self, app: AppId) -> bool: ...

    def forget(self, id: InstanceId) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the configuration says, as far as wants depend on it."""

    wiring: Callable[[str], Wiring | None]  # of an address
    zone: str | None
    host_address: Callable[[HostName], str | None]


class Reconciler:
    """Decides and acts for one instance at a time; many run side by side, never two for one key."""

    def __init__(
        self,
        view: Observed,
        claims: Claims,
        records: Records,
        seats: Seats,
        restarts: Restarts,
        kills: Kills,
        conflicts: Conflicts | None,
        converger: Converger,
        surroundings: Surroundings,
        wake: Callable[[BindingId], None],
        doubts: Doubts,
        expect: Callable[[str, str, Addresses, int | None], None],
    ) -> None:
        """`wake` puts another instance's key into the queue; without a network there are no conflicts.

        `expect` is told task, host, addresses and VLAN of a container that will run soon.
        """
        self._view = view
        self._claims = claims
        self._records = records
        self._seats = seats
        self._restarts = restarts
        self._kills = kills
        self._conflicts = conflicts
        self._converger = converger
        self._around = surroundings
        self._wake = wake
        self._doubts = doubts
        self._expect = expect
        self._file_problems: dict[BindingId, str] = {}
        self._seatless: dict[BindingId, Retryable | Refused] = {}
        self.problems: dict[BindingId, str] = {}

    async def reconcile(self, key: BindingId) -> Verdict:
        """Bring one instance in step as far as it is possible now."""
        self._seatless.pop(key, None)
        try:
            await self._doubt(key)
            walk = await self._converger.settle(lambda: self._refresh(key))
            verdict = await self._conclude(key, walk)
        except Retryable as error:
            verdict = Verdict(True, error.after_s, str(error))
        except Refused as error:
            verdict = Verdict(reason=str(error))
        if verdict.reason:
            self.problems[key] = verdict.reason
        else:
            self.problems.pop(key, None)
        return verdict

    async def _doubt(self, key: BindingId) -> None:
        """What was found not to be shown any more becomes a change like any other."""
        bound = self._records.get(key)
        if bound is None:
            self._doubts.forget(key)
        else:
            await self._records.save(self._doubts.take(bound))

    async def _refresh(self, key: BindingId) -> Binding | None:
        """Steps 1 to 3: the binding as it shall be, stored; None when there is nothing to hold."""
        bound = self._records.get(key)
        observed = self._view.instance(InstanceId(key))
        if observed is not None and observed.state is State.STARTING:
            self._get_ready(observed, bound)
        decision = decide(observed, bound)
        if decision is Decision.NOTHING:
            return bound
        if decision is Decision.KILL:
            assert bound is not None
            return await self._kills.depart(bound)
        assert observed is not None
        app = self._view.app(observed.app)
        if app is None:
            # Its app is being fetched, or cannot be read.  Who does not run gets no traffic all the same.
            if bound is not None and decision is Decision.DRAIN:
                return await self._show(bound, observed, _unknown(observed.app), None)
            return bound
        claim = self._claims.of(app)
        if decision is Decision.CREATE:
            if claim is None:
                raise Refused(self._claims.refusals.get(app.id, "its labels were refused"))
            bound = await self._seats.create(observed, app, claim)
        elif decision is Decision.RESTART and bound is not None:
            bound = await self._restarts.restart(bound, observed)
        assert bound is not None
        return await self._show(bound, observed, app, claim)

    def _get_ready(self, observed: Instance, bound: Binding | None) -> None:
        """Its host is known, and its container does not run yet: what can be done now is done now."""
        app = self._view.app(observed.app)
        claim = self._claims.of(app) if app is not None else None
        if observed.host is None or claim is None or claim.pool is None:
            return
        address = bound.address if bound is not None else self._seats.likely(observed, claim)
        wiring = self._around.wiring(address) if address is not None else None
        second = wiring.second.address if wiring is not None and wiring.second is not None else None
        addresses = tuple(one for one in (address, second) if one is not None)
        self._expect(observed.task, observed.host, addresses, wiring.vlan if wiring is not None else None)

    async def _show(self, bound: Binding, observed: Instance, app: App, claim: Claim | None) -> Binding:
        if bound.address is not None and not bound.departing and not self._has_its_seat(bound):
            log.error("its address is in another hand; it takes another seat", address=bound.address)
            bound = await self._records.save(without_seat(bound))
        if observed.state in _NEEDS_NO_SEAT and bound.address is None:
            self._seats.forget(bound.id)  # it waited for one; another container of it may
        elif claim is not None and claim.pool is not None and bound.address is None and not bound.departing:
            try:
                bound = await self._seats.seat(bound, app, claim)
            except (Retryable, Refused) as error:
                if bound.settled:
                    raise
                self._seatless[bound.id] = error
                return bound  # what still leads to the seat that it has lost is undone while it waits
        await self._restarts.follow(bound)
        wants = wants_of(self._facts(bound, observed, app, claim), bound)
        self._file_problems[bound.id] = wants.problem
        return await show(self._records, bound, wants.specs, self._converger.sinks)

    def _has_its_seat(self, bound: Binding) -> bool:
        """No write of ours parts the two; nothing is attached on the word of one alone all the same."""
        lease = self._records.book.by_address(bound.address or "")
        return lease is not None and lease.binding == bound.id

    def wants(self, bound: Binding, observed: Instance, app: App) -> Mapping[SinkName, Spec | None]:
        """What each sink would be asked to show for the instance now. Changes nothing."""
        return wants_of(self._facts(bound, observed, app, self._claims.of(app)), bound).specs

    def _facts(self, bound: Binding, observed: Instance, app: App, claim: Claim | None) -> Facts:
        lease = self._records.book.by_address(bound.address) if bound.address else None
        notices = claim.notices if claim else ()
        sources = {source for notice in notices for source in notice.sources}
        return Facts(
            instance=observed,
            app=app,
            claim=claim,
            wiring=self._around.wiring(bound.address) if bound.address else None,
            zone=self._around.zone,
            lease_generation=lease.generation if lease else 0,
            host_address=self._around.host_address(bound.host),
            members={source: self.members(source) for source in sources},
        )

    def members(self, app_id: AppId) -> tuple[Member, ...] | None:
        """Who belongs to an app, as its dependents see it: everyone on the books who is not leaving.

        None if that cannot be told: it has members from before a restart, and no listing has defined it yet.
        """
        app = self._view.app(app_id)
        if app is None:
            awaited = self._view.knows(app_id) and any(map(is_member, self._records.of_app(app_id)))
            return None if awaited else ()
        claim = self._claims.of(app)
        found: list[Member] = []
        for binding in self._records.of_app(app_id):
            observed = self._view.instance(binding.instance)
            if observed is not None and is_member(binding):
                # Wants of a member never depend on its own members here, which ends the recursion.
                facts = Facts(
                    observed, app, claim, None, self._around.zone, 0,
                    self._around.host_address(binding.host), {},
                )  # fmt: skip
                found.append(member_of(facts, binding))
        return tuple(sorted(found, key=_seat_order))

    async def _conclude(self, key: BindingId, walk: Walk) -> Verdict:
        """Step 5."""
        bound = self._records.get(key)
        if bound is None:
            self._seats.forget(key)
            self._view.forget(InstanceId(key))
            return Verdict()
        if self._conflicts is not None and isinstance(conflict := walk.failed.get(NETWORK), Conflict):
            waits_for = await self._conflicts.resolve(bound, conflict)
            return Verdict(True, None if waits_for else 0.0, waits_for)
        if NETWORK in walk.failed:
            moved = await self._host_is_silent(bound, walk)
            if moved:
                return Verdict(True, 0.0)
        if bound.departing and bound.settled:
            if reason := self._why_kept(bound):
                return Verdict(True, None, reason)
            await self._let_go(bound)
            return Verdict()
        reason = "; ".join(filter(None, (_why(walk), self._file_problems.pop(key, ""))))
        if (seatless := self._seatless.pop(key, None)) is not None:
            reason = "; ".join(filter(None, (str(seatless), reason)))
            return Verdict(isinstance(seatless, Retryable), getattr(seatless, "after_s", None), reason)
        if walk.retry is not None:
            return Verdict(True, walk.retry.after_s, reason)
        return Verdict(reason=reason)

    def _why_kept(self, bound: Binding) -> str:
        """Why the address of an instance of which nothing is shown may not be given back yet; else ""."""
        if bound.address is None:
            return ""
        if self._kills.still_leads_there(bound):
            return f"{bound.address} is still shown for {bound.instance}"
        if unsure := self._seats.unsure:  # it may have moved since an old copy of the store was made
            return f"{bound.address} is not given back, because a port may have it elsewhere: {unsure}"
        return ""

    async def _host_is_silent(self, bound: Binding, walk: Walk) -> bool:
        """A port could not be removed. True if the instance has left it behind and can go on."""
        reason = walk.failed[NETWORK].reason
        if bound.departing:
            if not waits_for_maintenance(self._records, bound):
                await self._kills.strand(bound, reason)
            self._wake_waiting(bound.app)
            return False
        if not self._restarts.gives_up_waiting(bound):
            return False
        rest = await self._restarts.leave_behind(bound)
        log.warning("left behind", instance=bound.instance, address=bound.address, reason=reason)
        for left in self._records.of_app(rest.app):
            if left.departing:
                self._wake(left.id)
        return True

    async def _let_go(self, bound: Binding) -> None:
        app = self._view.app(bound.app)
        claim = self._claims.of(app) if app else None
        keep = claim is None or claim.policy is not IpPolicy.TASK
        keep = keep and not self._view.is_deleted(bound.app)
        await self._kills.finish(bound, keep, f"{bound.instance} is gone")
        self._seats.forget(bound.id)
        self._restarts.forget(bound.id)
        if self._conflicts is not None:
            self._conflicts.forget(bound.id)
        self._view.forget(InstanceId(bound.id))
        log.info("let go", instance=bound.instance, app=bound.app, address=bound.address)
        self._wake_waiting(bound.app)

    def _wake_waiting(self, app: AppId) -> None:
        for key in self._seats.waiting(app):
            self._wake(key)


def is_member(binding: Binding) -> bool:
    """On the books and not on its way out."""
    return not binding.departing and binding.sink(LEDGER).applied is not None


def _seat_order(member: Member) -> tuple[bool, int, str]:
    return (member.slot is None, member.slot or 0, member.address)


def _unknown(app: AppId) -> App:
    """What is known of an app of which nothing is known."""
    return App(app, 0, {}, (), checked=True)


def _why(walk: Walk) -> str:
    parked = " (not tried again by itself)"
    return "; ".join(
        f"{sink}: {outcome.reason}{parked if isinstance(outcome, NotPossible) else ''}"
        for sink, outcome in walk.failed.items()
    )
