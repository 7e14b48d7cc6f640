"""The work queue, on a clock that moves only when told."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.controller.queue import Priority, QueueClosed, WorkQueue

LIVE, RESYNC = Priority.LIVE, Priority.RESYNC


class ManualClock:
    """A clock whose sleepers wake only in `advance`."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time + seconds, self._count, future))
        await future

    async def advance(self, seconds: float) -> None:
        end = self.time + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.time, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await settle()
        self.time = end


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> WorkQueue[str]:
    return WorkQueue(clock, random.Random(1), base_s=1.0, cap_s=10.0)


async def take(queue: WorkQueue[str]) -> str:
    return await asyncio.wait_for(queue.get(), 1)


async def test_first_in_first_out_and_once(queue: WorkQueue[str]) -> None:
    for key in ("a", "b", "a", "c", "b"):
        queue.add(key)
    assert queue.depth() == 3
    assert [await take(queue) for _ in range(3)] == ["a", "b", "c"]
    assert (queue.depth(), queue.processing(), queue.adds) == (0, 3, 5)


async def test_a_key_added_at_work_runs_once_more_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await take(queue) == "a"
    queue.add("a")
    queue.add("a")
    assert queue.depth() == 0
    queue.done("a")
    assert await take(queue) == "a"
    queue.done("a")
    assert queue.depth() == 0


async def test_live_goes_before_resync(queue: WorkQueue[str]) -> None:
    queue.add("r1", RESYNC)
    queue.add("r2", RESYNC)
    queue.add("l1")
    queue.add("r2")
    queue.add("l1", RESYNC)
    assert (queue.depth(LIVE), queue.depth(RESYNC)) == (2, 1)
    assert [await take(queue) for _ in range(3)] == ["l1", "r2", "r1"]


async def test_the_higher_priority_of_a_key_at_work_is_remembered(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await take(queue)
    queue.add("a")
    queue.add("a", RESYNC)
    queue.add("b", RESYNC)
    queue.done("a")
    assert queue.depth(LIVE) == 1


async def test_workers_wait_and_each_gets_its_own_key(queue: WorkQueue[str]) -> None:
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await settle()
    for key in ("a", "b", "c"):
        queue.add(key)
    assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]


async def test_a_cancelled_worker_passes_its_call_on(queue: WorkQueue[str]) -> None:
    first, second = (asyncio.create_task(queue.get()) for _ in range(2))
    await settle()
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 1) == "a"


async def test_add_after_waits_and_the_earliest_counts(queue: WorkQueue[str], clock: ManualClock) -> None:
    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("a", 7)
    queue.add_after("b", 6)
    queue.add_after("now", 0)
    assert (queue.depth(), queue.delayed()) == (1, 2)
    await clock.advance(5)
    assert (queue.depth(), queue.delayed()) == (2, 1)
    await clock.advance(1)
    assert [await take(queue) for _ in range(3)] == ["now", "a", "b"]
    await clock.advance(100)
    assert queue.depth() == 0


async def test_back_off_grows_is_jittered_and_is_forgotten(queue: WorkQueue[str]) -> None:
    delays = [[queue.retry(f"k{key}") for _ in range(6)] for key in range(200)]
    for attempt, ceiling in enumerate([1, 2, 4, 8, 10, 10]):
        drawn = [delay[attempt] for delay in delays]
        assert max(drawn) <= ceiling
        assert max(drawn) > 0.9 * ceiling
        assert min(drawn) < 0.1 * ceiling
    assert queue.failures("k1") == 6
    queue.succeeded("k1")
    assert queue.failures("k1") == 0
    assert queue.retry("k1") <= 1
    assert queue.retries == 1201


async def test_a_failure_may_name_its_own_delay(queue: WorkQueue[str], clock: ManualClock) -> None:
    assert queue.retry("a", 3.5) == 3.5
    await clock.advance(3.4)
    assert queue.depth() == 0
    await clock.advance(0.2)
    assert queue.depth() == 1


async def test_drain_waits_for_work_in_hand_only(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("b")
    queue.add_after("c", 1)
    await take(queue)
    waiting = asyncio.create_task(queue.drain())
    await settle()
    assert not waiting.done()
    queue.add("a")
    queue.done("a")
    await asyncio.wait_for(waiting, 1)
    with pytest.raises(QueueClosed):
        await queue.get()


async def test_idle_workers_are_told_of_the_close(queue: WorkQueue[str]) -> None:
    worker = asyncio.create_task(queue.get())
    await settle()
    queue.close()
    with pytest.raises(QueueClosed):
        await asyncio.wait_for(worker, 1)


async def test_durations_are_reported(clock: ManualClock) -> None:
    waited: list[float] = []
    worked: list[float] = []
    queue: WorkQueue[str] = WorkQueue(clock, random.Random(1), waited=waited.append, worked=worked.append)
    queue.add("a")
    await clock.advance(2)
    await take(queue)
    await clock.advance(3)
    assert queue.running_s() == (3,)
    queue.done("a")
    assert (waited, worked, queue.running_s()) == ([2], [3], ())


@settings(deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_key_is_ever_with_two_workers_and_none_is_lost(seed: int) -> None:
    asyncio.run(_random_run(random.Random(seed)))


async def _random_run(chance: random.Random) -> None:
    clock = ManualClock()
    queue: WorkQueue[str] = WorkQueue(clock, chance, base_s=1.0, cap_s=4.0)
    at_work: Counter[str] = Counter()
    unseen: set[str] = set()

    async def work() -> None:
        while True:
            try:
                key = await queue.get()
            except QueueClosed:
                return
            at_work[key] += 1
            assert at_work[key] == 1
            unseen.discard(key)
            await clock.sleep(chance.uniform(0, 3))
            at_work[key] -= 1
            if chance.random() < 0.3:
                queue.retry(key)
            else:
                queue.succeeded(key)
            queue.done(key)

    workers = [asyncio.create_task(work()) for _ in range(3)]
    for _ in range(40):
        key = f"k{chance.randrange(6)}"
        unseen.add(key)
        if chance.random() < 0.3:
            queue.add_after(key, chance.uniform(0, 5))
        else:
            queue.add(key, chance.choice([LIVE, RESYNC]))
        await clock.advance(chance.uniform(0, 1))
    await clock.advance(200)
    assert not unseen
    assert (queue.depth(), queue.delayed(), queue.processing()) == (0, 0, 0)
    await queue.drain()
    await asyncio.gather(*workers)


async def test_a_held_key_meets_no_worker_and_is_worked_on_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    async with queue.held("a"):
        queue.add("b")
        assert await queue.get() == "b"
        taken = asyncio.create_task(queue.get())
        await settle()
        queue.add("a")
        await settle()
        assert not taken.done()
        queue.done("b")
    assert await taken == "a"
    queue.done("a")
    assert queue.depth() == 0


async def test_who_holds_a_key_waits_for_its_worker(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await queue.get()
    order: list[str] = []

    async def hold(name: str) -> None:
        async with queue.held("a"):
            order.append(name)
            await settle()
            order.append(name)

    holders = [asyncio.create_task(hold(name)) for name in ("one", "two")]
    await settle()
    assert order == []
    queue.done("a")
    await asyncio.gather(*holders)
    assert order in (["one", "one", "two", "two"], ["two", "two", "one", "one"])


async def test_a_holder_counts_as_at_work_when_the_queue_drains(queue: WorkQueue[str]) -> None:
    async with queue.held("a"):
        drained = asyncio.create_task(queue.drain())
        await settle()
        assert not drained.done()
    await drained
