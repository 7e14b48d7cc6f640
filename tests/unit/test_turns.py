"""The turns of a real event loop, and what is shown of them."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import CollectorRegistry

from mooring.core.clock import SystemClock
from mooring.portal.metrics import Metrics
from mooring.portal.pulse import Pulse
from mooring.portal.turns import Turns, timed_loop
from tests.unit.fake_daemon import FakeDaemon
from tests.unit.fake_time import SteppedClock


def run_blocking_for(*seconds: float) -> Turns:
    """The turns of a loop in which something blocks for so long, each time in a turn of its own."""
    turns = Turns()

    async def block() -> None:
        for each in seconds:
            await asyncio.sleep(0.001)
            time.sleep(each)
        await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=lambda: timed_loop(turns, SystemClock())) as runner:
        runner.run(block())
    return turns


def test_a_blocked_turn_is_measured_whole_wherever_it_falls() -> None:
    turns = run_blocking_for(0.03, 0.12)
    assert turns.longest_s >= 0.12
    assert turns.total_s >= 0.15


class CountingClock(SystemClock):
    """Each look at it is one second later than the one before, however long that really was."""

    def __init__(self) -> None:
        self.looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        return float(self.looks)


def test_waiting_is_no_turn() -> None:
    turns, clock = Turns(), CountingClock()
    with asyncio.Runner(loop_factory=lambda: timed_loop(turns, clock)) as runner:
        runner.run(asyncio.sleep(0.2))
    # From an answer to the next question is one look; from a question to its answer is not part of a turn.
    assert sum(turns.counts) > 2
    assert turns.total_s == sum(turns.counts)
    assert turns.longest_s == 1.0


def test_a_scrape_shows_every_turn_in_its_bucket() -> None:
    turns = Turns()
    for seconds in (0.0005, 0.001, 0.04, 7.0):
        turns.took(seconds)
    metrics = Metrics(CollectorRegistry(), "1", framer="c")
    metrics.collect_from(FakeDaemon(), Pulse(SteppedClock()), turns)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"mooring_event_loop_{name}", labels)

    shown = [value("turn_seconds_bucket", le=bound) for bound in ("0.001", "0.025", "0.05", "2.5", "+Inf")]
    assert shown == [2, 2, 3, 3, 4]
    assert value("turn_seconds_sum") == turns.total_s
    assert value("longest_turn_seconds") == 7.0
