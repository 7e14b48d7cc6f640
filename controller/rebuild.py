"""The books are written anew from what stands in the world: offered as a plan, done when an operator agrees.

It is needed when hosts or names remember a later epoch than the one up to which the store is complete: the
store is empty, or an old copy of it was put back.  Then nobody knows what is whose.  So until an operator has
seen the plan and applied it, nothing is given out, adopted or changed anywhere; Marathon is watched and
questions are answered.

    plan      a fresh survey of all hosts, all names, and Marathon's present view; changes nothing
    apply     the same again, refused unless it gives the plan that was shown; then
                1. fence: no older daemon can change what was just read     hosts that answer, zones
                2. enter: seats, leftovers, what is missing                 `adopt.enter`
                3. note in the store that the operator has agreed           flag "rebuilding"
                4. detach the losers of an address                          `adopt.detach_leftovers`
                5. let the workers go, with the clients' sinks held         `hold`
    finish    when every host of the inventory has been heard, or fenced: addresses that only a name, a
              balancer or an inventory still shows are put into quarantine, the flag "complete" is raised,
              addresses are given out again

Cut off before step 3, a rebuild begins again with its plan; after it, the next start goes on by itself.

If a host was fenced unheard, no address is proven free.  All of them rest then for as long as a released one
does; that is kept as one moment for all (flag "unproven") in place of a lease for each, of which a large pool
would need a million.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from mooring.controller.adopt import (
    Survey,
    detach_leftovers,
    enter,
    survey,
)
from mooring.controller.rebuild_plan import RebuildPlan, RebuildRow, draw
from mooring.controller.shown import (
    Shown,
    doubt_files,
    observe_shown,
    quarantine,
    quarantine_shown,
    take_over_names,
)
from mooring.controller.sinks import fence_names
from mooring.controller.stage import (
    AGREED,
    COMPLETE,
    FIRST,
    HELD,
    NOTHING_KNOWN,
    Ground,
    Stage,
    check_epochs,
)
from mooring.controller.weigh import Weighed, weigh
from mooring.core.errors import Refused, Retryable
from mooring.core.model import BindingId, InstanceId, Lease, State
from mooring.core.sink import Unreadable
from mooring.core.specs import ItemSpec, Spec
from mooring.core.store import NO_EPOCH, PutFlag, Write
from mooring.handlers.marks import Strength
from mooring.handlers.wants import APP_NAMES, BALANCERS, NAMES, NETWORK
from mooring.ipam.numbers import address_of

if TYPE_CHECKING:
    from mooring.controller.engine import Engine

__all__ = ["Rebuild", "RebuildPlan", "RebuildRow"]

log = structlog.get_logger(__name__)

_UNPROVEN = "unproven"  # flag: until when no address is given out, because not all are proven free


class Unproven(msgspec.Struct, frozen=True):
    """Why all addresses rest, as it is stored."""

    until: float  # Unix seconds
    hosts: tuple[str, ...]


class Rebuild:
    """Plans, applies and finishes a rebuild, where one is needed."""

    def __init__(self, engine: Engine, ground: Ground) -> None:
        self._engine = engine
        self._ground = ground
        self._lock = asyncio.Lock()
        self._taken_over: dict[str, Strength] = {}  # addresses entered in this life: their ports' claims

    @property
    def needed(self) -> bool:
        """Whether an operator is waited for."""
        return self._ground.stage is Stage.AWAITED

    @property
    def busy(self) -> bool:
        """Whether an operator's question is being worked on."""
        return self._lock.locked()

    @property
    def is_over(self) -> bool:
        """Whether the store knows every lease."""
        return self._ground.stage is Stage.FIRM

    # -- for an operator

    async def plan(self) -> RebuildPlan:
        """What `apply` would do now. Changes nothing.

        `Refused` if no rebuild is needed, `Retryable` while Marathon or a name server has not answered.
        """
        async with self._lock:
            self._check_needed()
            return (await self._look())[0]

    async def apply(self, digest: str) -> RebuildPlan:
        """Do what the plan of that digest says; `Refused`, nothing changed, if the world differs by now."""
        async with self._lock:
            self._check_needed()
            if not self._ground.fences:
                raise Refused("this daemon only observes; apply the plan at one that runs without --observe")
            self._check_digest((await self._look())[0], digest)
            await fence_names(self._engine.sinks, self._ground.hosts.epoch)
            plan, weighed, shown = await self._look_again(self._ground.found)
            self._check_digest(plan, digest)
            await self._do(weighed, shown)
        log.warning("rebuild applied", rows=len(plan.rows), waits_for=sorted(plan.blocked_by))
        await self.go_on()
        return plan

    async def _do(self, weighed: Weighed, shown: Shown) -> None:
        engine, ground = self._engine, self._ground
        leftovers = await enter(engine.records, weighed, shown, engine.clock)
        await take_over_names(engine.records, shown)
        await doubt_files(engine.records)
        self._remember(weighed)
        await engine.records.commit([PutFlag(AGREED, str(ground.hosts.epoch)), PutFlag(HELD, "1")])
        await detach_leftovers(engine.records, ground.hosts, leftovers)
        ground.stage = Stage.LISTENING
        self.close()
        engine.hold.begin()
        await engine.begin()

    # -- for the daemon itself

    async def take_up(self, found: Survey) -> None:
        """Enter what hosts have that answer only after the operator has agreed, perhaps in a later life."""
        engine = self._engine
        shown = await self._shown()
        weighed = self._weigh(found)
        leftovers = await enter(engine.records, weighed, shown, engine.clock)
        self._remember(weighed)
        if self._ground.fences:
            await detach_leftovers(engine.records, self._ground.hosts, leftovers)

    async def go_on(self) -> None:
        """Finish if every host has been heard or fenced, else say who is waited for."""
        if self._ground.stage is Stage.LISTENING and not self._ground.waits_for():
            try:
                await self.finish()
            except Retryable as error:
                log.warning("rebuild not finished yet", reason=str(error))
                self.close(str(error))
        else:
            self.close()

    async def finish(self) -> None:
        """From now on the store knows every lease. `Retryable` while a name server does not answer."""
        engine, ground = self._engine, self._ground
        await quarantine_shown(engine.records, await self._shown(), engine.clock)
        for address, what in (await self._shown_elsewhere()).items():
            await quarantine(engine.records, [address], f"only known from {what}", engine.clock)
        writes: list[Write] = [PutFlag(COMPLETE, str(ground.hosts.epoch))]
        writes += [PutFlag(AGREED, None), PutFlag(FIRST, None)]
        if unheard := ground.unheard():
            rest = Unproven(engine.clock.now() + self._rest_s(), unheard)
            writes.append(PutFlag(_UNPROVEN, msgspec.json.encode(rest).decode()))
        await engine.records.commit(writes)
        ground.stage = Stage.FIRM
        log.info("the store knows every lease", fenced_unheard=unheard)
        self.close()

    async def finish_if_first(self) -> bool:
        """Whether nobody need be asked, because there is nothing to rebuild from; then it is finished.

        It is looked twice: the second time every host and zone refuses older daemons already, so that none
        that is new as well, over another disk, has begun in between.  An operator's `apply` either comes
        before, or finds that nothing is needed any more.
        """
        async with self._lock:
            if not self.needed or not await self._is_first_installation():
                return False
            if self._ground.fences:
                await self._fence_everything()
                if not await self._is_first_installation():
                    return False
            await self.finish()
            return True

    async def _is_first_installation(self) -> bool:
        """A new store, and no trace of ours anywhere."""
        ground = self._ground
        own = int(self._engine.records.flags.get(FIRST, NO_EPOCH))
        if ground.remembered > own or ground.complete != NOTHING_KNOWN or ground.found.ports:
            return False
        return not ground.waits_for() and not await self._shown()

    async def _fence_everything(self) -> None:
        engine, hosts = self._engine, self._ground.hosts
        await engine.records.commit([PutFlag(FIRST, str(hosts.epoch))])
        await fence_names(engine.sinks, hosts.epoch)
        found = await survey(hosts, self._ground.inventory, fence=True)
        check_epochs(self._ground, found)
        self._ground.found = found

    def close(self, problem: str = "") -> None:
        """Say why no address is given out, or give them out. `problem`: what else is in the way."""
        ground = self._ground
        if ground.stage is not Stage.FIRM:
            self._engine.seats.close(ground.reason(problem))
        elif (rest := self._unproven()) is not None:
            end = datetime.fromtimestamp(rest.until, UTC)
            self._engine.seats.close(
                f"no address is proven free, because {', '.join(rest.hosts)} was fenced unheard: "
                f"all that are not in use rest until {end:%Y-%m-%dT%H:%M:%SZ}",
                sure=True,
            )
        else:
            self._engine.seats.open()

    async def rest(self) -> None:
        """Wait until addresses that were not proven free have rested."""
        while (rest := self._unproven()) is not None:
            left = rest.until - self._engine.clock.now()
            if left <= 0:
                await self._engine.put_flag(PutFlag(_UNPROVEN, None))
            else:
                await self._engine.clock.sleep(left)
        self.close()

    # -- looking

    async def _look(self) -> tuple[RebuildPlan, Weighed, Shown]:
        if not self._engine.view.complete:
            raise Retryable(
                "Marathon has not been listed yet, so nobody can say what runs; ask again when "
                "`mooring status` shows a snapshot"
            )
        found = await survey(self._ground.hosts, self._ground.inventory)
        check_epochs(self._ground, found)
        return await self._drawn(found)

    async def _look_again(self, before: Survey) -> tuple[RebuildPlan, Weighed, Shown]:
        """At the hosts that have just answered, whom nobody older can change from now on."""
        found = await survey(self._ground.hosts, sorted(before.marks), fence=True)
        check_epochs(self._ground, found)
        found.silent |= before.silent
        return await self._drawn(found)

    async def _drawn(self, found: Survey) -> tuple[RebuildPlan, Weighed, Shown]:
        engine, ground = self._engine, self._ground
        ground.found = found
        shown = await self._shown()
        weighed = self._weigh(found)
        plan = draw(
            weighed, shown, await self._shown_elsewhere(), engine.records.book,
            self._listed(), ground.waits_for(), ground.unheard(),
        )  # fmt: skip
        return plan, weighed, shown

    def _weigh(self, found: Survey) -> Weighed:
        return weigh(found.ports, found.marks.keys(), self._engine.records, self._strength, self._lives_at)

    def _strength(self, lease: Lease) -> Strength:
        return self._taken_over.get(lease.address, (self._ground.stored, lease.generation))

    def _remember(self, weighed: Weighed) -> None:
        self._engine.seats.proven |= weighed.found
        self._taken_over |= {seat.mark.port.address: seat.mark.strength for seat in weighed.seats}

    def _lives_at(self, instance: InstanceId) -> tuple[str, str] | None:
        seen = self._engine.view.instance(instance)
        if seen is None or seen.host is None or seen.state in (State.DEAD, State.GONE):
            return None
        return seen.host, seen.task

    def _listed(self) -> Collection[InstanceId]:
        gone = (State.DEAD, State.GONE)
        return {seen.id for seen in self._engine.view.instances() if seen.state not in gone}

    async def _shown(self) -> Shown:
        return await observe_shown(self._engine.sinks, self._engine.records.book.pools)

    async def _shown_elsewhere(self) -> Mapping[str, str]:
        """Addresses of our pools that inventories show, with the sink's name."""
        pools, found = self._engine.records.book.pools, dict[str, str]()
        leased = self._engine.records.book.by_address
        for sink in self._engine.sinks:
            if sink.name in (NETWORK, NAMES, APP_NAMES, *BALANCERS):
                continue
            try:
                shown = (await sink.observe()).shown
            except Unreadable:
                continue
            except (Retryable, Refused) as error:
                log.warning("not asked for addresses", sink=sink.name, reason=str(error))
                continue
            for address in {address for spec in shown.values() for address in _addresses(spec)}:
                if leased(address) is None and pools.containing(address_of(address)) is not None:
                    found.setdefault(address, str(sink.name))
        return found

    # -- small print

    def _check_needed(self) -> None:
        match self._ground.stage:
            case Stage.FIRM:
                raise Refused("no rebuild is needed: the store knows every lease")
            case Stage.LISTENING:
                raise Refused(f"the rebuild has been applied; {self._ground.reason()}")

    def _check_digest(self, plan: RebuildPlan, digest: str) -> None:
        if plan.digest != digest:
            raise Refused(
                f"the plan is another one by now ({plan.digest}, not {digest}); nothing was changed: "
                "look at it again with `mooring rebuild`"
            )

    def _rest_s(self) -> float:
        settings = self._engine.settings
        return max(settings.leases.cooling_s, settings.dns.ttl if settings.dns else 0)

    def _unproven(self) -> Unproven | None:
        stored = self._engine.records.flags.get(_UNPROVEN)
        return None if stored is None else msgspec.json.decode(stored, type=Unproven)


def _addresses(spec: Spec) -> list[str]:
    """Those that a spec leads to, as far as they are addresses: somebody may have set anything by hand."""
    told = spec.address if isinstance(spec, ItemSpec) else None
    return [told] if told is not None and _is_address(told) else []


def _is_address(text: str) -> bool:
    try:
        address_of(text)
    except Refused:
        return False
    return True


def all_keys(engine: Engine) -> list[BindingId]:
    """Every instance there is a record of, or that Marathon lists."""
    keys = {BindingId(instance.id) for instance in engine.view.instances()}
    return sorted(keys | {binding.id for binding in engine.records.all()})
