"""The simulation's own floor: virtual time, seeded order, and no way out into the real world."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from mooring.controller.store.runners import inline
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.batch import Batcher
from mooring.core.clock import Clock
from mooring.core.model import BindingId, Epoch, SinkName
from mooring.core.sink import Change, Done, Observation, Outcome
from mooring.core.specs import Spec
from mooring.core.store import HistoryQuery, Note
from tests.sim.loop import (
    SIMULATION_BEGINS,
    Deadlock,
    Livelock,
    NotSimulated,
    SimClock,
    Unhandled,
    VirtualLoop,
    simulate,
)


def test_days_pass_in_no_time() -> None:
    async def main(loop: VirtualLoop) -> float:
        await asyncio.sleep(10 * 86_400.0)
        return loop.time()

    begun = time.perf_counter()
    assert simulate(main) == 10 * 86_400.0
    assert time.perf_counter() - begun < 1.0


def test_timers_fire_in_their_order_at_exactly_their_time() -> None:
    async def main(loop: VirtualLoop) -> list[tuple[float, float]]:
        fired: list[tuple[float, float]] = []

        def note(due: float) -> None:
            fired.append((due, loop.time()))

        delays = [0.1 * n for n in range(1, 40)] + [1e-9, 86_400.1, 0.0]
        for delay in delays:
            loop.call_at(delay, note, delay)
        await asyncio.sleep(100_000)
        return fired

    fired = simulate(main, seed=3)
    assert len(fired) == 42
    assert all(due == at for due, at in fired)
    assert fired == sorted(fired)


def test_cancelled_timers_do_not_move_the_clock() -> None:
    async def main(loop: VirtualLoop) -> float:
        for _ in range(500):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), timeout=0.01)
            loop.call_later(1000.0, print).cancel()
        return loop.time()

    assert simulate(main) == pytest.approx(5.0)


async def interleaving(loop: VirtualLoop) -> str:
    trace: list[str] = []
    lock = asyncio.Lock()

    async def walker(name: str) -> None:
        for step in range(4):
            await asyncio.sleep(0 if step % 2 else 0.5)
            async with lock:
                trace.append(name)
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in "abcde":
            group.create_task(walker(name))
    return "".join(trace)


def test_one_seed_is_one_interleaving_and_seeds_differ() -> None:
    traces = [simulate(interleaving, seed) for seed in range(30)]
    assert traces == [simulate(interleaving, seed) for seed in range(30)]
    assert len(set(traces)) > 25


def test_the_interleaving_is_the_same_in_another_process() -> None:
    code = "from tests.sim.test_loop import *; print(simulate(interleaving, 7))"
    root = Path(__file__).parents[2]
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={"PYTHONPATH": f"{root}:{root / 'src'}", "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == simulate(interleaving, 7)


def test_tasks_that_are_ready_together_run_in_any_order() -> None:
    async def main(loop: VirtualLoop) -> str:
        trace: list[str] = []
        for name in "abc":
            loop.call_later(1.0, trace.append, name)
        await asyncio.sleep(2.0)
        return "".join(trace)

    assert {simulate(main, seed) for seed in range(60)} == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_a_deadlock_is_told_and_not_waited_for() -> None:
    ended: list[str] = []

    async def main(loop: VirtualLoop) -> None:
        async def patient() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(1.0)
                ended.append("cleaned up")

        await asyncio.sleep(5.0)
        await asyncio.gather(patient(), patient())

    with pytest.raises(Deadlock, match=r"at 5\.000 s: 3 tasks wait"):
        simulate(main)
    assert ended == ["cleaned up"] * 2


def test_a_livelock_is_told() -> None:
    async def main(loop: VirtualLoop) -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match=r"stands still at 0\.000 s"):
        simulate(main)


def test_errors_reach_the_caller() -> None:
    async def main(loop: VirtualLoop) -> None:
        await asyncio.sleep(1.0)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        simulate(main)


@pytest.mark.parametrize("how", ["callback", "lost task", "task at the end"])
def test_errors_that_nobody_awaits_are_not_lost(how: str) -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(1.0)
        finally:
            raise ValueError("nobody looks")

    async def main(loop: VirtualLoop) -> None:
        if how == "callback":
            loop.call_later(1.0, int, "nobody looks")
        else:
            kept = loop.create_task(fails())
            loop.call_later(3.0, print, kept) if how == "task at the end" else None
            del kept
        await asyncio.sleep(0.5 if how == "task at the end" else 2.0)

    with pytest.raises(Unhandled, match="nobody looks"):
        simulate(main)


def test_what_main_leaves_running_is_ended() -> None:
    ended: list[str] = []

    async def ticker() -> AsyncIterator[int]:
        try:
            while True:
                await asyncio.sleep(1.0)
                yield 1
        finally:
            ended.append("generator")

    async def background() -> None:
        try:
            async for _ in ticker():
                pass
        finally:
            ended.append("task")

    async def main(loop: VirtualLoop) -> None:
        loop.create_task(background(), name="ticking")
        await asyncio.sleep(3.5)
        assert [task.get_name() for task in loop.living()] == ["task-1", "ticking"]

    simulate(main)
    assert sorted(ended) == ["generator", "task"]


def test_the_real_world_is_out_of_reach() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        attempts = [
            asyncio.to_thread(print),
            asyncio.open_connection("127.0.0.1", 9),
            asyncio.open_connection("localhost", 9),
            asyncio.start_server(lambda *_: None, "127.0.0.1", 0),
            asyncio.create_subprocess_exec("true"),
            asyncio.create_subprocess_shell("true"),
        ]
        told = [await asyncio.gather(attempt, return_exceptions=True) for attempt in attempts]
        with pytest.raises(NotSimulated):
            loop.add_signal_handler(15, print)
        return [type(one).__name__ for [one] in told]

    assert simulate(main) == ["NotSimulated"] * 6


def test_other_threads_are_refused() -> None:
    refused: list[BaseException] = []

    async def main(loop: VirtualLoop) -> None:
        def intrude() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except NotSimulated as error:
                refused.append(error)

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()

    simulate(main)
    assert len(refused) == 1


def test_the_clock_tells_the_loops_time() -> None:
    async def main(loop: VirtualLoop) -> None:
        clock: Clock = SimClock(loop)
        assert (clock.now(), clock.monotonic()) == (SIMULATION_BEGINS, 0.0)
        await clock.sleep(60.0)
        assert (clock.now(), clock.monotonic()) == (SIMULATION_BEGINS + 60.0, 60.0)
        assert isinstance(clock, SimClock)
        clock.step(-3600.0)
        assert (clock.now(), clock.monotonic()) == (SIMULATION_BEGINS - 3540.0, 60.0)

    simulate(main)


class SlowSink:
    """Every flight takes half a minute."""

    name = SinkName("slow")

    def lane(self, change: Change) -> str:
        return "only"

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        await asyncio.sleep(30.0)
        return [Done()] * len(changes)

    async def observe(self) -> Observation:
        return Observation()

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        return None

    async def check(self) -> str:
        return "ready"


def test_the_batcher_lives_on_it() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, float]:
        batcher = Batcher(SlowSink(), SimClock(loop), window_s=1.0)
        changes = [Change(BindingId(f"b{n}"), None, (), 1, Epoch(1)) for n in range(20)]
        outcomes = await asyncio.gather(*(batcher.submit(change) for change in changes))
        return outcomes.count(Done()), loop.time()

    assert {simulate(main, seed) for seed in range(20)} == {(20, 31.0)}


def test_the_store_lives_on_it(tmp_path: Path) -> None:
    """Real SQLite, run inline: callers gather in groups, and everybody's order of writing is kept."""

    async def main(loop: VirtualLoop) -> list[float]:
        store = SqliteStore(tmp_path / "store.db", inline)
        contents = await store.open()
        await store.begin(Epoch(contents.epoch + 1))

        async def caller(first: int) -> None:
            for number in range(first, first + 5):
                await store.commit([Note(float(number), "bound", "x", str(first))])

        await asyncio.gather(*(caller(10 * n) for n in range(8)))
        notes = await store.history(HistoryQuery(address="30", limit=5))
        assert len(await store.history(HistoryQuery(limit=1000))) == 40 * (contents.epoch + 1)
        await store.close()
        return [note.at for note in notes]

    for seed in range(10):
        assert simulate(main, seed) == [34.0, 33.0, 32.0, 31.0, 30.0]


def test_a_sleep_is_cheap() -> None:
    async def main(loop: VirtualLoop) -> None:
        for _ in range(20_000):
            await asyncio.sleep(1.0)

    begun = time.perf_counter()
    simulate(main)
    assert (time.perf_counter() - begun) / 20_000 < 100e-6  # measured 6 to 10 µs; the bound is generous
