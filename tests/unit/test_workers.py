"""The workers: what they say about problems, and that they let others run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from structlog.testing import capture_logs

from mooring.controller.queue import WorkQueue
from mooring.controller.reconcile import Verdict
from mooring.controller.workers import Workers
from mooring.core.clock import SystemClock
from mooring.core.model import BindingId


class Scripted:
    """Reconciles to the verdict that is set for a key."""

    def __init__(self, verdicts: Mapping[str, Verdict]) -> None:
        self.verdicts = dict(verdicts)
        self.seen: list[str] = []

    async def reconcile(self, key: BindingId) -> Verdict:
        self.seen.append(key)
        return self.verdicts.get(key, Verdict())


async def work(reconciler: Scripted, *rounds: Mapping[str, Verdict]) -> list[str]:
    """Run all keys through once for each round; the reasons that were logged."""
    queue: WorkQueue[BindingId] = WorkQueue(SystemClock(), random.Random(1))
    workers = Workers(queue, reconciler, SystemClock(), 4, lambda key: False)  # type: ignore[arg-type]
    with capture_logs() as lines:
        running = asyncio.create_task(workers.run())
        for verdicts in rounds:
            reconciler.verdicts = dict(verdicts)
            reconciler.seen.clear()
            for key in verdicts:
                queue.add(BindingId(key))
            async with asyncio.timeout(5):
                while len(reconciler.seen) < len(verdicts) or queue.processing():
                    await asyncio.sleep(0)
        queue.close()
        await running
    return [line["reason"] for line in lines]


async def test_a_problem_is_logged_once_however_many_have_it_and_again_when_it_came_back() -> None:
    refused, well = Verdict(reason="app /bad: refused"), Verdict()
    many = {f"i{number}": refused for number in range(50)}
    cured = dict.fromkeys(many, well)
    assert await work(Scripted({}), many, many) == [refused.reason]
    assert await work(Scripted({}), many, cured, many) == [refused.reason] * 2


async def test_a_second_problem_of_the_same_instance_is_logged() -> None:
    rounds = [{"i": Verdict(reason=reason)} for reason in ("one", "one", "two", "one")]
    assert await work(Scripted({}), *rounds) == ["one", "two", "one"]


async def test_keys_that_wait_for_nothing_do_not_hold_up_the_loop() -> None:
    queue: WorkQueue[BindingId] = WorkQueue(SystemClock(), random.Random(1))
    workers = Workers(queue, Scripted({}), SystemClock(), 16, lambda key: False)  # type: ignore[arg-type]
    for number in range(20_000):
        queue.add(BindingId(f"i{number}"))
    running = asyncio.create_task(workers.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert queue.depth() > 0  # we run, and the line is not empty yet
    queue.close()
    await running
