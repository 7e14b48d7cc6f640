"""The inbox between reading and applying: order, turns, bounds, and a listener with a defect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mooring.cext import Frame
from mooring.controller.inbox import DEFAULT_INBOX, Inbox
from tests.unit.fake_time import SteppedClock


class Heard:
    """Writes down what it is told; each event takes `cost_s` of the clock's time."""

    def __init__(self, clock: SteppedClock | None = None, cost_s: float = 0.0) -> None:
        self.notes: list[str] = []
        self._clock = clock or SteppedClock()
        self._cost_s = cost_s

    def attached(self) -> None:
        self.notes.append("attached")

    def event(self, frame: Frame) -> None:
        self._clock.step(self._cost_s)
        self.notes.append(frame.data.decode())
        if frame.event == "defect":
            raise KeyError(frame.data.decode())

    def lost(self, reason: str) -> None:
        self.notes.append(f"lost {reason}")

    def detached(self, reason: str) -> None:
        self.notes.append(f"detached {reason}")


def events(*names: object, event: str = "a") -> list[Frame]:
    return [Frame(event, str(name).encode()) for name in names]


def inbox(heard: Heard, clock: SteppedClock | None = None, limit: int = DEFAULT_INBOX) -> Inbox:
    def broken(reason: str) -> None:
        heard.notes.append(reason)

    return Inbox(heard, clock or SteppedClock(), limit, broken)


@asynccontextmanager
async def applying(box: Inbox) -> AsyncIterator[None]:
    task = asyncio.create_task(box.apply())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def passes(count: int) -> None:
    """Let everybody run so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_events_and_marks_are_told_in_order() -> None:
    heard = Heard()
    box = inbox(heard)
    box.put(events(1, 2))
    box.attached()
    box.put(events(3))
    box.lost("oversized")
    box.put([])
    box.detached("silent")
    assert (heard.notes, box.behind) == ([], 3)
    async with applying(box):
        await passes(3)
        assert heard.notes == ["1", "2", "attached", "3", "lost oversized", "detached silent"]
        assert (box.behind, box.max_behind) == (0, 3)
        box.put(events(4))
        await passes(3)
        assert heard.notes[-1] == "4"


async def test_a_turn_is_bounded_in_time() -> None:
    clock = SteppedClock()
    heard = Heard(clock, cost_s=0.001)
    box = inbox(heard, clock)
    box.put(events(*range(100)))
    async with applying(box):
        await passes(1)
        assert 5 <= len(heard.notes) < 25  # five milliseconds, and the rest of a batch
        await passes(20)
        assert len(heard.notes) == 100


async def test_a_turn_is_bounded_where_time_stands_still() -> None:
    heard = Heard()
    box = inbox(heard)
    box.put(events(*range(2000)))
    async with applying(box):
        await passes(1)
        assert 0 < len(heard.notes) < 1000
        await passes(10)
        assert heard.notes == [str(number) for number in range(2000)]


async def test_large_events_are_timed_one_by_one() -> None:
    clock = SteppedClock()
    heard = Heard(clock, cost_s=0.01)
    box = inbox(heard, clock)
    box.put([Frame("deployment_info", b"x" * 100_000)] * 10)
    async with applying(box):
        await passes(1)
        assert len(heard.notes) == 1


async def test_what_does_not_fit_is_dropped_and_told_once_in_its_place() -> None:
    heard = Heard()
    box = inbox(heard, limit=1000)
    box.put(events("a" * 500))
    box.put(events("b" * 500))
    box.put(events("c" * 500, "d"))
    box.put(events("e"))
    box.put(events("f" * 500))
    assert (box.overflowed, box.behind) == (4, 2)
    async with applying(box):
        await passes(3)
        assert heard.notes == ["a" * 500, "lost overflow", "e", "lost overflow"]
        box.put(events("g" * 500))
        await passes(3)
        assert heard.notes[-1] == "g" * 500


async def test_tiny_events_count_with_what_they_take_in_memory() -> None:
    box = inbox(Heard(), limit=100_000)
    for _ in range(2000):
        box.put(events(""))
    assert 500 < box.behind < 1000
    assert box.behind + box.overflowed == 2000


async def test_an_event_larger_than_the_inbox_passes_alone() -> None:
    heard = Heard()
    box = inbox(heard, limit=1000)
    box.put(events("x" * 5000))
    async with applying(box):
        await passes(3)
    assert (heard.notes, box.overflowed) == (["x" * 5000], 0)


async def test_after_a_defect_waiting_events_are_dropped_and_marks_are_not() -> None:
    heard = Heard()
    box = inbox(heard)
    box.put([*events(1), *events("bad", event="defect"), *events(2)])
    box.detached("closed")
    box.put(events(3))
    box.attached()
    async with applying(box):
        await passes(5)
        assert heard.notes == [
            "1",
            "bad",
            "listener failed: KeyError: 'bad'",
            "detached closed",
            "attached",
        ]
        assert box.behind == 0
        box.put(events(4))
        await passes(3)
        assert heard.notes[-1] == "4"


@given(st.lists(st.one_of(st.integers(0, 40), st.sampled_from(["attached", "lost", "detached", "run"]))))
def test_nothing_is_lost_doubled_or_reordered(steps: list[int | str]) -> None:
    async def live() -> None:
        heard = Heard()
        box = inbox(heard)
        told: list[str] = []
        number = 0
        async with applying(box):
            for step in steps:
                match step:
                    case int():
                        box.put(events(*range(number, number + step)))
                        told += [str(one) for one in range(number, number + step)]
                        number += step
                    case "attached":
                        box.attached()
                        told.append("attached")
                    case "lost":
                        box.lost(f"oversized {number} {len(told)}")
                        told.append(f"lost oversized {number} {len(told)}")
                    case "detached":
                        box.detached("cut")
                        told.append("detached cut")
                    case _:
                        await asyncio.sleep(0)
            await passes(2 + len(told) // 16)
        assert heard.notes == told
        assert box.behind == 0

    asyncio.run(live())


async def test_after_a_defect_and_after_an_overflow_the_inbox_is_as_roomy_as_new() -> None:
    heard = Heard()
    box = inbox(heard, limit=400)
    async with applying(box):
        for _ in range(3):
            box.put(events("x" * 200, event="defect"))
            await passes(4)
            box.put(events("fits"))
            box.put(events("y" * 300))  # does not, beside the other
            await passes(4)
    assert heard.notes.count("fits") == 3
    assert box.overflowed == 3
    assert (box._bytes, box.behind) == (0, 0)


async def test_each_overflow_is_logged_once() -> None:
    box = inbox(Heard(), limit=300)
    with capture_logs() as lines:
        async with applying(box):
            for _ in range(2):
                box.put(events("fits"))
                box.put(events("y" * 300))
                box.put(events("z" * 300))
                await passes(4)
    assert [line["event"] for line in lines] == ["events dropped"] * 2
