"""One life of a daemon: built as `controller.daemon` builds it, over the world's twins, and killed at will.

A kill ends the process between two steps: nothing of it runs on, no `finally` of it reaches the outside, and
the store's file is simply let go of.  To know what belongs to the process, each of its tasks carries the
life in a context variable; what it sent is carried out by tasks of the world and lives on.

Steps are counted where the process touches the outside (before and after each store transaction, play,
DNS message and so on); `die_at` names the step at which it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from mooring.cext import Frame
from mooring.cmdb.ledger import Ledger
from mooring.controller import daemon
from mooring.controller.engine import Engine, Outside
from mooring.controller.ground import hear_silent_hosts, settle_in, survey_all
from mooring.controller.listing import AppListing, Snapshot, read_app, read_apps
from mooring.controller.settings import Settings
from mooring.controller.sinks import host_sinks
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.errors import Retryable, StoreBusy
from mooring.core.model import AppId, BindingId, Epoch, SinkName
from mooring.core.sink import Change, Outcome, Sink
from mooring.core.specs import Spec
from mooring.dns.records import Question, RRset, Unanswered, Update
from mooring.dns.sinks import SeatNames, SharedNames
from mooring.handlers.hosts import Answer, Hosts, Operation
from mooring.lb.memory import MemoryBalancer
from mooring.portal.metrics import Metrics
from tests.sim.loop import VirtualLoop
from tests.sim.world import REVERSE_ZONE, ZONE, World

T = TypeVar("T")
_LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)
_OUTSIDE = contextvars.Context()  # what the world does is nobody's process


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

    loop.set_task_factory(make)


class Life:
    """One process."""

    def __init__(self, world: World, settings: Settings, number: int, die_at: int | None) -> None:
        self.world = world
        self.number = number
        self.dead = False
        self.primed = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.ended = asyncio.Event()
        self.engine: Engine | None = None
        self.epoch = Epoch(0)
        self._settings = settings
        self.die_at = die_at
        self._steps = 0
        self._store: SqliteStore | None = None
        self._listening = False

    # -- being born and dying

    def begin(self) -> None:
        """Start the process."""
        context = contextvars.Context()
        context.run(_LIFE.set, self)
        asyncio.get_running_loop().create_task(self._guarded(), context=context)

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
        self.ended.set()

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
            self.world.breach(f"the daemon ended by itself: {_innermost(error)!r}")
            self.kill()

    async def _live(self) -> None:
        world, settings = self.world, self._settings
        store = self._store = SqliteStore(settings.store, StoreRunner(self))
        contents = await store.open()
        names = sorted(world.agents.hosts)
        hosts = Hosts(Plays(self), world.clock, contents.epoch)
        sinks = [
            *host_sinks(hosts, names, settings.ansible.interface),
            Ledger(store, world.clock),
            *self._edges(),
        ]
        ground = await survey_all(hosts, names, store, contents, sinks, fences=True)
        self.epoch = hosts.epoch
        records = daemon._records(settings, store, contents)
        marathon = Rest(self, contents.flags.get("framework"))
        chance = random.Random(f"daemon {self.number} {world.chance.random()}")
        metrics = Metrics(CollectorRegistry(), "sim", [sink.name for sink in sinks])
        outside = Outside(world.clock, chance, marathon, sinks, self.epoch, metrics)  # type: ignore[arg-type]
        engine = self.engine = Engine(settings, records, outside)
        adopted = await settle_in(engine, ground)
        await engine.prime()
        self.primed = True
        world.trace(f"daemon {self.number} begins as epoch {self.epoch}, adopted {adopted}")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_stream(engine))
            group.create_task(engine.watch.run())
            group.create_task(engine.work())
            group.create_task(engine.janitor.run())
            group.create_task(hear_silent_hosts(engine, ground))

    def _edges(self) -> list[Sink]:
        wire = Wire(self)
        made: list[Sink] = [
            SeatNames(wire, zones=[ZONE], reverse_zones=[REVERSE_ZONE], owner="mooring"),
            SharedNames(wire, zones=[ZONE], owner="mooring"),
        ]
        balancers = [MemoryBalancer(proxy, SinkName(name)) for name, proxy in self.world.proxies.items()]
        return made + [Flaky(self, sink) for sink in (*balancers, self.world.make_inventory())]

    # -- the stream

    async def _follow_stream(self, engine: Engine) -> None:
        """Attached, and after each cut attached again."""
        context = contextvars.copy_context()

        def hear(frame: Frame) -> None:
            if self._listening and not self.dead:
                self._deliver(lambda: context.copy().run(engine.watch.event, frame))

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
        for _ in range(1 + world.hit(faults.duplicate)):
            if world.hit(faults.late):
                delay = world.chance.uniform(0.0, faults.latest_s)
                asyncio.get_running_loop().call_later(delay, self._late, hand_over)
            else:
                hand_over()

    def _late(self, hand_over: Callable[[], None]) -> None:
        if not self.dead:
            hand_over()

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


class StoreRunner:
    """Runs the store's jobs one after the other, each in a moment of its own."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._lock = asyncio.Lock()

    async def __call__(self, job: Callable[[], T], /) -> T:
        life, world = self._life, self._life.world
        async with self._lock:
            life.step("before the store")
            await world.pause(0.0, 0.002)
            if life.primed and world.hit(world.faults.store):
                raise StoreBusy("the store is busy; nothing was written")
            life.step("in the store")
            result = job()
            life.step("after the store")
            return result


