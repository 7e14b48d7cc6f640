"""The whole controller, simulated: seeds of chaos.  What a seed must keep stands in `promises.py`.

`make check` plays `SEEDS` stories.  More:     MOORING_SIM_SEEDS=1000 pytest tests/sim/test_simulation.py
One alone, such as number 1234:                MOORING_SIM_SEED=1234 pytest tests/sim/test_simulation.py

A story depends on nothing but its seed and the code; a seed that fails prints the end of its trace, and
does the same thing again whenever it is played.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sim.story import tell

SEEDS = int(os.environ.get("MOORING_SIM_SEEDS", "64"))
ONLY = os.environ.get("MOORING_SIM_SEED")


@pytest.mark.parametrize("seed", [int(ONLY)] if ONLY else range(SEEDS))
def test_seed(seed: int, directory: Path) -> None:
    tell(seed, directory)


def test_a_story_depends_on_its_seed_alone(directory: Path) -> None:
    traces = []
    for name in ("first", "again"):
        (directory / name).mkdir()
        traces.append(tell(7, directory / name).world.trace.lines)
    assert traces[0] == traces[1]
