"""Walks the sinks until each shows what it shall.

Order is the whole point of this module.  Going in, a container is first wired, then named and inventoried,
gets its files, then takes traffic, and is last found under its app's name.  Going out is the reverse, so
that nobody is ever sent to something that is no longer there.

    in:   network -> names, ledger, webhook, probe, files -> haproxy, nginx -> app_names
    out:  app_names -> haproxy, nginx -> names -> network -> ledger, webhook

On the way in a sink waits until those before it are settled; only what it still shows of a seat that the
binding has left goes at once, since that seat's address is given back when nothing leads there any more.
Nor does a repair wait: what a sink was known to show, and shall show, is put back whatever the others do.
On the way out it waits only until those before it have been tried: a name server that is down must not
keep a dead container's port on the switch.  (The address is nevertheless not given back before all of them
are settled; see `kill`.)

`next_steps` is pure.  `Converger.settle` asks it again after every outcome, with freshly computed wants,
so whatever happens to the instance meanwhile changes the walk at the next step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mooring.core.batch import Batcher
from mooring.core.model import Binding, BindingId, Epoch, SinkName, SinkState
from mooring.core.sink import Change, Done, NotPossible, Outcome, RetryAfter
from mooring.core.specs import ItemSpec, MemberSpec, NameSpec, PortSpec, Spec
from mooring.handlers.records import Records
from mooring.handlers.wants import (
    APP_NAMES,
    BALANCERS,
    FILES,
    HAPROXY,
    LEDGER,
    NAMES,
    NETWORK,
    NGINX,
    PROBE,
    WEBHOOK,
)

_IN_AFTER: Mapping[SinkName, Sequence[SinkName]] = {
    NAMES: (NETWORK,),
    LEDGER: (NETWORK,),
    WEBHOOK: (NETWORK,),
    PROBE: (NETWORK,),
    FILES: (NETWORK,),
    HAPROXY: (NETWORK,),
    NGINX: (NETWORK,),
    APP_NAMES: (NETWORK, *BALANCERS),
}
_OUT_AFTER: Mapping[SinkName, Sequence[SinkName]] = {
    HAPROXY: (APP_NAMES,),
    NGINX: (APP_NAMES,),
    NAMES: (APP_NAMES, *BALANCERS),
    NETWORK: (APP_NAMES, *BALANCERS, NAMES),
    LEDGER: (NETWORK,),
    WEBHOOK: (NETWORK,),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One change that may be made now. `final`: it leaves the sink showing what it shall."""

    sink: SinkName
    change: Change
    final: bool = True


@dataclass(slots=True)
class Walk:
    """How one walk went: what failed, and the binding as it stands now (None: it is no more)."""

    binding: Binding | None = None
    failed: dict[SinkName, RetryAfter | NotPossible] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)  # hosts of which a port could not be undone

    @property
    def retry(self) -> RetryAfter | None:
        """The most urgent reason to come back, if any."""
        waits = [outcome for outcome in self.failed.values() if isinstance(outcome, RetryAfter)]
        return min(waits, key=lambda wait: wait.after_s if wait.after_s is not None else 1e9, default=None)


def next_steps(
    binding: Binding,
    sinks: Collection[SinkName],
    failed: Collection[SinkName],
    epoch: Epoch,
    silent: Collection[str] = (),
) -> list[Step]:
    """The changes that may be made now.

    `sinks`: those that exist; `failed`: those that had their try; `silent`: the hosts that had theirs.
    """
    steps: list[Step] = []
    for name in sinks:
        state = binding.sink(name)
        if state.settled:
            continue
        if name in failed:
            # Ports on several hosts go one after the other; one host that is silent must not keep the rest.
            port = _port_to_undo(state, silent)
            steps += [_undo(name, binding, port, epoch)] if port else []
        elif _may_move(name, binding, failed):
            steps.append(_step(name, binding, epoch))
        elif stale := _of_another_seat(binding, name):
            steps.append(_undo(name, binding, stale, epoch))
    return steps


def _may_move(name: SinkName, binding: Binding, failed: Collection[SinkName]) -> bool:
    if _goes_out(binding.sink(name)):
        return all(
            binding.sink(before).settled or before in failed or not _goes_out(binding.sink(before))
            for before in _OUT_AFTER.get(name, ())
        )
    return _is_repair(binding.sink(name)) or all(
        binding.sink(before).settled for before in _IN_AFTER.get(name, ())
    )


def _is_repair(state: SinkState) -> bool:
    return state.wanted is not None and state.wanted == state.applied


def _goes_out(state: SinkState) -> bool:
    wanted = state.wanted
    if isinstance(wanted, ItemSpec):
        # What was live is down at once, whatever its host says; what never was live is no news.
        return wanted.status == "down" and state.applied is not None
    return wanted is None or (isinstance(wanted, MemberSpec) and wanted.state != "up")


