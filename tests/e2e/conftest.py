"""One lab and one daemon for all end-to-end tests, and a clean data centre for each of them.

The lab is a real one (containers, switches, servers) with a name and ports of its own.  It is made once;
remains of a run that was killed are cleared first.  Before each test everything serves; after each test every
fault is lifted, every app deleted, and no trace of an address may be left, which is a proof in itself.  If
even that fails, the lab is made anew so that one broken test does not drag the others along.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from mooring.lab import background, edges, lifecycle, remains, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import DEFAULT_PARENT, LabError, LabPlan
from mooring.lab.proofs import eventually
from mooring.lab.sample import Operator
from tests.e2e.evidence import metric

HERE = Path(__file__).parent
NAME = os.environ.get("MOORING_TEST_LAB", "test")  # another name and base: a second run beside the first
PLAN = LabPlan(NAME, DEFAULT_PARENT / NAME, int(os.environ.get("MOORING_TEST_PORT_BASE", "26000")))
CLEAN_WITHIN_S = 90.0
_LOG_TAIL = 60  # lines
_ENDS_WITHIN_S = 5.0


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Every test here needs the lab, runs on the loop of the session, and may take a while."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.root)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(240))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the daemon's log with every failure: the lab is gone when somebody reads of it."""
    report = yield
    log = supervise.log_file(PLAN, background.NAME)
    if report.failed and HERE in item.path.parents and log.exists():
        lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]
        report.sections.append(("the daemon's log", "\n".join(lines)))
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plan() -> AsyncIterator[LabPlan]:
    """A lab that is up."""
    lifecycle.down(PLAN)
    try:
        await lifecycle.up(PLAN)
        yield PLAN
        await _end_gently(PLAN)
    finally:
        lifecycle.down(PLAN)


async def _end_gently(plan: LabPlan) -> None:
    """Let the Python parts end by themselves, so that what they have measured of themselves is written."""
    await background.stop(plan)
    pids = [supervise.pid_of(plan, name) for name in ("marathon", "cmdb", "doors")]
    for pid in filter(None, pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    give_up = asyncio.get_running_loop().time() + _ENDS_WITHIN_S
    while any(supervise.pid_of(plan, name) for name in ("marathon", "cmdb", "doors")):
        if asyncio.get_running_loop().time() > give_up:
            return  # `down` is not gentle
        await asyncio.sleep(0.05)


@pytest.fixture
def handle(plan: LabPlan) -> LabHandle:
    """A hand on the lab."""
    return LabHandle(plan)


@pytest.fixture
def operator(plan: LabPlan) -> Operator:
    """A hand on Marathon."""
    return Operator(plan)


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def daemon(plan: LabPlan, handle: LabHandle, operator: Operator) -> AsyncIterator[None]:
    """The daemon serves when a test begins; nothing of the test is left when it has ended."""
    await background.start(plan)
    yield
    try:
        await restored(plan, handle, operator)
        await emptied(plan, handle, operator)
    except Exception:
        lifecycle.down(plan)
        await lifecycle.up(plan)
        raise


async def restored(plan: LabPlan, handle: LabHandle, operator: Operator) -> None:
    """Lift every fault that a test can have made, and have the plain daemon running."""
    await operator.send("DELETE", "/lab/faults")
    await operator.send("POST", "/lab/streams/resume")
    for host in await operator.send("GET", "/lab/hosts"):
        if not host["reachable"]:
            await handle.return_host(host["name"])
            await operator.send("POST", f"/lab/hosts/{host['name']}/return")
    for part in edges.parts(plan):
        if supervise.pid_of(plan, part.name) is None:
            await supervise.start(plan, part)
    await background.start(plan)
    if any("mooring rebuild" in reason for reason in (await background.status(plan))["readiness"]):
        await background.command(plan, "rebuild", "--yes", timeout_s=180.0)
    if await metric(plan, "mooring_hosts", state="fenced"):
        for host in json.loads((await background.command(plan, "hosts", "--json"))[1]):
            if host["state"] == "fenced":
                await background.command(plan, "hosts", "unfence", host["host"])
    for host in (await background.status(plan))["overview"]["maintained"]:
        await background.command(plan, "hosts", "resume", host)
    for app in (await background.status(plan))["overview"]["paused"]:
        await background.command(plan, "resume", *([] if app == "*" else [app]))


async def emptied(plan: LabPlan, handle: LabHandle, operator: Operator) -> None:
    """Delete all apps and wait until nothing is left of them."""
    for app in await operator.apps():
        await operator.delete(app)
    await eventually(lambda: _no_containers(handle), CLEAN_WITHIN_S)
    await eventually(lambda: remains.nothing_left(handle), CLEAN_WITHIN_S)


async def _no_containers(handle: LabHandle) -> tuple[None, str]:
    try:
        left = [container.task_id for container in await handle.containers()]
    except LabError as error:
        return None, str(error)
    return None, f"containers of {left} are left" if left else ""
