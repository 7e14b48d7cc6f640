"""Where the simulated daemons keep their stores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory where the machine has such a place, because each commit is flushed."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="mooring-sim-", dir=memory if os.access(memory, os.W_OK) else None))
    yield made
    shutil.rmtree(made)
