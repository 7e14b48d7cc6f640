"""The lines by which a simulated daemon reaches the world, and what goes wrong on each of them.

What has been sent is the world's affair: it takes its time, may not be done, may be done without an answer,
and is done even if the sender has died meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mooring.controller.listing import AppListing, Snapshot, read_app
from mooring.core.errors import Retryable, StoreBusy
from mooring.core.model import AppId, BindingId
from mooring.core.sink import Change, Observation, Outcome, Sink
from mooring.core.specs import Endpoint, ItemSpec, MemberSpec, Spec
from mooring.dns.records import OK, Add, Question, RRset, Unanswered, Update
from mooring.handlers.hosts import Answer, Operation
from mooring.handlers.memory_hosts import MemoryPort
from mooring.handlers.wants import NGINX
from mooring.lb.nginx_render import serves
from tests.sim.agents import InTheAir
from tests.sim.audit import BELATED_S, Audit
from tests.sim.world import World
from tests.unit.listings import read_apps

T = TypeVar("T")
_LOOKS = 4  # at a balancer until all is repaired that a rebuild did not know of: two at a time


class Process(Protocol):
    """The daemon, as far as its lines know it."""

    world: World
    audit: Audit
    disk: Path
    number: int
    epoch: int
    primed: bool

    @property
    def sure(self) -> bool:
        """Whether it knows every lease, or thinks so."""

    def step(self, what: str) -> None:
        """It is about to do something, or has just done it; here it may be killed."""

    async def send(self, what: str, effect: Callable[[], Awaitable[T]]) -> T:
        """Have the world do something."""

    def ended_for(self, task: str) -> float:
        """For how many seconds it has known that the task ended; negative if it does not know."""


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
            life.audit.look(None)
            result = job()
            if life.audit.look(life):
                world.after_effect()
            life.step("after the store")
            return result


class Plays:
    """`handlers.hosts.Runner`: plays that take their time, fail, and land after their sender's death."""

    def __init__(self, life: Process) -> None:
        self._life = life

    async def prepare(self, host: str) -> None:
        """Changes nothing in the world."""

    async def run(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]:
        kinds = "+".join(sorted({str(operation["op"]) for operation in operations}))
        # Looking changes nothing, and a silent host has to be asked again.
        self._life.world.effects += kinds != "observe" and host not in self._life.world.agents.silent
        return await self._life.send(f"{kinds} on {host}", lambda: self._play(host, operations, epoch))

    async def _play(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]:
        world = self._life.world
        audit = self._life.audit
        # Who was overtaken does not know any more what shall stand.
        flight = _flight(host, operations, epoch, audit.wired() if epoch == audit.epoch else set())
        world.agents.flights.append(flight)
        try:
            await world.pause(0.05, 10.0 if world.hit(world.faults.slow) else 1.2)
            if world.hit(world.faults.before):
                raise Retryable(f"host {host} cannot be reached")
            if flight.changes and world.hit(world.faults.given_up):
                # It lies frozen on its host, and who sent it does not wait any longer.
                world.marathon.spawn(self._wakes_late(flight, operations))
                raise Retryable(f"the play on host {host} took too long")
            answers = self._land(flight, operations)
        finally:
            world.agents.landed_or_lost(flight)
        await world.pause(0.0, 0.3)
        if world.hit(world.faults.after):
            raise Retryable(f"the play on host {host} gave no result")
        return answers

    async def _wakes_late(self, flight: InTheAir, operations: Sequence[Operation]) -> None:
        world = self._life.world
        world.agents.flights.append(flight)
        try:
            await world.pause(1.0, 30.0)
            with contextlib.suppress(Retryable):
                self._land(flight, operations)
        finally:
            world.agents.landed_or_lost(flight)

    def _land(self, flight: InTheAir, operations: Sequence[Operation]) -> Sequence[Answer]:
        """It takes effect: nothing comes that no record wants, nothing goes that one wanted all along."""
        world, life, host = self._life.world, self._life, flight.host
        if flight not in world.agents.flights:
            raise Retryable(f"host {host} lost its power")
        before = dict(world.agents.hosts[host].ports) if host in world.agents.hosts else {}
        answers = world.agents.play(host, operations, flight.order[0])
        after = world.agents.hosts[host].ports
        if life.disk != life.audit.disk:
            return answers
        for name, port in after.items():
            if name not in before and not life.audit.records("network", port.address, port.task):
                world.breach(f"{port.address} was attached to {port.task} without having been wanted")
        for task, address in (_ends(before) - _ends(after)) & flight.wanted & life.audit.wired():
            world.breach(f"{task} lost its port with {address} although it shall have it")
        return answers


def _ends(ports: Mapping[str, MemoryPort]) -> set[tuple[str, str]]:
    return {(port.task, port.address) for port in ports.values()}


