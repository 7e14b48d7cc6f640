"""Strokes: who works for long lets others run, and many workers share one stroke a turn."""

from __future__ import annotations

import asyncio

from mooring.controller.breath import Breath
from tests.unit.fake_time import SteppedClock


async def test_within_its_stroke_work_is_not_interrupted() -> None:
    clock = SteppedClock()
    breath = Breath(clock, stroke_s=1.0)
    others: list[str] = []
    asyncio.get_running_loop().call_soon(others.append, "ran")
    for _ in range(9):
        clock.step(0.1)
        await breath.draw()
    assert others == []
    clock.step(0.2)
    await breath.draw()
    assert others == ["ran"]


async def test_workers_together_get_one_stroke_a_turn() -> None:
    clock = SteppedClock()
    breath = Breath(clock, stroke_s=1.0)
    worked_in_turn: list[int] = []
    turn = 0

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    async def work() -> None:
        for _ in range(20):
            worked_in_turn.append(turn)
            clock.step(0.5)
            await breath.draw()

    counting = asyncio.create_task(count_turns())
    await asyncio.gather(*(work() for _ in range(8)))
    counting.cancel()
    busiest = max(worked_in_turn.count(each) for each in set(worked_in_turn[8:]) - {0})
    assert len(worked_in_turn) == 160
    assert busiest <= 2  # two pieces of work fill a stroke, whoever does them
