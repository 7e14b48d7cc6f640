"""The engine: view, queue, workers and handlers, put together over any store, sinks and Marathon.

The daemon builds it over the real ones, a simulation over twins and a virtual clock.  It implements the
commands that change what it does (`pause`, `resume`, `release_brake`).
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from mooring.controller.addresses import HostAddresses
from mooring.controller.claims import Claims
from mooring.controller.condition import Badge, Condition
from mooring.controller.decide import Decision, decide
from mooring.controller.doubts import Doubts
from mooring.controller.hold import HELD as HELD_SINKS
from mooring.controller.hold import Hold
from mooring.controller.janitor import Janitor
from mooring.controller.latency import Latency
from mooring.controller.lookout import make_planner, make_verifier
from mooring.controller.pools import Occupancy, PoolKeeper, supernets_of, wiring_at
from mooring.controller.queue import Priority, WorkQueue
from mooring.controller.reconcile import Reconciler, Surroundings, is_member
from mooring.controller.report import Report
from mooring.controller.settings import Settings
from mooring.controller.settings_reach import reach_of
from mooring.controller.snapshot import Marathon
from mooring.controller.stage import HELD
from mooring.controller.view import View
from mooring.controller.watch import Watch
from mooring.controller.workers import Workers
from mooring.core.batch import Batcher
from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable
from mooring.core.labels import Rules
from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    Epoch,
    Health,
    HostName,
    Instance,
    InstanceId,
    State,
)
from mooring.core.readmodel import EVERYTHING
from mooring.core.sink import Sink
from mooring.core.specs import MemberSpec
from mooring.core.store import PutFlag
from mooring.handlers.ahead import Addresses
from mooring.handlers.conflict import Conflicts
from mooring.handlers.converge import Converger
from mooring.handlers.create import Seats
from mooring.handlers.fabric import Fabric
from mooring.handlers.hosts import NetworkSink
from mooring.handlers.kill import Kills
from mooring.handlers.records import Records
from mooring.handlers.restart import Restarts
from mooring.handlers.wants import BALANCERS, NETWORK, Wiring
from mooring.ipam.pools import Pools
from mooring.portal.metrics import Metrics

if TYPE_CHECKING:
    from mooring.controller.patrol import Patrol
    from mooring.controller.rebuild import Rebuild
    from mooring.handlers.fences import Fences
    from mooring.handlers.maintenance import Maintenance

log = structlog.get_logger(__name__)

_PAUSED = "paused:"
_STORE_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Outside:
    """What differs between a daemon, an observer and a simulation."""

    clock: Clock
    chance: random.Random
    marathon: Marathon
    sinks: Sequence[Sink]
    epoch: Epoch
    metrics: Metrics
    observe: bool = False


class Engine:
    """All moving parts of the controller. `ground.settle_in` adds those that know the hosts."""

    rebuild: Rebuild
    fences: Fences
    maintenance: Maintenance
    patrol: Patrol

    def __init__(self, settings: Settings, records: Records, outside: Outside) -> None:
        self.settings = settings
        self.records = records
        self.clock = outside.clock
        self.chance = outside.chance
        self.metrics = outside.metrics
        self._outside = outside
        self._reach = reach_of(settings.reach)
        self.view = View(absence_confirm_s=settings.marathon.absence_confirm_s)
        self.claims = Claims(rules_of(settings, records.book.pools), records.all(), self._claim_changed)
        self.latency = Latency(self.clock, self.metrics.applied, self.metrics.sink_answered)
        self.queue: WorkQueue[BindingId] = WorkQueue(
            self.clock,
            outside.chance,
            cap_s=30.0,
            waited=self.metrics.work_started,
            worked=self.metrics.work_ended,
        )
        self.grounded = asyncio.Event()  # it is known what is whose: the workers may begin
        self.hold = Hold(self.clock)
        self.batchers = {sink.name: Batcher(sink, self.clock) for sink in outside.sinks}
        self.addresses = HostAddresses(settings.hosts, self.clock, self._host_resolved)
        self.seats = Seats(records, self.clock, settings.leases.seat_wait_s)
        self.doubts = Doubts(self.metrics.repaired)
        self.occupancy = Occupancy(records, self.seats, self.clock)
        self.pools = PoolKeeper(
            records,
            self.clock,
            supernets_of(settings),
            self._estate_changed,
            lambda: self.seats.closed or "",
            settings.fabric.check_pool,
        )
        self.fabric: Fabric | None = None  # set by whoever knows the inventory
        self.reconciler = self._make_reconciler()
        self.verifier = make_verifier(self, outside)
        self.planner = make_planner(self)
        self.workers = self._make_workers()
        self.watch = self._make_watch()
        self.janitor = self._make_janitor()
        badge = Badge(settings.owner, outside.epoch, settings.workers, outside.observe)
        self.condition = Condition(
            badge, self.clock, self.view, self.watch, self.queue, self.seats, self.paused
        )
        self.report = self._make_report()
        records.on_change = self._binding_changed
        self.view.restore(
            [_as_last_seen(binding) for binding in records.all() if not _is_left(binding)],
            records.book.apps(),
        )

    def _make_workers(self) -> Workers:
        count = self.settings.workers
        return Workers(self.queue, self.reconciler, self.clock, count, self.is_paused, self._reconciled)

    def _make_janitor(self) -> Janitor:
        return Janitor(
            self.records,
            self.view,
            self.clock,
            self.claims.apps,
            self.claims.forget,
            self._tidied,
            self.grounded.is_set,
        )

    def _make_report(self) -> Report:
        return Report(
            self.view,
            self.records,
            self.claims,
            self.reconciler,
            self.condition,
            tuple(self.batchers),
            self.occupancy.rows,
            self.seats.is_waiting,
        )

    def _make_watch(self) -> Watch:
        return Watch(
            self.view,
            self._outside.marathon,
            self.queue,
            self.clock,
            self._outside.chance,
            self.settings.marathon.snapshot_every_s,
            heard=self.latency.heard,
            stored_keys=lambda: [binding.id for binding in self.records.all()],
            in_step=self._in_step,
            readers=self.claims,
            snapshot_ended=self.metrics.snapshot_taken,
        )

    def _make_reconciler(self) -> Reconciler:
        zone = self.settings.dns.zone if self.settings.dns else None
        seat_wait_s = self.settings.leases.seat_wait_s
        return Reconciler(
            view=self.view,
            claims=self.claims,
            records=self.records,
            seats=self.seats,
            restarts=Restarts(self.records, self.clock, seat_wait_s),
            kills=Kills(self.records, self.clock),
            conflicts=self._make_conflicts(),
            converger=Converger(
                self.batchers,
                self.records,
                self._outside.epoch,
                self.latency.outcome,
                self.is_paused,
                self.hold.keeps,
                self.seats.objection,
            ),
            surroundings=Surroundings(self.wiring_of, zone, self.addresses),
            wake=self.queue.add,
            doubts=self.doubts,
            expect=self._expect,
        )

    def wiring_of(self, address: str) -> Wiring | None:
        """How a port with that address is wired now; None if no pool has the address."""
        largest = self.settings.fabric.container_mtu
        return wiring_at(self.records.book.pools, address, self._reach, largest)

    def _expect(self, task: str, host: str, addresses: Addresses, vlan: int | None) -> None:
        """A container will run there soon; nothing is got ready before it is known what is whose."""
        network = next((sink for sink in self._outside.sinks if isinstance(sink, NetworkSink)), None)
        if network is not None and self.grounded.is_set():
            network.expect(task, host, addresses, vlan)

    def _make_conflicts(self) -> Conflicts | None:
        network = next((sink for sink in self._outside.sinks if sink.name == NETWORK), None)
        if network is None:
            return None
        patience_s = self.settings.leases.seat_wait_s
        return Conflicts(
            network, self.records, self.clock, patience_s, self.queue.add, self.metrics.address_conflict
        )

    # -- life

    @property
    def sinks(self) -> Sequence[Sink]:
        """All sinks."""
        return self._outside.sinks

    async def begin(self) -> None:
        """It is known by now what is whose: let the workers go."""
        await self._insist(self._prime_all)
        self.grounded.set()

    async def prime(self) -> None:
        """Tell every sink what the store says may be out there, before the first change.

        Not before it is known what is whose (`begin` does it then).
        """
        if self.grounded.is_set():
            await self._prime_all()

    async def _prime_all(self) -> None:
        await self._forget_removed_sinks()
        await self._prime([sink for sink in self._outside.sinks if not self.hold.keeps(sink.name)])

    async def end_hold(self) -> None:
        """What every instance shall show is worked out: the held sinks are told all of it, and go on."""
        held = [sink for sink in self._outside.sinks if sink.name in HELD_SINKS]
        await self._insist(lambda: self._prime(held))
        self.hold.end()
        await self.put_flag(PutFlag(HELD, None))
        for binding in self.records.all():
            self.queue.add(binding.id)

    async def put_flag(self, flag: PutFlag) -> None:
        """Store it, as soon as the store takes it."""
        await self._insist(lambda: self.records.commit([flag]))

    async def _insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Nothing can go on without this step: it is tried until it succeeds."""
        while True:
            try:
                return await step()
            except Retryable as error:
                log.warning("waits before it can go on", reason=str(error))
                await self.clock.sleep(_STORE_AGAIN_S)

    async def _prime(self, sinks: Sequence[Sink]) -> None:
        for sink in sinks:
            shown = {}
            for binding in self.records.all():
                state = binding.sink(sink.name)
                tried = () if state.wanted is None or state.wanted == state.applied else (state.wanted,)
                if specs := (*state.shown, *tried):
                    shown[binding.id] = specs
            await sink.prime(shown)

    async def _forget_removed_sinks(self) -> None:
        """A sink that is no longer configured is no longer ours to keep in step, and must hold up nobody."""
        for binding in self.records.all():
            removed = binding.sinks.keys() - self.batchers.keys()
            if removed:
                log.warning("no longer configured", sinks=sorted(removed), instance=binding.id)
                kept = {name: state for name, state in binding.sinks.items() if name not in removed}
                await self.records.save(replace(binding, sinks=kept))

    async def work(self) -> None:
        """Wait for the first snapshot and firm ground, then work until the queue is closed."""
        await self.watch.complete.wait()
        await self.grounded.wait()
        await self._remember_framework()
        # What is known by now stays: the garbage collector need not walk through it again and again.  Cyclic
        # rubbish of the start stays with it, once; to collect it first would be a stall of its own.
        gc.freeze()
        log.info("view complete", apps=len(self.view.apps()), instances=len(self.view.instances()))
        await self.workers.run()

    async def _remember_framework(self) -> None:
        """Another Marathon at the same endpoint must not be taken for ours, also after a restart."""
        framework = self._outside.marathon.framework
        if framework and self.records.flags.get("framework") != framework:
            await self.put_flag(PutFlag("framework", framework))

    async def close(self) -> None:
        """Let what is in the air land; nothing new takes off."""
        self.queue.close()
        await self.addresses.close()
        for batcher in self.batchers.values():
            await batcher.close()

    # -- commands

    async def pause(self, app: AppId | None) -> None:
        """Intentions are kept, effects wait: for one app, or for all."""
        await self.records.commit([PutFlag(_PAUSED + (app or EVERYTHING), "1")])
        log.info("paused", app=app or "everything")

    async def resume(self, app: AppId | None) -> None:
        """Undo the pause of that name and look at everything that waited."""
        await self.records.commit([PutFlag(_PAUSED + (app or EVERYTHING), None)])
        keys = {BindingId(instance.id) for instance in self.view.instances()}
        for key in sorted(keys | {binding.id for binding in self.records.all()}):
            self.queue.add(key)
        self._wake_fabric()
        log.info("resumed", app=app or "everything")

    async def release_brake(self, held: int) -> None:
        """What the brake holds is gone, says an operator who knows of `held` instances and apps.

        `Refused` while nothing is held, or more than that.
        """
        if self.view.brake is None:
            raise Refused("the brake is off; there is nothing to release")
        now_held = self.condition.overview().held
        if now_held > held:
            raise Refused(
                f"{now_held} instances and apps are held by now, not {held}; nothing was released: "
                "look at them again (`mooring brake show`) before you release the brake"
            )
        log.warning("brake released", held=now_held, reason=self.view.brake)
        self.watch.mark(self.view.release(self.clock.monotonic()))

    async def fence(self, host: HostName, reason: str, *, force: bool = False) -> None:
        """An operator asserts that nothing runs on the host (see `handlers.fences`)."""
        self._check_not_observing()
        await self.fences.fence(host, reason, force=force)
        await self.maintenance.end(host)  # the stronger word
        self._wake_fabric()
        self.rebuild.close()

    async def unfence(self, host: HostName) -> None:
        """The host is in use again; what it has without a right to it is detached first."""
        self._check_not_observing()
        await self.fences.unfence(host, clear=self.rebuild.is_over)
        self._wake_fabric()
        self.rebuild.close()

    async def maintain(self, host: HostName, reason: str) -> None:
        """People are at work on the host: it is left alone (see `handlers.maintenance`)."""
        self._check_not_observing()
        await self.maintenance.begin(host, reason)
        self.patrol.take_up(host)

    async def end_maintenance(self, host: HostName) -> None:
        """They are done: it is looked at, and what waited goes on."""
        self._check_not_observing()
        await self.patrol.resume(host)

    def _check_not_observing(self) -> None:
        if self._outside.observe:
            raise Refused("this daemon only observes; ask one that runs without --observe")

    def is_paused(self, key: BindingId) -> bool:
        """Whether effects for this instance wait."""
        paused = self.paused()
        return bool(paused) and (EVERYTHING in paused or self._app_of(key) in paused)

    def paused(self) -> tuple[str, ...]:
        """The app ids that are paused, or `EVERYTHING`."""
        return tuple(
            sorted(name.removeprefix(_PAUSED) for name in self.records.flags if name.startswith(_PAUSED))
        )

    def _app_of(self, key: BindingId) -> str:
        binding = self.records.get(key)
        if binding is not None:
            return binding.app
        instance = self.view.instance(InstanceId(key))
        return instance.app if instance else ""

    # -- reactions

    def _reconciled(self, key: BindingId, result: str, seconds: float) -> None:
        self.metrics.reconciled(result, seconds)
        self.hold.seen(key)
        if result == "success":
            self.latency.settled(key)

    def _binding_changed(self, before: Binding | None, after: Binding | None) -> None:
        """Somebody's dependents may have to be told."""
        newest = after or before
        assert newest is not None
        if before is None:
            self._take_up(newest)
        if _as_member(before) == _as_member(after):
            return
        for app in self.claims.dependents(newest.app):
            for binding in self.records.of_app(app):
                self.queue.add(binding.id)

    def _take_up(self, binding: Binding) -> None:
        """A port found on a host may be all that is known of its instance: Marathon's word is awaited."""
        if _is_left(binding):
            self.queue.add(binding.id)
        elif self.view.instance(binding.instance) is None:
            self.view.restore([_as_last_seen(binding)])
            self.queue.add(binding.id)

    def _tidied(self) -> None:
        """Addresses may have become free: serve who has waited for them the longest."""
        self.occupancy.sample()
        for key in self.seats.next_served():
            self.queue.add(key)

    def _estate_changed(self, pools: bool) -> None:
        """With other pools, labels may be acceptable or no longer so, and ports may be wired otherwise."""
        if pools:
            self._wake_fabric()
            for app in self.claims.reconsider(rules_of(self.settings, self.records.book.pools)):
                self._claim_changed(app)
            for binding in self.records.all():
                if binding.address is not None:
                    self.queue.add(binding.id, Priority.RESYNC)
        self._tidied()

    def _wake_fabric(self) -> None:
        if self.fabric is not None:
            self.fabric.wake()

    def _claim_changed(self, app: AppId) -> None:
        """A name went from one app to another."""
        for instance in self.view.instances_of(app):
            self.queue.add(BindingId(instance.id))

    def _in_step(self, key: BindingId) -> bool:
        """Whether a worker would find nothing to do: what it would compare, compared from here."""
        bound = self.records.get(key)
        decision = decide(self.view.instance(InstanceId(key)), bound)
        if decision is Decision.NOTHING:
            return bound is None or bound.settled
        settled = bound is not None and bound.settled and not bound.departing
        return decision is Decision.HEALTH and settled and key not in self.reconciler.problems

    def _host_resolved(self, host: HostName) -> None:
        for binding in self.records.all():
            if binding.host == host:
                self.queue.add(binding.id)


