"""What is done before a container runs: it saves a question, and it never decides anything."""

from __future__ import annotations

import asyncio

import pytest

from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change
from mooring.core.specs import PortSpec
from mooring.handlers.ahead import FRESH_S
from mooring.handlers.hosts import Hosts, NetworkSink
from mooring.handlers.memory_hosts import MemoryHosts
from tests.unit.fake_time import SteppedClock

SEAT = PortSpec("h1", "t1", "/a", 0, "i1", "10.0.0.2", 24)


class House:
    """A network sink over hosts in memory that remembers what plays were asked to do."""

    def __init__(self) -> None:
        self.world = MemoryHosts(["h1", "h2"])
        self.clock = SteppedClock()
        self.hosts = Hosts(self, self.clock, Epoch(1))
        self.sink = NetworkSink(self.hosts, ["h1", "h2"])
        self.prepared: list[str] = []
        self.world.place("h1", "t1")

    async def prepare(self, host: str) -> None:
        self.prepared.append(host)

    async def run(self, host, operations, epoch):  # type: ignore[no-untyped-def]
        self.asked = [dict(operation) for operation in operations]
        return await self.world.run(host, operations, epoch)

    async def expect(self, task: str = "t1", host: str = "h1", *addresses: str) -> None:
        self.sink.expect(task, host, addresses, None)
        while self.hosts.ahead._tasks:
            await asyncio.gather(*self.hosts.ahead._tasks)

    async def attach(self) -> bool:
        """Whether the attach asked the wire."""
        await self.sink.apply([Change(BindingId("i1"), SEAT, (), 1, Epoch(1))])
        [operation] = self.asked
        return bool(operation["detect"])


@pytest.fixture
def house() -> House:
    return House()


async def test_an_address_that_was_silent_a_moment_ago_is_not_asked_for_again(house: House) -> None:
    await house.expect("t1", "h1", SEAT.address)
    assert house.prepared == ["h1"]
    assert not await house.attach()
    assert await house.attach()  # what was heard serves one attach


async def test_an_attach_waits_for_the_answer_that_is_on_its_way(house: House) -> None:
    may_go_on = asyncio.Event()

    async def hold(host: str) -> None:
        await may_go_on.wait()

    house.world.before = hold
    house.sink.expect("t1", "h1", (SEAT.address,), None)
    attach = asyncio.create_task(house.attach())
    await asyncio.sleep(0)
    may_go_on.set()
    assert not await attach


async def test_silence_goes_stale(house: House) -> None:
    await house.expect("t1", "h1", SEAT.address)
    house.clock.step(FRESH_S + 1)
    assert await house.attach()


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("h2", [SEAT.address]), ("h1", ["10.0.0.3"]), ("h1", []), ("h1", [SEAT.address, "fd00::2"])],
)
async def test_silence_elsewhere_says_nothing(house: House, host: str, addresses: list[str]) -> None:
    await house.expect("t1", host, *addresses)
    assert await house.attach()


async def test_an_answer_leaves_the_question_to_the_attach(house: House) -> None:
    house.world.strangers[SEAT.address] = "0e:00:00:00:00:01"
    await house.expect("t1", "h1", SEAT.address)
    assert await house.attach()


async def test_a_silent_host_is_met_by_the_attach_and_harms_nobody(house: House) -> None:
    house.world.silent.add("h1")
    await house.expect("t1", "h1", SEAT.address)
    house.world.silent.clear()
    assert await house.attach()


async def test_a_task_is_prepared_for_once_and_only_where_we_work(house: House) -> None:
    for _ in range(3):
        await house.expect("t1", "h1", SEAT.address)
    await house.expect("t2", "elsewhere")
    house.hosts.fenced["h2"] = "burnt"
    await house.expect("t3", "h2")
    assert house.prepared == ["h1"]


async def test_a_port_that_comes_to_have_the_address_ends_what_was_known(house: House) -> None:
    await house.expect("t9", "h2", SEAT.address)
    assert await house.attach()  # on h1
    assert not house.hosts.ahead.was_silent("h2", (SEAT.address,))
