"""What may come at an awkward moment or in an awkward form, and must not harm an address or the daemon."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mooring.controller.adopt import enter
from mooring.controller.store.memory import MemoryStore
from mooring.core.errors import Fenced, Refused, StoreBusy
from mooring.core.model import Epoch, HostName, SinkState
from mooring.core.sink import Conflict
from mooring.core.specs import PortSpec
from mooring.handlers.conflict import Conflicts
from mooring.handlers.fences import Fences
from mooring.handlers.hosts import Hosts, NetworkSink
from mooring.handlers.memory_hosts import MemoryHosts
from mooring.handlers.records import Records
from mooring.handlers.restart import Restarts
from mooring.handlers.wants import NETWORK
from tests.unit.fake_time import SteppedClock
from tests.unit.small_house import House
from tests.unit.test_weigh import held, judged, mark, plan_of, records_of

H1 = HostName("h1")


async def opened(records: Records) -> Records:
    store = records.store
    assert isinstance(store, MemoryStore)
    await store.open()
    await store.begin(Epoch(9))
    return records


def fences_of(records: Records, runner: Any) -> tuple[Fences, Hosts]:
    clock = SteppedClock()
    hosts = Hosts(runner, clock, Epoch(9))
    return Fences(hosts, records, clock, ["h1"], lambda key: None), hosts


async def test_what_a_worker_has_stored_since_the_survey_is_not_overwritten() -> None:
    binding, lease = held("10.0.0.2", "a")
    records = await opened(records_of((binding, lease)))
    weighed = judged(records)
    assert weighed.missing == [binding]
    moved = await records.save(replace(binding, host=HostName("h2")))
    await enter(records, weighed, {}, SteppedClock())
    assert records.get(binding.id) == moved


async def test_a_conflict_does_not_undo_what_was_stored_while_the_hosts_were_asked() -> None:
    binding, lease = held("10.0.0.2", "a")
    records = await opened(records_of((binding, lease)))
    changed = replace(binding, departing=True)

    class Slow(NetworkSink):
        async def observe(self) -> Any:
            await records.save(changed)
            return await super().observe()

    clock = SteppedClock()
    network = Slow(Hosts(MemoryHosts(["h1"]), clock, Epoch(9)), ["h1"])
    conflicts = Conflicts(network, records, clock, 10.0, lambda key: None, lambda: None)
    await conflicts.resolve(binding, Conflict("taken", "10.0.0.2", ("02:00:00:00:00:09",)))
    assert records.get(binding.id) == changed


async def test_two_operators_lift_one_fence_at_once() -> None:
    fences, hosts = fences_of(await opened(records_of()), MemoryHosts(["h1"]))
    await fences.fence(H1, "broken", force=True)
    await asyncio.gather(fences.unfence(H1), fences.unfence(H1))
    assert hosts.fenced == {}


async def test_a_newer_daemon_is_not_taken_for_a_silent_host() -> None:
    class Newer:
        async def prepare(self, host: str) -> None: ...

        async def run(self, host: str, operations: Any, epoch: int) -> Any:
            raise Fenced("a newer daemon was here")

    fences, hosts = fences_of(await opened(records_of()), Newer())
    with pytest.raises(Fenced):
        await fences.fence(H1, "silent")
    hosts.fenced["h1"] = "silent"
    with pytest.raises(Fenced):
        await fences.sweep()


@pytest.mark.parametrize("reason", ["", " ", "one\ntwo", "\x1b[2J", "x" * 501])
async def test_a_reason_is_one_line_that_can_be_shown(reason: str) -> None:
    records = await opened(records_of())
    fences, hosts = fences_of(records, MemoryHosts(["h1"]))
    with pytest.raises(Refused, match="reason"):
        await fences.fence(H1, reason, force=True)
    with pytest.raises(Refused, match="reason"):
        records.book.plan_reserve("10.0.0.9", reason, 0.0)
    assert hosts.fenced == {}


@pytest.mark.parametrize("address", ["", "10.0.0.2.evil", "010.0.0.2"])
def test_a_mark_that_names_no_address_has_its_port_removed_and_stops_nothing(address: str) -> None:
    records = records_of()
    weighed = judged(records, mark(address, "a"), mark("10.0.0.3", "b", slot=1))
    plan = plan_of(weighed, records)
    told = [(row.address, row.action) for row in plan.rows if row.action != "reserved"]
    assert told == [(address, "detach"), ("10.0.0.3", "keep")]


async def test_a_busy_store_or_sink_delays_the_beginning_and_does_not_prevent_it() -> None:
    it = await House().open(1)
    it.engine.grounded.clear()
    sink = next(sink for sink in it.engine.sinks if sink.name == NETWORK)
    failures = [StoreBusy("busy"), StoreBusy("busy")]

    async def prime(shown: Any) -> None:
        if failures:
            raise failures.pop()

    sink.prime = prime  # type: ignore[method-assign]
    begun = asyncio.ensure_future(it.engine.begin())
    for _ in range(50):
        await asyncio.sleep(0)
    await begun
    assert it.engine.grounded.is_set()
    assert not failures


async def test_what_an_earlier_seat_left_on_a_silent_host_does_not_take_the_present_seat_along() -> None:
    """A moved container lost its seat to a stranger while its old host was silent, and has another by now."""
    binding, lease = held("10.0.0.2", "a", host="h2")
    records = await opened(records_of((binding, lease)))
    earlier = PortSpec("h1", "a.1", "/web", 7, "a", "10.0.0.9", 24)
    moved = binding.with_sink(NETWORK, SinkState(None, None, (earlier,), 3))
    await records.save(moved)
    rest = await Restarts(records, SteppedClock(), 10.0).leave_behind(moved)
    assert (rest.id, rest.address, rest.sink(NETWORK).shown) == (binding.id, "10.0.0.2", ())
    [left] = [one for one in records.all() if one.departing]
    assert (left.host, left.address, left.sink(NETWORK).shown) == ("h1", None, (earlier,))
    assert records.book.by_address("10.0.0.2") == lease


async def test_without_a_seat_there_is_nothing_to_strand_either() -> None:
    binding, _ = held("10.0.0.2", "a", host="h2")
    records = await opened(records_of())
    waits = replace(binding, address=None, slot=None, pool=None)
    earlier = PortSpec("h1", "a.1", "/web", 7, "a", "10.0.0.9", 24)
    waits = await records.save(waits.with_sink(NETWORK, SinkState(None, None, (earlier,), 3)))
    rest = await Restarts(records, SteppedClock(), 10.0).leave_behind(waits)
    assert rest.sink(NETWORK).settled
    [left] = [one for one in records.all() if one.departing]
    assert left.sink(NETWORK).shown == (earlier,)
