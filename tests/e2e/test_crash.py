"""The daemon dies at the worst moments; what it held is neither lost nor given out twice.

Whoever has an address is asked of the containers and of the switches, during the whole test and at its end.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from mooring.lab import background, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabError, LabPlan
from mooring.lab.proofs import Proof, eventually
from mooring.lab.sample import DB, WEB, Operator, app, sample_apps
from tests.e2e.churn import Churn, counted
from tests.e2e.evidence import (
    DEADLINE_S,
    agreed,
    beside,
    metric,
    status,
    switch_ports,
    traces_besides,
    watched_addresses,
)

SIDE, LATE = "/shop/side", "/shop/late"
FLIGHT = b"MOORING_FLIGHT="
KILLS = int(os.environ.get("MOORING_TEST_KILLS", "8"))  # `make churn` asks for 20
TRANSITIONS = 10 * KILLS
LONGEST_LIFE_S = 4.0  # of a daemon that is killed
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


@pytest.mark.timeout(600)
async def test_killed_at_random_moments_of_a_churn(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    seed = int(os.environ.get("MOORING_TEST_SEED") or random.randrange(10**6))
    print(f"MOORING_TEST_SEED={seed}")
    churn = Churn(handle, operator, random.Random(seed))
    async with watched_addresses(handle) as watching, counted(plan) as containers:
        await churn.begin()
        deaths = Deaths(plan, random.Random(seed + 1))
        async with asyncio.TaskGroup() as both:
            both.create_task(deaths.happen())
            both.create_task(churn.go_on(TRANSITIONS, share=lambda: (deaths.count + 1) / KILLS))
        served = agreed(handle, operator, sorted(churn.wanted.items()), deadline_s=180.0)
        proofs = await as_marathon_lists(plan, served)
    print(f"{churn.transitions} transitions, {containers}, {watching.looks} looks")
    assert containers.started + containers.ended >= TRANSITIONS
    assert watching.looks >= KILLS
    await eventually(lambda: traces_besides(handle, proofs), DEADLINE_S)
    await eventually(lambda: settled(plan), DEADLINE_S)
    await eventually(lambda: bound_exactly(plan, {proof.address for proof in proofs}), DEADLINE_S)
    assert {(proof.app, proof.task, proof.address) for proof in proofs} == {
        (proof.app, proof.task, proof.address)
        for proof in await agreed(handle, operator, sorted(churn.wanted.items()))
    }


@dataclass
class Deaths:
    """kill -9, `KILLS` times, at moments that nobody chose; every other time in the middle of the start."""

    plan: LabPlan
    chance: random.Random
    count: int = 0

    async def happen(self) -> None:
        while self.count < KILLS:
            delay_s = self.chance.uniform(0.0, LONGEST_LIFE_S)
            await asyncio.sleep(delay_s)
            await background.stop(self.plan, signal.SIGKILL)
            self.count += 1
            print(f"kill {self.count} after {delay_s:.3f} s")
            if self.count % 2:
                supervise.spawn(self.plan, background.part(self.plan))
            else:
                await background.start(self.plan)


async def as_marathon_lists(plan: LabPlan, proven: Awaitable[list[Proof]]) -> list[Proof]:
    """The same proofs; meanwhile an operator who knows that Marathon's listing is right releases the brake.

    What ended while no daemon lived is missing without a word, and may be more than the brake lets pass.
    """

    async def release() -> None:
        while True:
            with suppress(LabError):  # the daemon is on its way
                if reason := (await status(plan)).overview.brake:
                    print(f"released by hand: {reason}")
                    await background.command(plan, "brake", "release")
            await asyncio.sleep(1.0)

    async with beside(release()):
        return await proven


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
        for replaced in range(1, 4):
            await eventually(lambda: running_besides(operator, old, replaced), DEADLINE_S)  # noqa: B023
            await background.stop(plan, signal.SIGKILL)
            await background.start(plan)
        after = await agreed(handle, operator, [(DB, 1), (WEB, 3)], gone=old)
    # An instance that ended while nobody listened keeps its seat until its absence is certain, so its
    # successor may have another address; but then the old one must have been given back.
    await eventually(lambda: bound_exactly(plan, {proof.address for proof in after}), DEADLINE_S)


async def running_besides(operator: Operator, old: set[str], count: int) -> tuple[None, str]:
    fresh = {str(task.id) for task in await operator.running(WEB)} - old
    return None, "" if len(fresh) >= count else f"{len(fresh)} of {count} are replaced"


async def bound_exactly(plan: LabPlan, addresses: set[str]) -> tuple[None, str]:
    told = {lease["address"] for lease in await background.leases(plan) if lease["state"] == "bound"}
    return None, "" if told == addresses else f"bound are {sorted(told)} instead of {sorted(addresses)}"


async def test_sigterm_ends_it_within_its_limit_and_leaves_no_process(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await operator.deploy(app(WEB, 4, 8080))
    work_dir = await eventually(lambda: flying_from(plan), DEADLINE_S)
    began = time.monotonic()
    await background.stop(plan, signal.SIGTERM, GRACE_S)
    assert time.monotonic() - began < GRACE_S
    assert processes_with(str(work_dir)) == []
    assert not work_dir.exists()
    await background.start(plan)
    await agreed(handle, operator, [(WEB, 4)])
    assert await metric(plan, "mooring_reconcile_errors_total") == 0


async def flying_from(plan: LabPlan) -> tuple[Path, str]:
    """The directory in which the daemon keeps all it needs for plays, once one is on its way."""
    for pid in supervise.find_all(plan):
        with suppress(OSError):  # it may have ended
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if entry.startswith(FLIGHT):
                    return Path(os.fsdecode(entry.removeprefix(FLIGHT))).parent, ""
    return Path(), "no play is on its way"


def processes_with(word: str) -> list[str]:
    """Every process of the machine that has the word in its command line or environment.

    A shared ssh connection writes its socket's path over its command line and environment.
    """
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may have ended
            told = (place / "cmdline").read_bytes() + b"\0" + (place / "environ").read_bytes()
            if word.encode() in told:
                found.append(told.partition(b"\0\0")[0].replace(b"\0", b" ").decode(errors="replace"))
    return found
