"""An address conflict from the wire to the books, over the twin in memory and over real switches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import pytest
from msgspec import structs

from mooring.core.clock import SystemClock
from mooring.core.errors import Retryable
from mooring.core.model import BindingId, LeaseState, State
from mooring.core.specs import PortSpec
from mooring.handlers.memory_hosts import MemoryHosts
from mooring.handlers.wants import NETWORK
from tests.contract.conflicts import EPOCH, PATIENCE_S, Inside
from tests.integration.host_module.rig import BRIDGE, HostRig, hosted
from tests.unit.fake_time import SteppedClock

STRANGER = "0e:00:00:00:00:01"
_thirds = itertools.count(1)


class Bench(Protocol):
    """One host, h1, and the wire."""

    network: str  # whose first address is the first that is given out

    async def prepare(self, host: str) -> None: ...

    async def run(
        self, host: str, operations: Sequence[Mapping[str, Any]], epoch: int
    ) -> Sequence[Mapping[str, Any]]: ...

    def start(self, task: str) -> None: ...

    def stranger(self, address: str) -> AbstractContextManager[str]: ...


class InMemory:
    network = "10.64.5.0/29"

    def __init__(self) -> None:
        self.world = MemoryHosts(["h1", "h2"])
        self.run, self.prepare = self.world.run, self.world.prepare

    def start(self, task: str, host: str = "h1") -> None:
        self.world.place(host, task)

    @contextmanager
    def stranger(self, address: str) -> Iterator[str]:
        self.world.strangers[address] = STRANGER
        yield STRANGER
        del self.world.strangers[address]


class OnRealSwitch:
    def __init__(self, rig: HostRig) -> None:
        self._rig = rig
        rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")  # each test is another daemon of the same epoch
        self.network = f"10.64.3.{8 * next(_thirds)}/29"

    async def prepare(self, host: str) -> None: ...

    async def run(
        self, host: str, operations: Sequence[Mapping[str, Any]], epoch: int
    ) -> Sequence[Mapping[str, Any]]:
        return self._rig.do(*operations, epoch=epoch)

    def start(self, task: str) -> None:
        self._rig.container(task)

    def stranger(self, address: str) -> AbstractContextManager[str]:
        return self._rig.stranger(address)


@pytest.fixture(scope="module")
def rig() -> Iterator[HostRig]:
    with hosted() as made:
        yield made


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.root)])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "memory":
        return InMemory()
    return OnRealSwitch(request.getfixturevalue("rig"))


def address(bench: Bench, number: int) -> str:
    """The n-th assignable address of the bench's pool."""
    base, _, last = bench.network.partition("/")[0].rpartition(".")
    return f"{base}.{int(last) + number}"


async def opened(bench: Bench, **labels: str) -> Inside:
    inside = Inside(bench, ["h1"], SystemClock(), bench.network, **labels)
    await inside.open()
    return inside


async def addresses_on(bench: Bench, host: str = "h1") -> set[tuple[str, str]]:
    """(address, instance) of every port of ours."""
    [report] = await bench.run(host, [{"op": "observe", "id": "o"}], int(EPOCH))
    return {(port["address"], port["instance"]) for port in report["ports"]}


async def test_a_newcomer_leaves_a_strangers_address_to_him(bench: Bench) -> None:
    inside = await opened(bench)
    first, second = address(bench, 1), address(bench, 2)
    instance = inside.said.runs("a", "h1")
    bench.start(instance.task)
    with bench.stranger(first) as mac:
        verdict = await inside.reconcile(instance)
    assert (verdict.again, verdict.reason) == (False, "")
    assert inside.binding(instance).address == second
    assert inside.binding(instance).settled
    assert (first, instance.id) not in await addresses_on(bench)
    assert (second, instance.id) in await addresses_on(bench)
    assert inside.state(first) is LeaseState.CONFLICTED
    assert inside.note(first) == f"answered by {mac}"
    assert await inside.events(first) == ["bound", "conflicted"]
    assert (inside.names(first), len(inside.names(second))) == ([], 1)
    assert inside.conflicts == 1


async def test_a_leftover_port_of_ours_is_detached_and_the_address_used(bench: Bench) -> None:
    inside = await opened(bench)
    first = address(bench, 1)
    bench.start(f"{bench.network}.left._app.2")
    left = {
        "op": "attach", "id": "l", "task_id": f"{bench.network}.left._app.2", "app": "/gone/app", "slot": 4,
        "instance": f"{bench.network}.left", "address": first, "prefix": 29, "generation": 9,
    }  # fmt: skip
    [done] = await bench.run("h1", [left], 1)
    assert done["status"] == "done"
    instance = inside.said.runs("b", "h1")
    bench.start(instance.task)
    verdict = await inside.reconcile(instance)
    if verdict.again:  # it was told to come back while the port was being detached
        assert "left on h1" in verdict.reason
        verdict = await inside.reconcile(instance)
    assert (verdict.again, verdict.reason) == (False, "")
    assert inside.binding(instance).address == first
    assert {who for where, who in await addresses_on(bench) if where == first} == {instance.id}
    assert inside.conflicts == 0
    assert [binding.id for binding in inside.records.all()] == [instance.id]


