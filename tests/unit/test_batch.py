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
