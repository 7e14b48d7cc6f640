"""One host for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.host_module.fabric_rig import FabricRig, fabric_rig
from tests.integration.host_module.rig import HostRig, hosted


@pytest.fixture(scope="session")
def rig() -> Iterator[HostRig]:
    """Each test uses addresses and containers of its own."""
    with hosted() as made:
        yield made


@pytest.fixture(scope="module")
def guardian(rig: HostRig) -> Iterator[None]:
    """The resident program that restores the rules, for the tests of one module."""
    with rig.guardian():
        yield


@pytest.fixture(scope="session")
def fabric(rig: HostRig) -> Iterator[FabricRig]:
    """Three hosts more, with the containers of the first."""
    with fabric_rig(rig.engine) as made:
        yield made