async def test_a_pinned_app_waits_and_says_why(bench: Bench) -> None:
    only = address(bench, 1)
    inside = await opened(bench, MOORING_IP_POLICY="pinned", MOORING_IPS=only)
    inside.said.apps[next(iter(inside.said.apps))] = _one(inside)
    instance = inside.said.runs("c", "h1")
    bench.start(instance.task)
    with bench.stranger(only):
        verdict = await inside.reconcile(instance)
    assert verdict.again
    assert only in verdict.reason
    assert inside.binding(instance).address is None
    assert inside.binding(instance).settled
    assert inside.state(only) is LeaseState.CONFLICTED


def _one(inside: Inside) -> Any:
    """The app with one instance and no surge, as one pinned address allows."""
    app = next(iter(inside.said.apps.values()))
    return type(app)(app.id, 1, app.labels, over_capacity=0.0)


# What needs two hosts, or a host that is silent.


async def two_hosts(network: str = "10.64.5.0/29") -> tuple[InMemory, Inside, SteppedClock]:
    bench, clock = InMemory(), SteppedClock()
    inside = Inside(bench, ["h1", "h2"], clock, network)
    await inside.open()
    return bench, inside, clock


async def test_a_container_that_moves_loses_all_that_led_to_a_strangers_address() -> None:
    bench, inside, _ = await two_hosts("10.64.5.0/30")
    neighbour = inside.said.runs("n", "h1")
    mover = inside.said.runs("m", "h1")
    for instance in (mover, neighbour):
        bench.start(instance.task)
        await inside.reconcile(instance)
    lost = inside.binding(mover).address
    assert lost is not None
    assert len(inside.names(lost)) == 1
    moved = inside.said.runs("m", "h2", incarnation=2)
    bench.start(moved.task, "h2")
    with bench.stranger(lost):
        verdict = await inside.reconcile(moved)
    # The pool has no third address: it waits, and nothing leads to the stranger meanwhile.
    assert verdict.again
    assert "no address left" in verdict.reason
    assert inside.names(lost) == []
    assert inside.state(lost) is LeaseState.CONFLICTED
    assert inside.binding(moved).settled
    assert {where for host in ("h1", "h2") for where, _ in await addresses_on(bench, host)} == {
        inside.binding(neighbour).address
    }


async def test_who_died_while_it_waited_for_another_seat_gets_none() -> None:
    bench, inside, _ = await two_hosts("10.64.5.0/30")
    mover, neighbour = inside.said.runs("m", "h1"), inside.said.runs("n", "h1")
    for instance in (mover, neighbour):
        bench.start(instance.task)
        await inside.reconcile(instance)
    moved = inside.said.runs("m", "h2", incarnation=2)
    bench.start(moved.task, "h2")
    lost = inside.binding(mover).address
    assert lost is not None
    with bench.stranger(lost):
        assert "no address left" in (await inside.reconcile(moved)).reason
    await inside.records.commit(inside.book.plan_release_conflict(lost, 0.0, "the stranger is gone"))
    inside.clock.step(3600.0)  # type: ignore[attr-defined]
    inside.said.instances[moved.id] = structs.replace(moved, state=State.DEAD)
    verdict = await inside.reconcile(moved)
    assert (verdict.again, inside.binding(moved).address) == (False, None)
    again = inside.said.runs("m", "h2", incarnation=3)
    bench.start(again.task, "h2")
    await inside.reconcile(again)
    assert inside.binding(again).address == lost


async def test_a_leftover_on_another_host_is_detached_there() -> None:
    bench, inside, _ = await two_hosts()
    bench.start("left.task", "h2")
    left = {"op": "attach", "id": "l", "task_id": "left.task", "app": "/gone", "slot": 1, "instance": "left",
            "address": "10.64.5.1", "prefix": 29, "generation": 9}  # fmt: skip
    await bench.run("h2", [left], 1)
    instance = inside.said.runs("a", "h1")
    bench.start(instance.task)
    await inside.reconcile(instance)
    verdict = await inside.reconcile(instance)
    assert not verdict.again
    assert inside.binding(instance).address == "10.64.5.1"
    assert await addresses_on(bench, "h2") == set()


