"""The daemon dies at the worst moments; what it held is neither lost nor given out twice.

Whoever has an address is asked of the containers and of the switches, during the whole test and at its end.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time

import pytest

from mooring.lab import background, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import Proof, eventually
from mooring.lab.sample import DB, WEB, Operator, app, sample_apps
from tests.e2e.evidence import (
    DEADLINE_S,
    agreed,
    marked_processes,
    metric,
    status,
    switch_ports,
    watched_addresses,
)

SIDE, LATE = "/shop/side", "/shop/late"
GRACE_S = 25.0  # the daemon lets walks end for 20 s after SIGTERM


async def deployed(operator: Operator, handle: LabHandle) -> list[Proof]:
    for definition in (*sample_apps(), app(SIDE, 1, 8081)):
        await operator.deploy(definition)
    return await agreed(handle, operator, [(DB, 1), (WEB, 3), (SIDE, 1)])


async def more_ports_than(handle: LabHandle, count: int) -> None:
    async def ask() -> tuple[None, str]:
        there = len(await switch_ports(handle))
        return None, "" if there > count else f"{there} ports are attached"

    await eventually(ask, DEADLINE_S)


async def changed_behind_its_back(operator: Operator, handle: LabHandle, victim: Proof) -> None:
    """What people and machines do while nobody listens."""
    await handle.docker_kill(victim.task)
    await operator.delete(SIDE)
    await operator.scale(WEB, 4)
    await operator.deploy(app(LATE, 2, 8082))


async def test_kill_in_a_scale_up_and_changes_while_it_is_down(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    before = await deployed(operator, handle)
    db = next(proof for proof in before if proof.app == DB)
    async with watched_addresses(handle):
        await operator.scale(WEB, 6)
        await more_ports_than(handle, len(before))
        await background.stop(plan, signal.SIGKILL)
        await changed_behind_its_back(operator, handle, db)
        await until_running(operator, {DB: 1, WEB: 4, SIDE: 0, LATE: 2}, but_not={db.task})
        await background.start(plan)
        after = await agreed(handle, operator, [(DB, 1), (WEB, 4), (LATE, 2)], gone={db.task})
    healed = next(proof for proof in after if proof.app == DB)
    assert healed.address == db.address
    assert await files_tell(after) == {f"db {db.address} 5432"}
    kept = {proof.address for proof in before} & {proof.address for proof in after if proof.app == WEB}
    assert len(kept) >= 2, "at most two of the three first containers were in the way of the scale-down"


async def until_running(operator: Operator, apps: dict[str, int], but_not: set[str]) -> None:
    """Wait until Marathon itself has done what it was told."""

    async def ask() -> tuple[None, str]:
        there = await operator.apps()
        tasks = {name: await operator.running(name) if name in there else [] for name in apps}
        wrong = {name: len(tasks[name]) for name in apps if len(tasks[name]) != apps[name]}
        old = but_not & {str(task.id) for found in tasks.values() for task in found}
        return None, f"running: {wrong}, still: {old}" if wrong or old else ""

    await eventually(ask, DEADLINE_S)


async def files_tell(proofs: list[Proof]) -> set[str]:
    return {(proof.file or "").strip() for proof in proofs if proof.app == WEB}


@pytest.mark.parametrize("seed", [1, 2])
async def test_kill_at_a_random_moment_of_a_deployment(
    plan: LabPlan, handle: LabHandle, operator: Operator, seed: int
) -> None:
    delay_s = random.Random(seed * time.time_ns()).uniform(0.0, 3.0)
    print(f"killed after {delay_s:.3f} s")
    async with watched_addresses(handle):
        for definition in sample_apps():
            await operator.deploy(definition)
        await asyncio.sleep(delay_s)
        await background.stop(plan, signal.SIGKILL)
        await background.start(plan)
        proofs = await agreed(handle, operator, [(DB, 1), (WEB, 3)])
    db = next(proof for proof in proofs if proof.app == DB)
    await eventually(lambda: settled(plan), DEADLINE_S)
    told = await agreed(handle, operator, [(WEB, 3), (DB, 1)])
    assert await files_tell(told) == {f"db {db.address} 5432"}


async def settled(plan: LabPlan) -> tuple[None, str]:
    found = await status(plan)
    behind = [f"{row.instance}: {row.phase} {row.problem}" for row in found.instances if not row.in_step]
    return None, "; ".join([*behind, *found.readiness])


async def test_killed_three_times_during_a_rolling_restart(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    for definition in sample_apps():
        await operator.deploy(definition)
    before = await agreed(handle, operator, [(DB, 1), (WEB, 3)])
    old = {proof.task for proof in before if proof.app == WEB}
    async with watched_addresses(handle):
        await operator.restart(WEB)
        for _ in range(3):
            await replaced_more(operator, old)
            await background.stop(plan, signal.SIGKILL)
            await background.start(plan)
        after = await agreed(handle, operator, [(DB, 1), (WEB, 3)], gone=old)
    assert {proof.address for proof in after} == {proof.address for proof in before}


async def replaced_more(operator: Operator, old: set[str]) -> None:
    """Wait until the restart has replaced one more of the old tasks; takes that one out of `old`'s count."""

    async def ask() -> tuple[set[str], str]:
        there = {str(task.id) for task in await operator.running(WEB)}
        return there, "" if there else "nothing runs"

    await eventually(ask, DEADLINE_S)


async def test_sigterm_ends_it_within_its_limit_and_leaves_no_process(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await operator.deploy(app(WEB, 4, 8080))
    await eventually(lambda: plays_fly(plan), DEADLINE_S)
    began = time.monotonic()
    await background.stop(plan, signal.SIGTERM, GRACE_S)
    took = time.monotonic() - began
    assert took < GRACE_S
    for word in ("ansible", "ssh: ", "mooring.controller", "/ssh "):
        assert marked_processes(plan, word) == []
    await background.start(plan)
    await agreed(handle, operator, [(WEB, 4)])
    assert await metric(plan, "mooring_reconcile_errors_total") == 0


async def plays_fly(plan: LabPlan) -> tuple[None, str]:
    return None, "" if marked_processes(plan, "ansible-playbook") else "no play is on its way"