def _flight(host: str, operations: Sequence[Operation], epoch: int, wanted: set[tuple[str, str]]) -> InTheAir:
    attached = frozenset(
        (str(one["task_id"]), str(one["address"])) for one in operations if one["op"] == "attach"
    )
    sequence = max((int(one.get("sequence") or 0) for one in operations), default=0)
    changes = any(one["op"] in ("attach", "detach", "write") for one in operations)
    return InTheAir(host, (epoch, sequence), attached, changes, frozenset(wanted))


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
        world = self._life.world
        self._life.step("before a transfer")
        await world.pause(0.0, 0.05)
        if "dns" in world.away or world.hit(world.faults.before):
            raise Retryable("the name server does not answer")
        return await world.server.transfer(zone)

    async def _update(self, update: Update) -> str:
        world = self._life.world
        await world.pause(0.0, 0.02)
        if "dns" in world.away or world.hit(world.faults.before):
            raise Retryable("the name server does not answer")
        code = await world.update(update, self._life.epoch)
        if code == OK:
            self._look_up(update)
        await world.pause(0.0, 0.02)
        if world.hit(world.faults.after):
            raise Unanswered("no answer to the update")
        return code

    def _look_up(self, update: Update) -> None:
        life = self._life
        for edit in update.edits:
            if isinstance(edit, Add) and edit.type == "A" and life.disk == life.audit.disk:
                recorded = (
                    life.audit.records(sink, edit.name, edit.value) for sink in ("names", "app_names")
                )
                if not any(recorded):
                    life.world.breach(f"{edit.name} was led to {edit.value} without having been wanted")


class Flaky:
    """A sink whose other side is away at times, or whose answer gets lost."""

    def __init__(self, life: Process, sink: Sink) -> None:
        self.name = sink.name
        self.lane, self.prime, self.check = sink.lane, sink.prime, sink.check
        self._life = life
        self._sink = sink

    lane: Callable[[Change], str]
    prime: Callable[[Mapping[BindingId, Sequence[Spec]]], Coroutine[Any, Any, None]]
    check: Callable[[], Coroutine[Any, Any, str]]

    async def observe(self) -> Observation:
        life, world = self._life, self._life.world
        life.step(f"before a look at {self.name}")
        await world.pause(0.0, 0.2)
        if self.name in world.away or world.hit(world.faults.before):
            if not life.sure:
                world.unread[self.name] = _LOOKS
            raise Retryable(f"{self.name} does not answer")
        if life.sure and self.name in world.unread:
            world.unread[self.name] -= 1
        seen = await self._sink.observe()
        return _as_nginx_tells(seen) if self.name == NGINX else seen

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        life, world = self._life, self._life.world
        life.step(f"before {self.name}")
        world.effects += 1
        await world.pause(0.0, 0.2)
        if self.name in world.away or world.hit(world.faults.before):
            raise Retryable(f"{self.name} does not answer")
        life.step(f"in {self.name}")
        outcomes = await self._sink.apply(changes)
        for change in changes:
            self._judge(change)
        world.trace(f"{self.name}: {', '.join(_shown(change) for change in changes)}")
        if self.name == "webhook":
            world.after_effect()  # an inventory does not compare epochs
        else:
            world.landed(self.name, life.epoch)
        life.step(f"after {self.name}")
        await world.pause(0.0, 0.2)
        if world.hit(world.faults.after):
            raise Retryable(f"the answer of {self.name} was lost")
        return outcomes

    def _judge(self, change: Change) -> None:
        """Nothing is shown that was not recorded first, nobody as alive of whom it was told that he ended."""
        life, wanted = self._life, change.wanted
        current = life.disk == life.audit.disk and life.epoch == life.audit.epoch
        if current and life.audit.generation(change.binding, self.name) < change.generation:
            life.world.breach(f"{self.name} was told of {change.binding} before that was recorded")
        if (
            isinstance(wanted, ItemSpec)
            and wanted.status == "live"
            and life.ended_for(wanted.task) > BELATED_S
        ):
            life.world.breach(f"{self.name}: {wanted.task} is live, whose end this daemon had been told")
        if isinstance(wanted, MemberSpec) and wanted.state == "up":
            for endpoint in wanted.endpoints:
                _judge_traffic(life.world, self.name, endpoint)


def _as_nginx_tells(seen: Observation) -> Observation:
    """Nginx's configuration has no members but those that take traffic for a kind that it serves."""
    shown = {key: spec for key, spec in seen.shown.items() if told_by_nginx(spec)}
    return Observation(shown, seen.foreign)


def told_by_nginx(spec: Spec) -> bool:
    """Whether it would say that it has such a member."""
    assert isinstance(spec, MemberSpec)
    return spec.state == "up" and all(serves(endpoint.service) for endpoint in spec.endpoints)


def _judge_traffic(world: World, balancer: str, endpoint: Endpoint) -> None:
    for host, port in world.agents.answering(endpoint.address):
        if host.alive(port) and endpoint.port not in host.containers[port.task].listens:
            world.breach(f"{balancer} sends to {endpoint.address}:{endpoint.port}, where {port.task} "
                         "does not listen yet")  # fmt: skip


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