async def test_a_leftover_that_stays_does_not_hold_up_the_newcomer_for_ever() -> None:
    bench, inside, clock = await two_hosts()
    bench.start("left.task", "h2")
    left = {"op": "attach", "id": "l", "task_id": "left.task", "app": "/gone", "slot": 1, "instance": "left",
            "address": "10.64.5.1", "prefix": 29, "generation": 9}  # fmt: skip
    await bench.run("h2", [left], int(EPOCH))
    bench.run = removing_nothing(bench.run)  # type: ignore[method-assign]
    instance = inside.said.runs("a", "h1")
    bench.start(instance.task)
    verdict = await inside.reconcile(instance)
    assert verdict.again
    assert "left on h2" in verdict.reason
    clock.step(PATIENCE_S)
    verdict = await inside.reconcile(instance)
    assert not verdict.again
    assert inside.binding(instance).address == "10.64.5.2"
    assert "left on h2" in inside.note("10.64.5.1")


def removing_nothing(run: Any) -> Any:
    """A host that tells what it has, and on which no detach succeeds."""

    async def answers(host: str, operations: Sequence[Mapping[str, Any]], epoch: int) -> Any:
        if any(operation["op"] == "detach" for operation in operations):
            raise Retryable(f"{host} is busy")
        return await run(host, operations, epoch)

    return answers


async def test_a_port_whose_record_holds_the_address_is_left_alone() -> None:
    bench, inside, _ = await two_hosts()
    holder = inside.said.runs("h", "h2")
    bench.start(holder.task, "h2")
    await inside.reconcile(holder)
    taken = inside.binding(holder).address
    assert taken is not None
    newcomer = inside.said.runs("n", "h1")
    bench.start(newcomer.task)
    # The books went wrong: the newcomer has the lease that the holder lives on.
    lease = inside.book.by_address(taken)
    assert lease is not None
    await inside.records.commit(inside.book.plan_release(taken, keep=True, now=0.0, reason="test"))
    await inside.reconcile(newcomer)
    assert inside.binding(newcomer).address not in (None, taken)
    assert await addresses_on(bench, "h2") == {(taken, holder.id)}
    assert inside.state(taken) is LeaseState.CONFLICTED
    assert f"{holder.id} on h2" in inside.note(taken)


async def test_a_silent_host_is_named_because_it_may_be_the_one() -> None:
    bench, inside, _ = await two_hosts()
    instance = inside.said.runs("a", "h1")
    bench.start(instance.task)
    bench.world.silent.add("h2")
    with bench.stranger("10.64.5.1"):
        await inside.reconcile(instance)
    assert inside.note("10.64.5.1").endswith("could not be asked whether it is theirs: h2")
    assert inside.binding(instance).address == "10.64.5.2"


async def test_one_mac_cannot_use_up_a_pool() -> None:
    bench, inside, _ = await two_hosts("10.64.6.0/26")
    router = {f"10.64.6.{number}": STRANGER for number in range(1, 63)}
    bench.world.strangers.update(router)
    instance = inside.said.runs("a", "h1")
    bench.start(instance.task)
    verdict = await inside.reconcile(instance)
    assert verdict.again
    assert "proxy ARP" in verdict.reason
    assert inside.conflicts == 8
    bench.world.strangers.clear()
    assert not (await inside.reconcile(instance)).again
    assert inside.binding(instance).address == "10.64.6.9"


async def test_an_answer_that_was_lost_is_no_conflict_with_oneself() -> None:
    bench, inside, _ = await two_hosts()
    instance = inside.said.runs("a", "h1")
    bench.start(instance.task)

    async def lose(host: str) -> None:
        raise Retryable("the answer was lost")

    bench.world.after = lose
    assert (await inside.reconcile(instance)).again
    assert len(await _ports(bench)) == 1
    bench.world.after = _keep
    assert not (await inside.reconcile(instance)).again
    assert inside.conflicts == 0
    assert inside.binding(instance).address == "10.64.5.1"


async def test_only_a_place_that_is_certain_is_not_probed() -> None:
    bench, inside, _ = await two_hosts()
    asked: list[bool] = []
    run = bench.world.run

    async def listen(host: str, operations: Sequence[Mapping[str, Any]], epoch: int) -> Any:
        asked.extend(bool(one["detect"]) for one in operations if one["op"] == "attach")
        return await run(host, operations, epoch)

    bench.run = listen
    instance = inside.said.runs("a", "h1")
    bench.start(instance.task)
    await inside.reconcile(instance)
    assert asked == [True]
    again = inside.said.runs("a", "h1", incarnation=2)
    bench.start(again.task)
    await inside.reconcile(again)
    assert asked == [True, False]
    state = inside.binding(again).sink(NETWORK)
    assert isinstance(state.applied, PortSpec)
    doubted = inside.binding(again).with_sink(NETWORK, state.doubted())
    await inside.records.save(doubted)
    await inside.reconcile(again)
    assert asked == [True, False, True]
    moved = inside.said.runs("a", "h2", incarnation=3)
    bench.start(moved.task, "h2")
    await inside.reconcile(moved)
    assert asked == [True, False, True, True]
    assert inside.records.get(BindingId(moved.id)) is not None


async def _ports(bench: InMemory) -> Sequence[object]:
    return [port for host in bench.world.hosts.values() for port in host.ports.values()]


async def _keep(host: str) -> None:
    """No fault."""