def rules_of(settings: Settings, pools: Pools) -> Rules:
    """What app owners may ask for under this configuration."""
    return Rules(
        pools={pool.name: pool for pool in pools},
        balancer_groups=frozenset(settings.balancer_groups),
        zone=settings.dns.zone if settings.dns else "",
        ttl=settings.dns.ttl if settings.dns else 10,
    )


def _is_left(binding: Binding) -> bool:
    """Whether it stands for what an instance left on a lost host, not for the instance."""
    return "~" in binding.id


def _as_last_seen(binding: Binding) -> Instance:
    """What Marathon said when the binding was stored, so that its absence now is judged like any other."""
    return Instance(
        id=binding.instance,
        incarnation=binding.incarnation,
        task=binding.task,
        app=binding.app,
        host=binding.host,
        state=State.RUNNING,
        # Right after a failover Marathon has no verdict. Who served when we stopped was healthy then.
        health=Health.HEALTHY if _served(binding) else Health.UNKNOWN,
    )


def _served(binding: Binding) -> bool:
    shown = [binding.sink(name).applied for name in BALANCERS]
    return any(isinstance(spec, MemberSpec) and spec.state == "up" for spec in shown)


def _as_member(binding: Binding | None) -> tuple[object, ...] | None:
    """What dependents can see of a binding; None: nothing."""
    if binding is None or not is_member(binding):
        return None
    # Without an address of its own an instance is seen at its host's ports, which are new with each task.
    return (binding.slot, binding.address, binding.host, None if binding.address else binding.task)
