"""A story: a world, a row of daemons, and what people and chance do to them for a while.

chaos    random operations, faults of a seeded strength, daemons killed at seeded steps
calm     no more faults; everything must come to stand as Marathon says, within `SETTLES_S`
quiet    nothing happens any more, so nothing may be done any more
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mooring.core.errors import Retryable
from mooring.core.model import AppId
from mooring.core.readmodel import EVERYTHING
from mooring.ipam.book import LeaseBook
from tests.sim.apps import SimApp
from tests.sim.life import Life, watch_births
from tests.sim.loop import SimClock, VirtualLoop, simulate
from tests.sim.promises import at_every_step, when_calm
from tests.sim.setting import logs_into, sim_settings
from tests.sim.world import Violation, World

HOSTS = ("h1", "h2", "h3")
CHAOS_S = 60.0
RESTS_S = 900.0
SETTLES_S = 240.0
QUIET_S = 70.0  # more than two snapshots
_WINDOWS = 3
_LOOK_S = 0.5


@dataclass
class Cast:
    """Replaceable parts, so that a test can put a defective one in."""

    world: Callable[[SimClock, int], World] = lambda clock, seed: World(clock, seed, HOSTS)
    life: type[Life] = Life


class Story:
    """One seed's story; `tell` plays it through."""

    def __init__(self, loop: VirtualLoop, seed: int, directory: Path, cast: Cast | None = None) -> None:
        cast = cast or Cast()
        watch_births(loop)
        self.clock = SimClock(loop)
        self.seed = seed
        self.chance = random.Random(f"story {seed}")
        self.world = cast.world(self.clock, seed)
        self.world.after_effect = self._check
        self.marathon = self.world.marathon
        self.settings = sim_settings(directory)
        self.life: Life | None = None
        self.lives = 0
        self.may_die = False
        self.down_s = (0.1, 1.0)  # how long it takes until the next daemon is started
        self.ending = False
        self._cast = cast
        self._book: LeaseBook | None = None
        self._under_way = 0  # operations that have not ended
        self.defects: list[str] = []

    # -- the daemon

    async def keep_a_daemon(self) -> None:
        """One process after the other, as an init system would."""
        while not self.ending:
            self.lives += 1
            die_at = self.chance.randint(1, 400) if self.may_die and self.chance.random() < 0.8 else None
            self.life = self._cast.life(self.world, self.settings, self.lives, die_at)
            self.life.begin()
            await self.life.ended.wait()
            if not self.ending:
                await self.world.pause(*self.down_s)

    @property
    def book(self) -> LeaseBook | None:
        """The leases as the present daemon has them, or as the last one had them."""
        if self.life is not None and self.life.primed and self.life.engine is not None:
            self._book = self.life.engine.records.book
        return self._book

    def _check(self) -> None:
        """A book that is being rebuilt does not know every port yet."""
        for wrong in at_every_step(self.world, self.book if self._gives_out() else None):
            self.world.breach(wrong)

    # -- time

    async def passes(self, seconds: float) -> None:
        """Let time pass; a broken promise ends the story."""
        end = self.clock.monotonic() + seconds
        while (left := end - self.clock.monotonic()) > 0:
            self.look()
            await self.clock.sleep(min(_LOOK_S, left))
        self.look()

    def look(self) -> None:
        """Raise what has been found wrong so far."""
        if self.world.broken or self.defects:
            raise Violation("; ".join([*self.world.broken, *self.defects][:5]))

    async def settles(self, within_s: float = SETTLES_S) -> float:
        """Wait until everything stands as it shall; the seconds it took after Marathon came to rest."""
        begun = self.clock.monotonic()
        while self._under_way or not self.marathon.at_rest():
            if self.clock.monotonic() - begun > RESTS_S:
                raise Violation("Marathon does not come to rest: correct the simulation")
            await self.passes(1.0)
        begun = self.clock.monotonic()
        while True:
            await self._act_as_operator()
            wrong = self._still_wrong()
            if not wrong:
                return self.clock.monotonic() - begun
            if self.clock.monotonic() - begun > within_s:
                raise Violation(f"not settled after {within_s:g} s: " + "; ".join(wrong[:8]))
            await self.passes(1.0)

    def _still_wrong(self) -> list[str]:
        if self._under_way or not self.marathon.at_rest():
            return ["Marathon itself is not at rest"]
        if self.life is None or self.life.dead or not self.life.primed or self.book is None:
            return ["no daemon"]
        return when_calm(self.world, self.book)

    async def _act_as_operator(self) -> None:
        """Brake and pauses hold until somebody has looked."""
        if self.life is None or self.life.engine is None or self.life.dead:
            return
        engine = self.life.engine
        if engine.view.brake is not None and self.marathon.at_rest():
            self.world.trace(f"operator releases: {engine.view.brake}")
            await engine.release_brake(engine.condition.overview().held)
        for app in engine.paused():
            self._command(engine.resume(None if app == EVERYTHING else AppId(app)))

    async def falls_quiet(self) -> None:
        """Soon nothing more is asked of any sink: back-offs end, the last absences are confirmed."""
        for _ in range(_WINDOWS):
            before = self.world.effects
            await self.passes(QUIET_S)
            self._check()
            self.look()
            if self.world.effects == before:
                return
        raise Violation(f"{self.world.effects - before} effects in {QUIET_S:g} s in which nothing happened")

    # -- the whole

    async def tell(self) -> None:
        """Chaos, calm, quiet."""
        self._set_faults()
        self.marathon.spawn(self.marathon.supervise())
        keeper = asyncio.create_task(self.keep_a_daemon())
        for app in self._apps():
            self.marathon.spawn(self.marathon.deploy(app))
        end = self.clock.monotonic() + CHAOS_S
        while self.clock.monotonic() < end:
            await self.passes(self.chance.expovariate(0.35))
            self._something_happens()
        await self._calm_down()
        took = await self.settles()
        self.world.trace(f"settled after {took:.1f} s")
        await self.falls_quiet()
        self.ending = True
        if self.life is not None:
            self.life.kill()
        await keeper

    async def _calm_down(self) -> None:
        await self.passes(0.1)  # what has just been begun takes its course
        self.world.trace("calm")
        self.world.faults.calm()
        self.world.away.clear()
        self.may_die = False
        if self.life is not None:
            self.life.die_at = None
        stay_lost = self.chance.random() < 0.25 and self._gives_out()
        for host in sorted(self.world.agents.silent)[1 if stay_lost else 0 :]:
            await self.marathon.back(host, rebooted=self.chance.random() < 0.3)
        if self.chance.random() < 0.3 and self.life is not None:
            self.life.kill()

    def _gives_out(self) -> bool:
        """Whether the daemon may do without the hosts that are lost: with a new store it may not."""
        engine = self.life.engine if self.life else None
        return engine is not None and engine.seats.closed is None

    def _set_faults(self) -> None:
        strength = self.chance.choice((0.0, 0.05, 0.2, 0.4))
        faults, chance = self.world.faults, self.chance
        faults.drop, faults.duplicate = chance.uniform(0, strength), chance.uniform(0, strength)
        faults.late, faults.listing = chance.uniform(0, strength), chance.uniform(0, strength)
        faults.before, faults.after = chance.uniform(0, strength), chance.uniform(0, strength / 2)
        faults.slow = chance.uniform(0, strength / 2)
        faults.store = chance.uniform(0, strength / 4)
        self.may_die = chance.random() < 0.7
        self.down_s = (0.1, 8.0)

    def _apps(self) -> list[SimApp]:
        def strategy() -> dict[str, Any]:
            least, over = self.chance.choice(((1.0, 1.0), (0.5, 0.0), (0.0, 0.0), (1.0, 0.0), (0.5, 0.5)))
            lost = self.chance.choice(("replace", "keep", "gone"))
            return {"minimum_health": least, "over_capacity": over, "when_lost": lost}

        members = "{% for m in members %}{{ m.address }}\n{% endfor %}"
        watching = {"MOORING_NOTIFY_FROM": "/shop/db", "MOORING_NOTIFY_PATH": "/etc/peers",
                    "MOORING_NOTIFY_TEMPLATE": members, "MOORING_NOTIFY_COMMAND": "reload"}  # fmt: skip
        balanced = {"HAPROXY_GROUP": "external", "HAPROXY_0_VHOST": "web.example.org"}
        legacy = {"HAPROXY_GROUP": "external", "HAPROXY_0_PORT": "10080"}
        return [
            SimApp("/shop/db", 1, {"MOORING_POOL": "blue"}, **strategy()),
            SimApp("/shop/web", 3, {"MOORING_POOL": "blue", **balanced, **watching}, **strategy()),
            SimApp("/batch/job", 2, {"MOORING_POOL": "green", "MOORING_IP_POLICY": "task"},
                   checked=False, **strategy()),
            SimApp("/legacy", 1, legacy, **strategy()),
        ]  # fmt: skip

    # -- what may happen

    def _something_happens(self) -> None:
        happenings = (
            self._scale, self._scale, self._restart, self._restart, self._kill, self._kill, self._fail,
            self._fail, self._delete, self._lose_or_regain, self._lose_or_regain, self._cut, self._redefine,
            self._die, self._sink_away, self._jump, self._pause_or_resume,
        )  # fmt: skip
        self.chance.choice(happenings)()

    def _app(self) -> str | None:
        return self.chance.choice(sorted(self.marathon.apps)) if self.marathon.apps else None

    def _instance(self) -> str | None:
        there = sorted(self.marathon.instances)
        return self.chance.choice(there) if there else None

    def _does(self, what: str, work: Any) -> None:
        self.world.trace(f"* {what}")
        self._under_way += 1
        self.marathon.spawn(self._counted(work))

    async def _counted(self, work: Any) -> None:
        try:
            await work
        finally:
            self._under_way -= 1

    def _scale(self) -> None:
        if (app := self._app()) is not None:
            count = self.chance.randint(1, 4)
            self._does(f"scale {app} to {count}", self._if_there(app, self.marathon.scale, count))

    def _restart(self) -> None:
        if (app := self._app()) is not None:
            self._does(f"restart {app}", self._if_there(app, self.marathon.restart))

    def _kill(self) -> None:
        if (instance := self._instance()) is not None:
            self._does(f"kill {instance}", self.marathon.kill(instance))

    def _fail(self) -> None:
        if (instance := self._instance()) is not None:
            self._does(f"{instance} fails", self.marathon.fail(instance))

    def _delete(self) -> None:
        if (app := self._app()) is not None and self.chance.random() < 0.6:
            definition = self.marathon.apps[app]
            self._does(f"delete {app}", self._if_there(app, self.marathon.delete))
            if self.chance.random() < 0.7:
                again = SimApp(app, self.chance.randint(1, 3), definition.labels, definition.checked)
                self._does(f"deploy {app} again, later", self._later(again))

    async def _later(self, app: SimApp) -> None:
        await self.world.pause(1.0, 20.0)
        if app.id not in self.marathon.apps:
            await self.marathon.deploy(app)

    def _redefine(self) -> None:
        """New labels: another TTL, and a file or a service more or less."""
        if (app := self._app()) is None:
            return
        known = self.marathon.apps[app]
        labels = {**known.labels, "MOORING_DNS_TTL": str(self.chance.randint(5, 60))}
        again = SimApp(app, known.instances, labels, known.checked, known.minimum_health, known.over_capacity,
                       known.when_lost)  # fmt: skip
        self._does(f"redefine {app}", self._if_there(app, lambda _: self.marathon.deploy(again)))

    async def _if_there(self, app: str, act: Callable[..., Any], *arguments: Any) -> None:
        if app in self.marathon.apps:
            await act(app, *arguments)

    def _lose_or_regain(self) -> None:
        silent = sorted(self.world.agents.silent)
        if silent and (len(silent) > 1 or self.chance.random() < 0.6):
            rebooted = self.chance.random() < 0.3
            host = self.chance.choice(silent)
            self._does(f"{host} is back, rebooted {rebooted}", self.marathon.back(host, rebooted=rebooted))
        elif len(silent) < 2:
            host = self.chance.choice([name for name in HOSTS if name not in silent])
            self._does(f"{host} is lost", self.marathon.lose(host))

    def _cut(self) -> None:
        if self.life is not None:
            self.world.trace("* the stream is cut")
            self.life.cut_stream()

    def _die(self) -> None:
        if self.life is not None and self.may_die:
            self.life.kill()

    def _jump(self) -> None:
        self.world.trace("* the wall clock jumps")
        self.clock.step(self.chance.uniform(-5.0, 5.0))

    def _pause_or_resume(self) -> None:
        engine = self.life.engine if self.life is not None and not self.life.dead else None
        if engine is None:
            return
        paused = engine.paused()
        app = self.chance.choice([*sorted(self.marathon.apps), EVERYTHING])
        chosen = None if app == EVERYTHING else AppId(app)
        self.world.trace(f"* {'resume' if app in paused else 'pause'} {app}")
        self._command(engine.resume(chosen) if app in paused else engine.pause(chosen))

    def _command(self, work: Any) -> None:
        """What an operator tells the daemon; a store that is busy refuses, and is asked again later."""

        async def carried_out() -> None:
            with contextlib.suppress(Retryable):
                await work

        assert self.life is not None
        self.life.do(carried_out())

    def _sink_away(self) -> None:
        sink = self.chance.choice(("dns", "haproxy", "nginx", "webhook"))
        self._does(f"{sink} is away", self._away(sink))

    async def _away(self, sink: str) -> None:
        self.world.away.add(sink)
        await self.world.pause(2.0, 25.0)
        self.world.away.discard(sink)


def tell(seed: int, directory: Path, cast: Cast | None = None, act: Any = None) -> Story:
    """Play one seed through; raises `Violation` with the end of the trace. `act` replaces the whole."""
    stories: list[Story] = []

    async def main(loop: VirtualLoop) -> None:
        story = Story(loop, seed, directory, cast)
        stories.append(story)
        with logs_into(story.world.trace, story.defects):
            await (act(story) if act is not None else story.tell())

    try:
        simulate(main, seed)
    except BaseException as error:
        lines = stories[0].world.trace.lines if stories else []
        error.add_note("\n".join([f"seed {seed}, the last of {len(lines)} lines:", *lines[-150:]]))
        raise
    return stories[0]
