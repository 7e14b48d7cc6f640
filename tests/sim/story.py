"""A story: a world, a row of daemons, and what people and chance do to them for a while.

chaos    random happenings, faults of a seeded strength, daemons killed at seeded steps
calm     no more faults; everything must come to stand as Marathon says, within `SETTLES_S`
quiet    nothing happens any more, so nothing may be done any more
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mooring.controller.stage import AGREED, COMPLETE, FIRST
from mooring.core.readmodel import EVERYTHING
from mooring.ipam.book import LeaseBook
from tests.sim import happenings
from tests.sim.apps import SimApp
from tests.sim.audit import Audit
from tests.sim.life import Life, is_frozen, watch_births
from tests.sim.loop import SimClock, VirtualLoop, simulate
from tests.sim.operator import Operator
from tests.sim.promises import at_every_step, when_calm
from tests.sim.setting import COOLING_S, SET_ASIDE, logs_into, sim_settings
from tests.sim.world import Defect, Violation, World

HOSTS = ("h1", "h2", "h3")
CHAOS_S = 60.0
RESTS_S = 900.0
SETTLES_S = 240.0
QUIET_S = 70.0  # more than two snapshots, and more than three looks at the sinks
_WINDOWS = 3
_LOOK_S = 0.5
_RARER = 0.3  # the share of the rarer happenings that may come in one story
_LONGEST_RETRY_S = 30.0
_TASKS = 80  # of a daemon that has nothing to do, at most


class Story:
    """One seed's story; `tell` plays it through."""

    def __init__(self, loop: VirtualLoop, seed: int, directory: Path) -> None:
        watch_births(loop)
        self.loop = loop
        self.is_frozen = is_frozen
        self.hosts = HOSTS
        self.clock = SimClock(loop)
        self.seed = seed
        self.chance = random.Random(f"story {seed}")
        self.world = World(self.clock, seed, HOSTS)
        self.world.after_effect = self._check
        self.world.kept.update(SET_ASIDE)
        self.marathon = self.world.marathon
        self.directory = directory
        self.settings = sim_settings(directory, self.world.pools)
        self.audit = Audit(self.world, COOLING_S, lambda: self.knows_all)
        self.audit.turn_to(self.settings.store)
        self.operator = Operator(self.world, self.chance, lambda: self.life)
        self.life: Life | None = None
        self.all_lives: list[Life] = []
        self.may_die = False
        self.down_s = (0.1, 1.0)  # how long it takes until the next daemon is started
        self.ending = False
        self.lied = False
        self._disks = 1
        self._copy: Path | None = None
        self._copied_at_rest = False
        self._known = False  # whether a daemon has found that the present store knows every lease
        self._keys: deque[int] = deque(maxlen=round(_LONGEST_RETRY_S / _LOOK_S))
        self._under_way = 0  # happenings that have not ended

    # -- daemons and their disks

    async def keep_a_daemon(self) -> None:
        """One process after the other, as an init system would."""
        while not self.ending:
            die_at = self.chance.randint(1, 400) if self.may_die and self.chance.random() < 0.8 else None
            number = len(self.all_lives) + 1
            life = self.life = Life(self.world, self.audit, self.settings, number, die_at)
            self.all_lives.append(life)
            life.begin()
            await life.relieved.wait()
            if not self.ending and life.dead:
                await self.world.pause(*self.down_s)

    def start_another(self) -> None:
        """A second daemon is started over the same store; the lock does not keep it out."""
        if self.life is None or self.life.dead:
            return
        self.world.trace("* a second daemon is started")
        self.world.may_be_fenced = True
        disk = self.life.disk
        disk.with_name(f"{disk.name}.lock").unlink(missing_ok=True)
        self.life.relieved.set()

    def copy_the_store(self) -> None:
        """Everything that stands on the disk at this moment."""
        disk = self.settings.store
        assert disk is not None
        if self._known and disk.exists():
            self._copy = self.directory / "copy.db"
            _copy_files(disk, self._copy)
            self._copied_at_rest = not any(life.disk == disk and not life.dead for life in self.all_lives)
            self.world.trace("* the store is copied")

    def lose_the_store(self, *, copy: bool = False, lives_on: bool = False) -> None:
        """The next daemon finds an empty disk, or the old copy. `lives_on`: the present one keeps its own."""
        if self.life is None:
            return
        self.world.may_be_fenced = True
        if not lives_on:
            self.life.kill()
        self._disks += 1
        disk = self.directory / f"store{self._disks}.db"
        if copy and self._copy is not None:
            _copy_files(self._copy, disk)
            if not self._copied_at_rest:
                _restored(disk)
        self.world.trace(f"* the store is lost; the next is {disk.name}, {disk.exists() and 'an old copy'}")
        self.settings = sim_settings(self.directory, self.world.pools, store=disk)
        self.audit.turn_to(disk)
        self._known = False
        self.life.relieved.set()

    @property
    def book(self) -> LeaseBook | None:
        """The leases as the newest daemon has them."""
        return self.life.engine.records.book if self.life is not None and self.life.engine else None

    @property
    def knows_all(self) -> bool:
        """Whether the present store knows every lease, until a daemon over another disk outruns it."""
        life = self.life
        if life is not None and life.primed and life.disk == self.audit.disk:
            assert life.engine is not None
            sure = life.engine.rebuild.is_over and life.engine.grounded.is_set()
            self._known = sure and not self._outrun(life)
        return self._known

    def _outrun(self, life: Life) -> bool:
        """Whether a host knows of a higher epoch: one over another disk, which this one has not met yet."""
        return any(host.epoch > life.epoch for host in self.world.agents.hosts.values())

    def _check(self) -> None:
        leases = self.audit.leases if self.knows_all else None
        engine = self.life.engine if self.life is not None else None
        held = engine is not None and engine.hold.active
        for wrong in at_every_step(self.world, leases, self.audit.quarantined, held=held):
            self.world.breach(wrong)

    def still_lives(self, instance: str, task: str) -> bool:
        """Whether the task runs as it did, on a host that answers, and nobody wants it gone."""
        known = self.marathon.instances.get(instance)
        return (
            known is not None
            and (known.task, known.condition, known.wanted) == (task, "Running", True)
            and known.host not in self.world.agents.silent
            and known.app.id not in self.marathon.deleted
        )

    def paused(self) -> Collection[str]:
        """The apps for which an operator has effects wait."""
        engine = self.life.engine if self.life is not None else None
        paused = engine.paused() if engine is not None else ()
        return self.marathon.apps if EVERYTHING in paused else paused

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
        self._weigh()
        if self.world.broken:
            raise Violation("; ".join(list(dict.fromkeys(self.world.broken))[:5]))
        if self.world.defects:
            raise Defect("; ".join(list(dict.fromkeys(self.world.defects))[:5]))

    def _weigh(self) -> None:
        """Whatever a daemon keeps waiting is bounded by what there is to be done."""
        engine = self.life.engine if self.life is not None and not self.life.dead else None
        if engine is None:
            return
        self._keys.append(len(engine.view.instances()) + len(engine.records.all()) + 1)
        keys = max(self._keys)  # a retry may outlive what it was for
        queue = engine.queue
        loads = {
            "the queue": (queue.depth() + queue.delayed() + queue.processing(), 2 * keys),
            "the tasks of the daemon": (self.life.alive() if self.life else 0, _TASKS + 12 * keys),
            **{f"sink {name}": (batcher.depth(), keys) for name, batcher in engine.batchers.items()},
        }
        for what, (load, limit) in loads.items():
            if load > limit:
                self.world.breach(f"{what}: {load} wait, for {keys} instances")

    async def settles(self, within_s: float = SETTLES_S) -> float:
        """Wait until everything stands as it shall; the seconds it took after Marathon came to rest."""
        begun = self.clock.monotonic()
        while self._under_way or not self.marathon.at_rest():
            if self.clock.monotonic() - begun > RESTS_S:
                raise Violation("Marathon does not come to rest: correct the simulation")
            self.operator.tidies_up(at_rest=False)
            await self.passes(1.0)
        begun = self.clock.monotonic()
        while True:
            self.operator.tidies_up(self.marathon.at_rest())
            wrong = self._still_wrong()
            if not wrong:
                return self.clock.monotonic() - begun
            if self.clock.monotonic() - begun > within_s:
                raise Violation(f"not settled after {within_s:g} s: " + "; ".join(wrong[:8]))
            await self.passes(1.0)

    def _still_wrong(self) -> list[str]:
        if self._under_way or not self.marathon.at_rest():
            return ["Marathon itself is not at rest"]
        engine = self.operator.engine
        if engine is None or not self.knows_all:
            return ["no daemon" if engine is None else f"no address is given out: {engine.seats.closed}"]
        return when_calm(
            self.world, self.audit.leases, {str(key): why for key, why in engine.reconciler.problems.items()}
        )

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
        rarer = [one for one in happenings.RARER if self.chance.random() < _RARER]
        self.marathon.spawn(self.marathon.supervise())
        keeper = asyncio.create_task(self.keep_a_daemon())
        for app in self._apps():
            self.marathon.spawn(self.marathon.deploy(app))
        end = self.clock.monotonic() + CHAOS_S
        while self.clock.monotonic() < end:
            await self.passes(self.chance.expovariate(0.35))
            if self.chance.random() < 0.5:
                self.operator.rebuilds()
            often = rarer and self.chance.random() < 0.4
            self.chance.choice(rarer if often else happenings.EVERYDAY)(self)
        await self._calm_down()
        took = await self.settles()
        self.world.trace(f"settled after {took:.1f} s")
        await self.falls_quiet()
        self.end()
        await keeper

    def end(self) -> None:
        """No more daemons."""
        self.ending = True
        for life in self.all_lives:
            life.kill()

    async def _calm_down(self) -> None:
        await self.passes(0.1)  # what has just been begun takes its course
        self.world.trace("calm")
        self.world.faults.calm()
        self.world.away.clear()
        self.may_die = False
        for life in self.all_lives:
            life.die_at = None
            life.thaw()
            if life.disk != self.audit.disk:
                life.kill()  # somebody sees to it that there is one store
        stay_lost = self.chance.random() < 0.25 and self.knows_all
        for host in sorted(self.world.agents.silent)[1 if stay_lost else 0 :]:
            await self.marathon.back(host, rebooted=self.chance.random() < 0.3)
        if self.chance.random() < 0.3 and self.life is not None:
            self.life.kill()

    def _set_faults(self) -> None:
        strength = self.chance.choice((0.0, 0.05, 0.2, 0.4))
        faults, chance = self.world.faults, self.chance
        faults.drop, faults.duplicate = chance.uniform(0, strength), chance.uniform(0, strength)
        faults.late, faults.listing = chance.uniform(0, strength), chance.uniform(0, strength)
        faults.latest_s = chance.choice((3.0, 20.0))
        faults.before, faults.after = chance.uniform(0, strength), chance.uniform(0, strength / 2)
        faults.slow, faults.given_up = chance.uniform(0, strength / 2), chance.uniform(0, strength / 3)
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
        unchecked = {"HAPROXY_GROUP": "external", "HAPROXY_0_VHOST": "jobs.example.org"}
        apps = [
            SimApp("/shop/db", 1, {"MOORING_POOL": "blue"}, **strategy()),
            SimApp("/shop/web", 3, {"MOORING_POOL": "blue", **balanced, **watching}, **strategy()),
            SimApp("/batch/job", 2, {"MOORING_POOL": "green", "MOORING_IP_POLICY": "task", **unchecked},
                   checked=False, **strategy()),
            SimApp("/legacy", 1, legacy, **strategy()),
        ]  # fmt: skip
        if self.chance.random() < 0.3:  # more than its pool can hold
            apps.append(SimApp("/tiny", self.chance.randint(3, 7), {"MOORING_POOL": "tiny"}, **strategy()))
        if self.chance.random() < 0.1:
            apps.append(SimApp("/many", 9, {"MOORING_POOL": "blue"}, **strategy()))
        return apps

    # -- for what happens

    def some_app(self) -> str | None:
        """Any app, if there is one."""
        return self.chance.choice(sorted(self.marathon.apps)) if self.marathon.apps else None

    def some_instance(self) -> str | None:
        """Any instance, if there is one."""
        there = sorted(self.marathon.instances)
        return self.chance.choice(there) if there else None

    def begins(self, what: str, work: Any) -> None:
        """Something takes its time; the story does not end before it has."""
        self.world.trace(f"* {what}")
        self._under_way += 1
        self.marathon.spawn(self._counted(work))

    async def _counted(self, work: Any) -> None:
        try:
            await work
        finally:
            self._under_way -= 1


