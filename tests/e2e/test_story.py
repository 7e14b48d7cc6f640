"""The whole story of a service, as `mooring lab demo` tells and proves it."""

from __future__ import annotations

import pytest
from rich.console import Console

from mooring.lab.demo import Demo
from mooring.lab.plan import LabPlan
from tests.e2e.evidence import metric


@pytest.mark.timeout(600)
async def test_every_chapter_of_the_demo_is_proven(plan: LabPlan) -> None:
    demo = Demo(plan, Console(width=250))
    await demo.deploy()
    await demo.everything()
    assert await metric(plan, "mooring_reconcile_errors_total") == 0
