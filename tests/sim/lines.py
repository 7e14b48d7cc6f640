"""The lines by which a simulated daemon reaches the world, and what goes wrong on each of them.

What has been sent is the world's affair: it takes its time, may not be done, may be done without an answer,
and is done even if the sender has died meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from mooring.controller.listing import AppListing, Snapshot, read_app
from mooring.core.errors import Retryable, StoreBusy
from mooring.core.model import AppId, BindingId, Epoch
from mooring.core.sink import Change, Outcome, Sink
from mooring.core.specs import Spec
from mooring.dns.records import Question, RRset, Unanswered, Update
from mooring.handlers.hosts import Answer, Operation
from tests.sim.world import World
from tests.unit.listings import read_apps

T = TypeVar("T")


class Process(Protocol):
    """The daemon, as far as its lines know it."""

    world: World
    epoch: Epoch
    primed: bool

    def step(self, what: str) -> None:
        """It is about to do something, or has just done it; here it may be killed."""

    async def send(self, what: str, effect: Callable[[], Awaitable[T]]) -> T:
        """Have the world do something."""


class StoreRunner:
    """Runs the store's jobs one after the other, each in a moment of its own."""

    def __init__(self, life: Process) -> None:
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

    def __init__(self, life: Process) -> None:
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

    def __init__(self, life: Process) -> None:
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

    def __init__(self, life: Process, sink: Sink) -> None:
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

    def __init__(self, life: Process, framework: str | None) -> None:
        self.framework = framework
        self._life = life

    async def snapshot(self) -> Snapshot:
        world = self._life.world
        begun = world.clock.monotonic()
        body = await self._ask(world.marathon.apps_json)
        self.framework = world.marathon.framework
        return Snapshot(begun, read_apps(body, begun), {}, self.framework, "leader")

    async def apps(self, ids: Iterable[AppId]) -> dict[AppId, AppListing | Retryable]:
        return dict(await asyncio.gather(*map(self._app_or_error, ids)))

    async def _app_or_error(self, id: AppId) -> tuple[AppId, AppListing | Retryable]:
        try:
            return id, await self._app(id)
        except Retryable as error:
            return id, error

    async def _app(self, id: AppId) -> AppListing:
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