class Plays:
    """`handlers.hosts.Runner`: plays that take their time, fail, and land after their sender's death."""

    def __init__(self, life: Life) -> None:
        self._life = life

    async def run(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]:
        kinds = "+".join(sorted({str(operation["op"]) for operation in operations}))
        # Looking changes nothing, and a silent host has to be asked again.
        self._life.world.effects += kinds != "observe" and host not in self._life.world.agents.silent
        return await self._life.send(f"{kinds} on {host}", lambda: self._play(host, operations, epoch))

    async def _play(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]:
        world = self._life.world
        await world.pause(0.05, 10.0 if world.hit(world.faults.slow) else 1.2)
        if world.hit(world.faults.before):
            raise Retryable(f"host {host} cannot be reached")
        answers = world.agents.play(host, operations, epoch)
        await world.pause(0.0, 0.3)
        if world.hit(world.faults.after):
            raise Retryable(f"the play on host {host} gave no result")
        return answers


class Wire:
    """`dns.records.NameServer`: messages that get lost, or whose answers do."""

    where = "memory"

    def __init__(self, life: Life) -> None:
        self._life = life

    async def lookup(self, questions: Sequence[Question]) -> Mapping[Question, RRset]:
        world = self._life.world
        self._life.step("before a lookup")
        await world.pause(0.0, 0.02)
        if "dns" in world.away or world.hit(world.faults.before):
            raise Retryable("the name server does not answer")
        return await world.server.lookup(questions)

    async def update(self, update: Update) -> str:
        self._life.world.effects += 1
        return await self._life.send("an update", lambda: self._update(update))

    async def transfer(self, zone: str) -> Mapping[Question, RRset]:
        return await self._life.world.server.transfer(zone)

    async def _update(self, update: Update) -> str:
        world = self._life.world
        await world.pause(0.0, 0.02)
        if "dns" in world.away or world.hit(world.faults.before):
            raise Retryable("the name server does not answer")
        code = await world.update(update, self._life.epoch)
        await world.pause(0.0, 0.02)
        if world.hit(world.faults.after):
            raise Unanswered("no answer to the update")
        return code


