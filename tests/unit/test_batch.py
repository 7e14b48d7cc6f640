"""Lanes: one flight at a time in each, company gathered, failures shared out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mooring.core.batch import Lanes
from mooring.core.clock import SystemClock
from mooring.core.errors import Retryable


class Airport:
    """Records flights; each stays in the air until it is told to land."""

    def __init__(self) -> None:
        self.flights: list[tuple[str, list[int]]] = []
        self.may_land: dict[str, asyncio.Event] = {}

    async def send(self, lane: str, items: Sequence[int]) -> Sequence[int]:
        self.flights.append((lane, list(items)))
        if -1 in items:
            raise Retryable("a bad one on board")
        await self.may_land.setdefault(lane, asyncio.Event()).wait()
        return [item * 10 for item in items]


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


@pytest.fixture
def airport() -> Airport:
    return Airport()


def lanes(airport: Airport, largest: int = 200) -> Lanes[int, int]:
    return Lanes(airport.send, SystemClock(), window_s=0.0, largest=largest)


async def test_what_arrives_during_a_flight_leaves_together(airport: Airport) -> None:
    all_lanes = lanes(airport)
    first = asyncio.create_task(all_lanes.submit("a", 1))
    await until(lambda: airport.flights)
    later = [asyncio.create_task(all_lanes.submit("a", n)) for n in (2, 3, 4)]
    await until(lambda: all_lanes.depth() == 3)
    airport.may_land["a"].set()
    assert await asyncio.gather(first, *later) == [10, 20, 30, 40]
    assert airport.flights == [("a", [1]), ("a", [2, 3, 4])]


async def test_a_stuck_lane_does_not_hold_up_another(airport: Airport) -> None:
    all_lanes = lanes(airport)
    stuck = asyncio.create_task(all_lanes.submit("dead", 1))
    await until(lambda: airport.flights)
    airport.may_land["alive"] = asyncio.Event()
    airport.may_land["alive"].set()
    assert await asyncio.wait_for(all_lanes.submit("alive", 2), 5) == 20
    assert not stuck.done()
    airport.may_land["dead"].set()
    assert await stuck == 10


async def test_a_failed_flight_fails_those_on_board_only(airport: Airport) -> None:
    all_lanes = lanes(airport, largest=1)
    airport.may_land["a"] = asyncio.Event()
    airport.may_land["a"].set()
    results = await asyncio.gather(*(all_lanes.submit("a", n) for n in (1, -1, 2)), return_exceptions=True)
    assert results[0] == 10
    assert isinstance(results[1], Retryable)
    assert results[2] == 20


async def test_a_wrong_number_of_results_reaches_everyone() -> None:
    async def short(lane: str, items: Sequence[int]) -> Sequence[int]:
        return []

    broken: Lanes[int, int] = Lanes(short, SystemClock(), window_s=0.0)
    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        await broken.submit("a", 1)


async def test_a_cancelled_waiter_does_not_take_the_others_along(airport: Airport) -> None:
    all_lanes = lanes(airport)
    gone = asyncio.create_task(all_lanes.submit("a", 1))
    stays = asyncio.create_task(all_lanes.submit("a", 2))
    await until(lambda: airport.flights)
    gone.cancel()
    airport.may_land["a"].set()
    assert await stays == 20


async def test_who_gave_up_waiting_does_not_fly(airport: Airport) -> None:
    all_lanes = lanes(airport)
    flying = asyncio.create_task(all_lanes.submit("a", 1))
    await until(lambda: airport.flights)
    gone = asyncio.create_task(all_lanes.submit("a", 2))
    await until(lambda: all_lanes.depth() == 1)
    gone.cancel()
    again = asyncio.create_task(all_lanes.submit("a", 2))
    await until(lambda: all_lanes.depth() == 2)
    airport.may_land["a"].set()
    assert (await flying, await again) == (10, 20)
    assert airport.flights == [("a", [1]), ("a", [2])]


async def test_close_answers_those_who_wait(airport: Airport) -> None:
    all_lanes = lanes(airport)
    flying = asyncio.create_task(all_lanes.submit("a", 1))
    await until(lambda: airport.flights)
    waiting = asyncio.create_task(all_lanes.submit("a", 2))
    await until(lambda: all_lanes.depth() == 1)
    airport.may_land["a"].set()
    await all_lanes.close()
    assert await flying == 10
    with pytest.raises(Retryable, match="stopping"):
        await waiting


class Windows:
    """A clock whose windows end when the test says so."""

    def __init__(self) -> None:
        self.open = 0
        self._may_end = asyncio.Semaphore(0)

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.open += 1
        await self._may_end.acquire()

    def end_one(self) -> None:
        self._may_end.release()


@pytest.mark.parametrize(("company", "windows"), [([], 1), ([2], 2), ([2, 3], 3), ([2, 3, 4], 3)])
async def test_a_lane_waits_on_while_company_comes(
    airport: Airport, company: list[int], windows: int
) -> None:
    clock = Windows()
    patient: Lanes[int, int] = Lanes(airport.send, clock, windows=3)
    waiting = [asyncio.create_task(patient.submit("a", 1))]
    for number, item in enumerate(company[:2], start=1):
        await until(lambda number=number: clock.open == number)
        waiting.append(asyncio.create_task(patient.submit("a", item)))
        await until(lambda number=number: patient.depth() == number + 1)
        clock.end_one()
    await until(lambda: clock.open == windows)
    late = [asyncio.create_task(patient.submit("a", item)) for item in company[2:]]
    await until(lambda: patient.depth() == len(company) + 1)
    clock.end_one()
    await until(lambda: airport.flights)
    assert (airport.flights, clock.open) == ([("a", [1, *company])], windows)
    airport.may_land["a"].set()
    await asyncio.gather(*waiting, *late)
