"""One life of a daemon: built as `controller.daemon` builds it, over the world's twins, and killed at will.

A kill ends the process between two steps: nothing of it runs on, no `finally` of it reaches the outside, and
the store's file is simply let go of.  A freeze (SIGSTOP, a virtual machine that is paused) stops it between
two steps as well, and when it thaws it goes on as if nothing had happened, perhaps beside its successor.  To
know what belongs to the process, each of its tasks carries the life in a context variable; what it sent is
carried out by tasks of the world and lives on.

Steps are counted where the process touches the outside (before and after each store transaction, play,
DNS message and so on); `die_at` names the step at which it ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from mooring.cext import Frame
from mooring.cmdb.ledger import Ledger
from mooring.controller import daemon
from mooring.controller.engine import Engine, Outside
from mooring.controller.ground import hear_silent_hosts, settle_in, survey_all
from mooring.controller.settings import Settings
from mooring.controller.sinks import host_sinks
from mooring.controller.stage import Stage
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.errors import Fenced, Refused, Retryable
from mooring.core.model import SinkName
from mooring.core.sink import Sink
from mooring.dns.sinks import SeatNames, SharedNames
from mooring.handlers.hosts import Hosts
from mooring.lb.memory import MemoryBalancer
from mooring.portal.metrics import Metrics
from tests.sim.audit import Audit
from tests.sim.lines import Flaky, Plays, Rest, StoreRunner, Wire
from tests.sim.loop import VirtualLoop
from tests.sim.world import REVERSE_ZONES, ZONE, World

T = TypeVar("T")
ENDS = frozenset({"TASK_KILLED", "TASK_FAILED", "TASK_GONE_BY_OPERATOR"})
_LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)
_OUTSIDE = contextvars.Context()  # what the world does is nobody's process


def is_frozen(context: contextvars.Context) -> bool:
    """Whether what runs in this context belongs to a process that is stopped at the moment."""
    life = context.get(_LIFE)
    return life is not None and life.frozen


def watch_births(loop: VirtualLoop) -> None:
    """From now on each new task of a life is entered there."""
    born: Callable[..., asyncio.Task[Any]] = loop.get_task_factory()  # type: ignore[assignment]

    def make(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> Any:
        context = options.get("context")
        life = context.get(_LIFE) if context is not None else _LIFE.get()
        task = born(loop, work, **options)
        if life is not None:
            life.tasks.append(task)
            if life.dead:
                task.cancel()
        return task

    loop.set_task_factory(make)  # type: ignore[arg-type]


class Life:
    """One process."""

    def __init__(
        self, world: World, audit: Audit, settings: Settings, number: int, die_at: int | None
    ) -> None:
        assert settings.store is not None
        self.world = world
        self.audit = audit
        self.disk = settings.store
        self.number = number
        self.dead = False
        self.frozen = False
        self.thawed_at = float("-inf")
        self.primed = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.relieved = asyncio.Event()  # it has ended, or another one is to be started beside it
        self.engine: Engine | None = None
        self.epoch = 0
        self._settings = settings
        self.die_at = die_at
        self._steps = 0
        self._store: SqliteStore | None = None
        self._listening = False
        self._context = contextvars.Context()
        self._context.run(_LIFE.set, self)
        self._ended: dict[str, float] = {}  # task: when this daemon was told that it ended

    @property
    def sure(self) -> bool:
        """Whether it knows every lease, or thinks so."""
        return self.engine is not None and self.engine.rebuild.is_over

    # -- being born and dying

    def begin(self) -> None:
        """Start the process."""
        self.do(self._guarded())

    def do(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let the process do something; its death ends it."""
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    def kill(self) -> None:
        """End the process here and now."""
        if self.dead:
            return
        self.world.trace(f"daemon {self.number} dies after {self._steps} steps")
        self.dead = True
        self._listening = False
        if self._store is not None:
            self._store._close()
        for task in self.tasks:
            task.cancel()
        self.thaw()
        self.relieved.set()

    def freeze(self) -> None:
        """Stop the process; what it has sent takes its course."""
        if not self.dead and not self.frozen:
            self.world.trace(f"* daemon {self.number} is frozen")
            self.frozen = True

    def thaw(self) -> None:
        """It goes on."""
        if self.frozen:
            self.world.trace(f"* daemon {self.number} goes on")
            self.frozen, self.thawed_at = False, self.world.clock.monotonic()
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop.freeze(is_frozen)

    def alive(self) -> int:
        """How many tasks it has."""
        self.tasks = [task for task in self.tasks if not task.done()]
        return len(self.tasks)

    def step(self, what: str) -> None:
        """The process is about to do something, or has just done it."""
        self._steps += 1
        if self._steps == self.die_at and not self.dead:
            self.world.trace(f"daemon {self.number} is killed at: {what}")
            self.kill()
        if self.dead:
            raise asyncio.CancelledError

    async def _guarded(self) -> None:
        try:
            await self._live()
        except Retryable as error:
            self.world.trace(f"daemon {self.number} could not start: {error}")
            self.kill()
        except Exception as error:
            cause = _innermost(error)
            in_use = self.engine is None and isinstance(cause, Refused)  # another one has the store
            if not ((isinstance(cause, Fenced) or in_use) and self.world.may_be_fenced):
                self.world.defect(f"the daemon ended by itself: {cause!r}")
            self.world.trace(f"daemon {self.number} gives up: {cause}")
            self.kill()

    async def _live(self) -> None:
        world, settings = self.world, self._settings
        store = self._store = SqliteStore(self.disk, StoreRunner(self))
        contents = await store.open()
        names = sorted(world.agents.hosts)
        hosts = Hosts(Plays(self), world.clock, contents.epoch)
        sinks = [
            *host_sinks(hosts, names, settings.ansible.interface),
            Ledger(store, world.clock),
            *self._edges(),
        ]
        chance = random.Random(f"daemon {self.number} {world.chance.random()}")
        ground = await survey_all(hosts, names, store, contents, sinks, chance, fences=True)
        self.epoch = hosts.epoch
        records = daemon._records(settings, store, contents)
        marathon = Rest(self, contents.flags.get("framework"))
        metrics = Metrics(CollectorRegistry(), "sim", [sink.name for sink in sinks], framer="c")
        outside = Outside(world.clock, chance, marathon, sinks, self.epoch, metrics)  # type: ignore[arg-type]
        engine = self.engine = Engine(settings, records, outside)
        adopted = await settle_in(engine, ground)
        await engine.prime()
        self.primed = True
        if ground.stage is not Stage.AWAITED:
            for host in ground.found.marks:
                world.heard(host, self.epoch)
        world.trace(f"daemon {self.number} begins as epoch {self.epoch}, adopted {adopted}")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_stream(engine))
            group.create_task(engine.watch.run())
            group.create_task(engine.work())
            group.create_task(engine.janitor.run())
            group.create_task(engine.verifier.run())
            group.create_task(engine.patrol.run())
            group.create_task(hear_silent_hosts(engine, ground))

    def _edges(self) -> list[Sink]:
        wire = Wire(self)
        made: list[Sink] = [
            SeatNames(wire, zones=[ZONE], reverse_zones=REVERSE_ZONES, owner="mooring"),
            SharedNames(wire, zones=[ZONE], owner="mooring"),
        ]
        balancers = [MemoryBalancer(proxy, SinkName(name)) for name, proxy in self.world.proxies.items()]
        flaky: list[Sink] = [*balancers, self.world.make_inventory()]
        return made + [Flaky(self, sink) for sink in flaky]

    # -- the stream

    async def _follow_stream(self, engine: Engine) -> None:
        """Attached, and after each cut attached again."""

        def hear(frame: Frame) -> None:
            if self._listening and not self.dead:
                self._deliver(lambda: self._hear(engine, frame))

        self.world.marathon.listeners.append(hear)
        try:
            while True:
                await self.world.pause(0.0, 0.3)
                self._listening = True
                engine.watch.attached()
                while self._listening:
                    await self.world.clock.sleep(0.5)
                engine.watch.detached("cut")
        finally:
            self.world.marathon.listeners.remove(hear)

    def cut_stream(self) -> None:
        """The connection breaks; what is said until the next attachment is lost."""
        self._listening = False

    def _deliver(self, hand_over: Callable[[], None]) -> None:
        world, faults = self.world, self.world.faults
        if world.hit(faults.drop):
            return
        for copy in range(1 + world.hit(faults.duplicate)):
            loop, delay = asyncio.get_running_loop(), 0.0
            if world.hit(max(faults.late, 0.5 * copy)):  # what comes twice is often an echo
                delay = world.chance.uniform(0.0, faults.latest_s)
            if delay or self.frozen:
                loop.call_later(delay, self._late, hand_over, context=self._context.copy())
            else:
                self._context.copy().run(hand_over)

    def _late(self, hand_over: Callable[[], None]) -> None:
        if not self.dead:
            hand_over()

    def _hear(self, engine: Engine, frame: Frame) -> None:
        engine.watch.event(frame)
        if frame.event == "status_update_event" and (ended := _ended_task(frame)) is not None:
            self._ended.setdefault(ended, self.world.clock.monotonic())

    def ended_for(self, task: str) -> float:
        """For how many seconds, awake, it has known that the task ended; negative if it does not know."""
        told = self._ended.get(task)
        return -1.0 if told is None else self.world.clock.monotonic() - max(told, self.thawed_at)

    # -- sending

    async def send(self, what: str, effect: Callable[[], Awaitable[T]]) -> T:
        """Have the world do something; it is done even if this process ends meanwhile."""
        self.step(f"before {what}")
        loop = asyncio.get_running_loop()
        work = loop.create_task(_as_coroutine(effect), context=_OUTSIDE.copy())
        try:
            result = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_heard_by_nobody)
            raise
        self.step(f"after {what}")
        return result


def _ended_task(frame: Frame) -> str | None:
    told = json.loads(frame.data)
    return told["taskId"] if told["taskStatus"] in ENDS else None


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _as_coroutine(effect: Callable[[], Awaitable[T]]) -> T:
    return await effect()


def _heard_by_nobody(work: asyncio.Task[Any]) -> None:
    error = None if work.cancelled() else work.exception()
    if error is not None and not isinstance(error, Retryable):
        raise error