class Flaky:
    """A sink whose other side is away at times, or whose answer gets lost."""

    def __init__(self, life: Life, sink: Sink) -> None:
        self.name = sink.name
        self.lane, self.observe, self.prime, self.check = sink.lane, sink.observe, sink.prime, sink.check
        self._life = life
        self._sink = sink

    lane: Callable[[Change], str]
    observe: Callable[[], Coroutine[Any, Any, Mapping[str, Spec]]]
    prime: Callable[[Mapping[BindingId, Sequence[Spec]]], Coroutine[Any, Any, None]]
    check: Callable[[], Coroutine[Any, Any, str]]

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        life, world = self._life, self._life.world
        life.step(f"before {self.name}")
        world.effects += 1
        await world.pause(0.0, 0.2)
        if self.name in world.away or world.hit(world.faults.before):
            raise Retryable(f"{self.name} does not answer")
        life.step(f"in {self.name}")
        outcomes = await self._sink.apply(changes)
        world.trace(f"{self.name}: {', '.join(_shown(change) for change in changes)}")
        world.landed(self.name, life.epoch)
        life.step(f"after {self.name}")
        await world.pause(0.0, 0.2)
        if world.hit(world.faults.after):
            raise Retryable(f"the answer of {self.name} was lost")
        return outcomes


def _shown(change: Change) -> str:
    state = getattr(change.wanted, "state", getattr(change.wanted, "status", "nothing"))
    return f"{change.binding[-12:]} {state}"


class Rest:
    """`controller.snapshot.Marathon`: a listing shows one moment of its request, and arrives late."""

    def __init__(self, life: Life, framework: str | None) -> None:
        self.framework = framework
        self._life = life

    async def snapshot(self) -> Snapshot:
        world = self._life.world
        begun = world.clock.monotonic()
        body = await self._ask(world.marathon.apps_json)
        self.framework = world.marathon.framework
        return Snapshot(begun, read_apps(body, begun), {}, self.framework, "leader")

    async def app(self, id: AppId) -> AppListing:
        world = self._life.world
        begun = world.clock.monotonic()
        body = await self._ask(lambda: world.marathon.app_json(id))
        return read_app(body, begun) if body else AppListing(id, None, (), begun)

    async def _ask(self, look: Callable[[], bytes]) -> bytes:
        world = self._life.world
        self._life.step("before a listing")
        await world.pause(0.0, 0.3)
        if world.hit(world.faults.listing):
            raise Retryable("Marathon does not answer")
        body = look()
        await world.pause(0.0, world.faults.latest_s if world.hit(world.faults.late) else 0.2)
        self._life.step("after a listing")
        return body


def sim_settings(directory: Path, **changes: Any) -> Settings:
    """A configuration with short waits."""
    table: dict[str, Any] = {
        "store": directory / "store.db",
        "balancer_groups": ["*"],
        "hosts": {f"h{number}": f"192.0.2.{number}" for number in range(1, 9)},
        "workers": 16,
        "marathon": {"endpoints": ["http://m:1"], "snapshot_every_s": 30.0, "absence_confirm_s": 15.0},
        "pools": {
            "blue": {"network": "10.64.0.0/26", "gateway": "10.64.0.1", "vlan": 10},
            "green": {"network": "10.64.1.0/28", "gateway": "10.64.1.1"},
        },
        "leases": {"cooling_s": 20.0, "seat_wait_s": 10.0},
        "ansible": {"inventory": directory / "inventory"},
        "dns": {"server": "memory", "zone": ZONE, "key_name": "k", "secret_file": directory / "secret"},
    }
    return Settings.model_validate({**table, **changes})


@contextlib.contextmanager
def logs_into(trace: Callable[[str], None], defects: list[str]) -> Any:
    """For the time of the body the daemon's log lines go into the trace; defects are collected."""

    def write(_: Any, level: str, line: dict[str, Any]) -> Any:
        trace_back = line.pop("exc_info", None)
        event, rest = line.pop("event"), {key: value for key, value in line.items() if value is not None}
        trace(f"  log {level}: {event} {' '.join(f'{key}={value}' for key, value in rest.items())}")
        if trace_back or level in ("exception", "critical"):
            defects.append(f"{event}: {rest.get('error')}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, write])
    try:
        yield
    finally:
        structlog.configure(**before)