def _step(name: SinkName, binding: Binding, epoch: Epoch) -> Step:
    state = binding.sink(name)
    port = _port_to_undo(state)
    if port:
        return _undo(name, binding, port, epoch)
    # What a look found missing is in the residue as well (`SinkState.doubted`).
    certain = None if state.applied in state.residue else state.applied
    return Step(name, Change(binding.id, state.wanted, state.shown, state.generation, epoch, certain))


def _undo(name: SinkName, binding: Binding, specs: tuple[Spec, ...], epoch: Epoch) -> Step:
    change = Change(binding.id, None, specs, binding.sink(name).generation, epoch)
    return Step(name, change, final=False)


def _of_another_seat(binding: Binding, name: SinkName) -> tuple[Spec, ...]:
    """What still leads to an address that the binding has left; it need not wait for the new port."""
    shown = binding.sink(name).shown
    return tuple(
        spec
        for spec in shown
        if isinstance(spec, NameSpec | ItemSpec) and spec.address not in (None, binding.address)
    )


def _after(state: SinkState, step: Step) -> SinkState:
    if step.final:
        return state.confirmed(step.change.generation, step.change.wanted)
    return state.without(step.change.was)


def _port_to_undo(state: SinkState, silent: Collection[str] = ()) -> tuple[Spec, ...]:
    """Ports on one host that have to go by themselves: all that are not where the wanted one is to be."""
    hosts = list(dict.fromkeys(host for spec in state.shown if (host := _host(spec)) is not None))
    if isinstance(state.wanted, PortSpec):
        hosts = [host for host in hosts if host != _host(state.wanted)]
    elif len(hosts) < 2:
        return ()  # the last one goes with the step that leaves nothing
    first = next((host for host in hosts if host not in silent), None)
    return tuple(spec for spec in state.shown if first is not None and _host(spec) == first)


def _host(spec: Spec) -> str | None:
    return spec.host if isinstance(spec, PortSpec) else None


Refresh = Callable[[], Awaitable[Binding | None]]
Told = Callable[[Binding, Step, Outcome], None]


class Converger:
    """Makes the changes, as many at a time as the order allows."""

    def __init__(
        self,
        batchers: Mapping[SinkName, Batcher],
        records: Records,
        epoch: Epoch,
        on_outcome: Told,
        is_paused: Callable[[BindingId], bool] = lambda key: False,
        is_held: Callable[[SinkName], bool] = lambda sink: False,
        objection: Callable[[Binding, Spec | None], str] = lambda binding, wanted: "",
    ) -> None:
        """`on_outcome` is told what became of every step.

        A paused instance takes no further step, and nobody takes one at a held sink.  `objection` says why
        a binding's network may not show what is wanted now, or "".
        """
        self._batchers = batchers
        self._records = records
        self._epoch = epoch
        self._on_outcome = on_outcome
        self._is_paused = is_paused
        self._is_held = is_held
        self._objection = objection

    @property
    def sinks(self) -> Collection[SinkName]:
        return self._batchers.keys()

    async def settle(self, refresh: Refresh) -> Walk:
        """Walk until nothing is left to try now. `refresh` gives the binding with fresh wants."""
        walk = Walk()
        flights: dict[asyncio.Task[Outcome], Step] = {}
        try:
            while True:
                walk.binding = await refresh()
                if walk.binding is not None and not self._is_paused(walk.binding.id):
                    self._launch(walk, flights)
                if not flights:
                    return walk
                landed, _ = await asyncio.wait(flights, return_when=asyncio.FIRST_COMPLETED)
                await self._record(walk, [(flights.pop(task), task.result()) for task in landed])
        finally:
            for task in flights:
                task.cancel()

    def _launch(self, walk: Walk, flights: dict[asyncio.Task[Outcome], Step]) -> None:
        assert walk.binding is not None
        in_the_air = {step.sink for step in flights.values()}
        for step in self._next_steps(walk, walk.binding):
            if step.sink not in in_the_air and not self._is_held(step.sink):
                flights[asyncio.ensure_future(self._batchers[step.sink].submit(step.change))] = step

    def _next_steps(self, walk: Walk, binding: Binding) -> list[Step]:
        """Those that may be made now; one that meets an objection has had its try."""
        steps = next_steps(binding, self._batchers.keys(), walk.failed, self._epoch, walk.silent)
        port = next((step for step in steps if step.sink == NETWORK), None)
        if port is None or not (reason := self._objection(binding, port.change.wanted)):
            return steps
        walk.failed[NETWORK] = RetryAfter(reason)
        return next_steps(binding, self._batchers.keys(), walk.failed, self._epoch, walk.silent)

    async def _record(self, walk: Walk, landed: Sequence[tuple[Step, Outcome]]) -> None:
        assert walk.binding is not None
        current = self._records.get(walk.binding.id)
        for step, outcome in landed:
            self._on_outcome(current or walk.binding, step, outcome)
            if not isinstance(outcome, Done):
                walk.failed[step.sink] = outcome
                walk.silent |= {host for spec in step.change.was if (host := _host(spec)) is not None}
            elif current is not None:
                current = current.with_sink(step.sink, _after(current.sink(step.sink), step))
        if current is not None:
            walk.binding = await self._records.save(current)
