"""What people do for a daemon: they look at what it holds back or offers, and let it go on.

Everything here goes through the engine, in the daemon's own process, as the control socket does it.  What
is refused or cannot be done just now is tried again at the next round.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from mooring.controller.engine import Engine
from mooring.core.errors import Fenced, Refused, Retryable
from mooring.core.model import AppId, HostName, PoolName, PoolSpec
from mooring.core.readmodel import EVERYTHING
from tests.sim.life import Life
from tests.sim.pairs import both
from tests.sim.world import World


class Operator:
    """Somebody who looks after the newest daemon."""

    def __init__(self, world: World, chance: random.Random, present: Callable[[], Life | None]) -> None:
        """`present` tells which daemon is the newest."""
        self._world = world
        self._chance = chance
        self._present = present
        self.made: dict[str, PoolSpec] = {}  # pools that were added at run time
        self._busy: set[tuple[int, str]] = set()  # what is being done, at which daemon

    @property
    def engine(self) -> Engine | None:
        """The parts of the newest daemon, if it is awake and has begun."""
        life = self._present()
        return life.engine if life is not None and not life.dead and not life.frozen and life.primed else None

    def tidies_up(self, at_rest: bool) -> None:
        """Releases whatever waits for a person, and what nobody needs to hold any more."""
        engine = self.engine
        if engine is None:
            return
        self.rebuilds()
        if engine.view.brake is not None and at_rest and self._world.lie is None:
            held = engine.condition.overview().held
            self.does(f"release the brake: {engine.view.brake}", engine.release_brake(held))
        for app in engine.paused():
            self.does(f"resume {app}", engine.resume(None if app == EVERYTHING else AppId(app)))
        for lease in engine.records.book.leases():
            answered = any(one in self._world.agents.strangers for one in both(lease.address))
            if lease.state == "conflicted" and not answered:
                self.does(f"release {lease.address}", engine.pools.release(lease.address))
        for name, spec in self.made.items():
            if name not in engine.records.book.pools:
                self.does(f"add pool {name} again", self._add(engine, spec))  # a lost store has forgotten it
        for host in sorted(engine.maintenance.all()):
            self.does(f"resume host {host}", engine.end_maintenance(host))
        for host in sorted(engine.fences.all()):
            if host not in self._world.agents.silent:
                self.does(f"unfence {host}", engine.unfence(host))

    def rebuilds(self) -> None:
        """Has the plan shown, and applies it."""
        engine = self.engine
        if engine is not None and engine.rebuild.needed:
            self.does("rebuild", self._rebuild(engine))

    def adds_pool(self, name: str, network: str, gateway: str) -> None:
        """A pool that the configuration does not have."""
        if self.engine is not None:
            self.does(f"add pool {name}", self._add(self.engine, PoolSpec(PoolName(name), network, gateway)))

    async def _add(self, engine: Engine, spec: PoolSpec) -> None:
        self.made[spec.name] = spec
        await engine.pools.add(spec)
        self._world.pools[spec.name] = spec.network
        if spec.gateway is not None:
            self._world.kept.add(spec.gateway)

    def resizes_pool(self, name: str, network: str) -> None:
        """It grows or shrinks."""
        if self.engine is not None:
            self.does(f"resize pool {name} to {network}", self._resize(self.engine, name, network))

    async def _resize(self, engine: Engine, name: str, network: str) -> None:
        self.made[name] = await engine.pools.resize(name, network)
        self._world.pools[name] = network

    async def _rebuild(self, engine: Engine) -> None:
        for name, spec in self.made.items():
            if name not in engine.records.book.pools:
                await engine.pools.add(spec)  # a lost store has forgotten it
        plan = await engine.rebuild.plan()
        await self._world.pause(0.0, 4.0)  # it is read
        await engine.rebuild.apply(plan.digest)

    def fences(self, host: str) -> None:
        """The host is switched off for good, so nothing runs there, and the daemon is told."""
        if self.engine is None or host in self.engine.fences.all():
            return
        self._world.agents.switch_off(host)
        self._world.agents.write_off(host)
        self.does(f"fence {host}", self.engine.fence(HostName(host), "switched off"))

    def does(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        """A command; one of a kind at a time."""
        life = self._present()
        kind = (life.number, what.partition(":")[0]) if life is not None else (0, "")
        if life is None or life.dead or kind in self._busy:
            work.close()
            return
        self._busy.add(kind)
        # It may be ended before it has begun; then nobody else would close the command.
        life.do(self._carried_out(life, kind, what, work)).add_done_callback(lambda _: work.close())

    async def _carried_out(
        self, life: Life, kind: tuple[int, str], what: str, work: Coroutine[Any, Any, Any]
    ) -> None:
        try:
            await work
            self._world.trace(f"* operator: {what}")
        except Fenced as error:
            self._world.trace(f"* operator: {what}: {error}; starts it again, as he is told")
            life.kill()
        except (Retryable, Refused) as error:
            self._world.trace(f"* operator: {what}: {error}")
        finally:
            self._busy.discard(kind)