def _copy_files(disk: Path, place: Path) -> None:
    """A database with its write-ahead log, at a moment at which nobody writes."""
    for file in (disk, disk.with_name(f"{disk.name}-wal")):
        copy = place.with_name(file.name.replace(disk.name, place.name))
        copy.unlink(missing_ok=True)
        if file.exists():
            shutil.copyfile(file, copy)


def _restored(disk: Path) -> None:
    """As `mooring restore` leaves it: what was written after the backup was made is not known to be there."""
    with contextlib.closing(sqlite3.connect(disk, isolation_level=None)) as db:
        db.execute("DELETE FROM flags WHERE name IN (?, ?, ?)", (COMPLETE, AGREED, FIRST))


def tell(seed: int, directory: Path, act: Any = None) -> Story:
    """Play one seed through; raises `Violation` with the end of the trace. `act` replaces the whole."""
    stories: list[Story] = []

    async def main(loop: VirtualLoop) -> None:
        story = Story(loop, seed, directory)
        stories.append(story)
        with logs_into(story.world.trace, story.world.defects):
            await (act(story) if act is not None else story.tell())

    try:
        simulate(main, seed)
    except BaseException as error:
        lines = stories[0].world.trace.lines if stories else []
        error.add_note("\n".join([f"seed {seed}, the last of {len(lines)} lines:", *lines[-120:]]))
        raise
    finally:
        for story in stories:
            story.audit.turn_to(None)
    return stories[0]
