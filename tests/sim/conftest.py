"""Where the simulated daemons keep their stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim import seeds


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where the machine has such a place, because each commit is flushed."""
    with seeds.directory() as made:
        yield made
