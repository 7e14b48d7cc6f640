"""What would change if nothing held it back. Looks, and changes nothing.

Every instance that is not in step has a reason: it is paused, held by the brake, waits for a seat, its labels
are refused, a sink does not take the change, or a worker is about to come to it.  Each line says what a
sink shows for it, what it shall show, and that reason.  For a paused instance nobody has worked out yet what
its sinks shall show; that is done here, from the same facts that its worker will use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import msgspec

from mooring.controller.breath import Breath
from mooring.controller.claims import Claims
from mooring.controller.decide import Decision, decide
from mooring.controller.drift import Finding, told
from mooring.controller.verify import Verifier
from mooring.controller.view import View
from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable
from mooring.core.model import App, Binding, BindingId, HostName, Instance, InstanceId, SinkName, State
from mooring.core.specs import Spec
from mooring.handlers.records import Records

_NEXT = "a worker comes to it next"


class PlannedChange(msgspec.Struct, frozen=True):
    """One thing that would change."""

    app: str
    instance: str
    sink: str  # "seat": its place in a pool
    shows: str
    shall_show: str
    held_by: str


class Plan(msgspec.Struct, frozen=True):
    """All that would change."""

    changes: tuple[PlannedChange, ...]
    findings: tuple[Finding, ...]  # what stands there and should not, or should and does not
    unread: dict[str, str]  # sink: why it was not compared


class Working(Protocol):
    """The part of the reconciler that is needed here."""

    problems: dict[BindingId, str]

    def wants(self, bound: Binding, observed: Instance, app: App) -> Mapping[SinkName, Spec | None]: ...


class Planner:
    """Puts a plan together from the running parts."""

    def __init__(
        self,
        view: View,
        records: Records,
        claims: Claims,
        working: Working,
        verifier: Verifier,
        clock: Clock,
        is_paused: Callable[[BindingId], bool],
        sinks: tuple[SinkName, ...],
    ) -> None:
        """`sinks`: the configured ones."""
        self._view = view
        self._records = records
        self._claims = claims
        self._working = working
        self._verifier = verifier
        self._breath = Breath(clock)
        self._is_paused = is_paused
        self._sinks = sinks
        self._held: frozenset[InstanceId] = frozenset()  # by the brake, when the plan was begun

    async def plan(self) -> Plan:
        """Everything that would change now, by app and instance."""
        changes: list[PlannedChange] = []
        self._held = self._view.held
        keys = {BindingId(instance.id) for instance in self._view.instances()}
        for key in sorted(keys | {binding.id for binding in self._records.all()}):
            changes += self._of(key)
            await self._breath.draw()
        changes.sort(key=lambda change: (change.app, change.instance, change.sink))
        try:
            found = await self._verifier.look(repair=False)
        except (Retryable, Refused) as error:
            return Plan(tuple(changes), (), {"all sinks": str(error)})
        return Plan(tuple(changes), found.findings, found.unread)

    def _of(self, key: BindingId) -> Iterator[PlannedChange]:
        observed, bound = self._view.instance(InstanceId(key)), self._records.get(key)
        decision = decide(observed, bound)
        if bound is None:
            if decision is Decision.CREATE and observed is not None:
                yield self._newcomer(observed)
            return
        yield from self._changes(bound, self._wants(bound, observed, decision), self._held_by(key))

    def _newcomer(self, observed: Instance) -> PlannedChange:
        app = self._view.app(observed.app)
        claim = self._claims.of(app) if app is not None else None
        pool = claim.pool if claim is not None else None
        seat = f"a seat in pool {pool}" if pool is not None else "no seat of its own"
        if claim is None:
            seat = "unknown"
        return PlannedChange(
            observed.app, observed.id, "seat", "nothing", seat, self._held_by(BindingId(observed.id))
        )

    def _wants(
        self, bound: Binding, observed: Instance | None, decision: Decision
    ) -> Mapping[SinkName, Spec | None]:
        if bound.departing or decision is Decision.KILL or self._is_held(bound.id):
            return dict.fromkeys(bound.sinks)
        app = self._view.app(observed.app) if observed is not None else None
        stored = {name: state.wanted for name, state in bound.sinks.items()}
        if observed is None or app is None or (bound.settled and not self._is_paused(bound.id)):
            return stored
        if decision is Decision.RESTART:
            host = observed.host if observed.host is not None else HostName(bound.host)
            moved = replace(bound, task=observed.task, incarnation=observed.incarnation, host=host)
            return self._working.wants(moved, observed, app)
        return self._working.wants(bound, observed, app)

    def _changes(
        self, bound: Binding, wants: Mapping[SinkName, Spec | None], held_by: str
    ) -> Iterator[PlannedChange]:
        for sink in self._sinks:
            state = bound.sink(sink)
            wanted = wants.get(sink, state.wanted)
            if wanted == state.applied and not state.residue:
                continue
            perhaps = [spec for spec in state.residue if spec != state.applied]
            shows = " or ".join(map(told, (state.applied, *perhaps)))
            yield PlannedChange(bound.app, bound.id, sink, shows, told(wanted), held_by)

    def _held_by(self, key: BindingId) -> str:
        if self._is_held(key):
            return f"the brake: {self._view.brake}"
        if self._is_paused(key):
            return "paused"
        observed = self._view.instance(InstanceId(key))
        refusal = self._claims.refusals.get(observed.app) if observed is not None else None
        return self._working.problems.get(key) or refusal or _waits(observed) or _NEXT

    def _is_held(self, key: BindingId) -> bool:
        return InstanceId(key) in self._held


def _waits(observed: Instance | None) -> str:
    return "its container has not started yet" if observed and observed.state is State.STARTING else ""
