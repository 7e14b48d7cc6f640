"""Hosts have accidents: each ends right, or in an error that names it, and the other hosts go on.

What went wrong is a real accident of a real part (see `lab.host_faults`).  While it lasts, something is
deployed that has to be served on the other hosts; afterwards everything is in step again, every address has
one port and one container, and no process of a play is left.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest_asyncio

from mooring.core.readmodel import InstanceRow
from mooring.lab import background, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.host_faults import AgentFaults
from mooring.lab.plan import BRIDGE, LabError, LabPlan
from mooring.lab.proofs import Proof, eventually
from mooring.lab.sample import DB, WEB, Operator, app
from tests.e2e import processes
from tests.e2e.evidence import DEADLINE_S, agreed, metric, rows, switch_ports

VICTIM = "agent-1"
OTHERS = ("agent-2", "agent-3")
STAYS = "/life/stays"  # on the host that has the accident
DEAD = "modead0"
REPLACED_AT_ONCE = {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0}
ROUND_S = 4.0  # `observe_every_s` of the daemon here; the lab's own is longer
GRACE_S = 3.0
JOBS_END_WITHIN_S = 45.0  # a play's own time, and its grace


@pytest_asyncio.fixture(autouse=True, scope="module", loop_scope="session")
async def looks_often(plan: LabPlan) -> AsyncIterator[None]:
    """The daemon of this file looks at its hosts more often than the lab's."""
    kept = plan.daemon_config.read_text()
    table = f"[host_life]\nobserve_every_s = {ROUND_S}\ncollect_after_s = {GRACE_S}\n\n"
    often = re.sub(r"(?m)^\[host_life\]\n(\S.*\n)*\n?", "", kept).replace("[hosts]", f"{table}[hosts]")
    await background.stop(plan)
    plan.daemon_config.write_text(often)
    yield
    await background.stop(plan)
    plan.daemon_config.write_text(kept)


@pytest_asyncio.fixture(loop_scope="session")
async def faults(handle: LabHandle) -> AsyncIterator[AgentFaults]:
    """A heavy hand on the host that has the accidents."""
    made = AgentFaults(handle, VICTIM)
    yield made
    await made.heal()


def on(hosts: tuple[str, ...]) -> list[list[str]]:
    """A constraint that keeps an app on these hosts."""
    return [["hostname", "LIKE", "|".join(hosts)]]


async def settled_on_the_victim(handle: LabHandle, operator: Operator) -> InstanceRow:
    """One instance on the host that will have the accident; nobody ends it because it is not well."""
    await operator.deploy(app(STAYS, 1, 8080, constraints=on((VICTIM,)), healthChecks=[]))
    await eventually(lambda: serves(handle, STAYS, 1), DEADLINE_S)
    (row,) = await rows(handle.plan, STAYS)
    assert row.host == VICTIM
    return row


async def others_go_on(handle: LabHandle, operator: Operator, name: str = WEB) -> None:
    """Something new is served on the other hosts meanwhile."""
    await operator.deploy(app(name, 2, 8080, constraints=on(OTHERS)))
    await eventually(lambda: serves(handle, name, 2), DEADLINE_S)
    assert {row.host for row in await rows(handle.plan, name)} <= set(OTHERS)


async def in_the_end(handle: LabHandle, operator: Operator, *apps: tuple[str, int]) -> list[Proof]:
    """Everything agrees, and nothing of the plays is left that was begun before."""
    proofs = await agreed(handle, operator, apps)
    then = processes.now()
    await eventually(lambda: _no_play_of(handle.plan, then), JOBS_END_WITHIN_S)
    return proofs


async def _no_play_of(plan: LabPlan, then: float) -> tuple[None, str]:
    daemon = supervise.pid_of(plan, background.NAME)
    assert daemon is not None
    left = processes.plays_left(daemon, then)
    return None, f"plays are left: {left}" if left else ""


def problem_of(plan: LabPlan, name: str, *words: str) -> Callable[[], Awaitable[tuple[str, str]]]:
    """Whether `mooring status` names one of these words as the problem of an instance of the app."""

    async def ask() -> tuple[str, str]:
        problems = [row.problem for row in await rows(plan, name)]
        told = next((one for one in problems if any(word in one for word in words)), "")
        return told, "" if told else f"problems of {name} are {problems}"

    return ask


async def port_of(handle: LabHandle, address: str | None) -> dict[str, str]:
    (port,) = [one for one in await switch_ports(handle) if one["mooring-address"] == address]
    return port


@asynccontextmanager
async def lost_to_marathon(operator: Operator) -> AsyncIterator[None]:
    """Marathon hears nothing of the host meanwhile."""
    await operator.send("POST", f"/lab/hosts/{VICTIM}/lose")
    try:
        yield
    finally:
        await operator.send("POST", f"/lab/hosts/{VICTIM}/return")


async def test_a_switch_daemon_that_dies_is_awaited_and_what_came_meanwhile_wired(
    plan: LabPlan, handle: LabHandle, operator: Operator, faults: AgentFaults
) -> None:
    before = await settled_on_the_victim(handle, operator)
    await faults.switch_dies()
    await operator.deploy(app(DB, 1, 8080, constraints=on((VICTIM,)), healthChecks=[]))
    await others_go_on(handle, operator)
    await eventually(problem_of(plan, DB, "ovs-vswitchd", "switch", "not put to use"), DEADLINE_S)
    await faults.switch_starts()
    proofs = await in_the_end(handle, operator, (STAYS, 1), (DB, 1), (WEB, 2))
    assert before.address in {proof.address for proof in proofs if proof.app == STAYS}
    assert (await handle.from_edge(str(before.address), 8080)).status == 200


async def test_a_host_that_reboots_comes_back_without_its_dead_ports(
    plan: LabPlan, handle: LabHandle, operator: Operator, faults: AgentFaults
) -> None:
    """Its switch remembers every port, and behind none of them lives anything; Marathon starts elsewhere."""
    await operator.deploy(app(STAYS, 2, 8080, unreachableStrategy=REPLACED_AT_ONCE, healthChecks=[]))
    await eventually(lambda: serves(handle, STAYS, 2), DEADLINE_S)
    mine = [row for row in await rows(plan, STAYS) if row.host == VICTIM]
    if not mine:  # both are elsewhere: one has to be here
        one = (await rows(plan, STAYS))[0]
        await operator.send("POST", f"/lab/instances/{one.instance}/move?host={VICTIM}")
        await eventually(lambda: _lives_on_the_victim(handle), DEADLINE_S)
        mine = [row for row in await rows(plan, STAYS) if row.host == VICTIM]
    async with lost_to_marathon(operator):
        await faults.loses_power()
        await others_go_on(handle, operator)
        await eventually(lambda: _replaced(handle, {row.instance for row in mine}), DEADLINE_S)
        assert not await _addresses(plan) & {row.address for row in mine}
        await faults.powers_up()
    await in_the_end(handle, operator, (STAYS, 2), (WEB, 2))  # every port is a living container's
    assert not await _addresses(plan) & {row.address for row in mine}


async def _lives_on_the_victim(handle: LabHandle) -> tuple[None, str]:
    _, problem = await serves(handle, STAYS, 2)
    there = [row for row in await rows(handle.plan, STAYS) if row.host == VICTIM]
    return None, problem or ("" if there else f"none lives on {VICTIM}")


async def _replaced(handle: LabHandle, lost: set[str]) -> tuple[None, str]:
    """Whether two others serve in place of those on the lost host."""
    found = [row for row in await rows(handle.plan, STAYS) if row.in_step and row.instance not in lost]
    return None, "" if len(found) == 2 else f"{len(found)} of 2 serve"


async def _addresses(plan: LabPlan) -> set[str | None]:
    return {row.address for row in await rows(plan, STAYS) if row.in_step}


@dataclass(frozen=True)
class Accident:
    """Something that passes: how it begins and ends, and what must be told of who suffers from it."""

    name: str
    begins: Callable[[AgentFaults], Awaitable[None]]
    ends: Callable[[AgentFaults], Awaitable[None]]
    words: tuple[str, ...]  # one of them is in the problem ...
    may_be_served: bool = False  # ... unless it is served all the same


async def hang(faults: AgentFaults) -> None:
    faults.hangs()


async def go_on(faults: AgentFaults) -> None:
    faults.goes_on()


ACCIDENTS = (
    Accident("engine", AgentFaults.loses_engine, AgentFaults.finds_engine, ("engine",)),
    # Wiring needs no room; a record of what was written does, and its lack is told of each instance.
    Accident("disk", AgentFaults.fills_up, AgentFaults.is_emptied, ("No space left",), may_be_served=True),
    Accident("ssh", hang, go_on, (f"host {VICTIM}",)),
)


async def test_what_passes_is_named_takes_nothing_away_and_delays_nobody_else(
    plan: LabPlan, handle: LabHandle, operator: Operator, faults: AgentFaults
) -> None:
    """The engine is stopped, the disk is full, ssh hangs: one after the other."""
    before = await settled_on_the_victim(handle, operator)
    port = await port_of(handle, before.address)
    await operator.deploy(app(WEB, 1, 8080, constraints=on(OTHERS)))
    for count, accident in enumerate(ACCIDENTS, start=2):
        await accident.begins(faults)
        await operator.scale(STAYS, 2)
        await operator.scale(WEB, count)
        await eventually(lambda: serves(handle, WEB, count), DEADLINE_S)  # noqa: B023
        named = problem_of(plan, STAYS, *accident.words)
        await eventually(lambda: named_or_served(handle, accident, named), DEADLINE_S)  # noqa: B023
        assert await port_of(handle, before.address) == port, accident.name
        await accident.ends(faults)
        await eventually(lambda: serves(handle, STAYS, 2), DEADLINE_S)
        await operator.scale(STAYS, 1)
        await eventually(lambda: serves(handle, STAYS, 1), DEADLINE_S)
    assert (await handle.from_edge(str(before.address), 8080)).status == 200
    await in_the_end(handle, operator, (STAYS, 1), (WEB, 1 + len(ACCIDENTS)))
    assert await metric(plan, "mooring_ports_collected_total") == 0


async def serves(handle: LabHandle, name: str, count: int) -> tuple[None, str]:
    """Whether so many instances are in step, and each answers on its address."""
    found = [row for row in await rows(handle.plan, name) if row.in_step and row.address]
    if len(found) != count or len(await rows(handle.plan, name)) != count:
        return None, f"{len(found)} of {count} instances of {name} are in step"
    for row in found:
        try:
            page = await handle.from_edge(str(row.address), 8080)
        except LabError as error:
            return None, str(error)
        if page.body.strip() != row.task:
            return None, f"{row.address} answers as {page.body!r}"
    return None, ""


async def named_or_served(handle: LabHandle, accident: Accident, named: Any) -> tuple[None, str]:
    _, problem = await named()
    _, unserved = await serves(handle, STAYS, 2)
    return None, problem if unserved or not accident.may_be_served else ""


async def test_a_container_started_anew_by_hand_is_wired_again_and_a_dead_port_collected(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    """Marathon has overlooked the one, and its health is not checked; a round of the host finds both."""
    before = await settled_on_the_victim(handle, operator)
    port = await port_of(handle, before.address)
    instance = before.task.partition("._app.")[0]
    await operator.send("POST", f"/lab/instances/{instance}/overlook")
    await dig_up_a_port(handle, port)
    await handle.docker_restart(before.task)
    await eventually(lambda: _another_port(handle, before.address, port["name"]), DEADLINE_S)
    await eventually(lambda: _collected(plan, 1), DEADLINE_S)
    (after,) = await in_the_end(handle, operator, (STAYS, 1))  # and the dead port is gone
    assert (after.task, after.address) == (before.task, before.address)
    assert await metric(plan, "mooring_repairs_total", sink="network", kind="different") >= 1


async def _another_port(handle: LabHandle, address: str | None, name: str) -> tuple[None, str]:
    found = [one["name"] for one in await switch_ports(handle) if one["mooring-address"] == address]
    return None, "" if len(found) == 1 and name not in found else f"{address} is on {found}"


async def dig_up_a_port(handle: LabHandle, beside: dict[str, str]) -> None:
    """The switch has an old port again, as from an old copy of its database."""
    marks = {key: value for key, value in beside.items() if key.startswith("mooring-")}
    marks |= {"mooring-address": "10.64.3.77", "mooring-instance": "old.instance-1", "mooring-app": "/old",
              "mooring-task": "old.instance-1._app.1", "mooring-container": "f00d@long-ago"}  # fmt: skip
    words = [f'external_ids:{key}="{value}"' for key, value in marks.items()]
    await handle.exec_in(VICTIM, [
        "ovs-vsctl", "--timeout=10", "--no-wait", "add-port", BRIDGE, DEAD, "--", "set", "port", DEAD, *words,
        "--", "set", "interface", DEAD, *words,
    ])  # fmt: skip


async def _collected(plan: LabPlan, count: int) -> tuple[None, str]:
    there = await metric(plan, "mooring_ports_collected_total", kind="port")
    return None, "" if there == count else f"{there:g} ports were collected"


async def test_a_host_in_maintenance_is_left_alone_until_its_people_are_done(
    plan: LabPlan, handle: LabHandle, operator: Operator, faults: AgentFaults
) -> None:
    before = await settled_on_the_victim(handle, operator)
    code, output = await background.command(plan, "hosts", "maintain", VICTIM, "--reason", "new disks")
    assert code == 0, output
    await operator.scale(STAYS, 2)
    faults.hangs()  # nobody notices
    await others_go_on(handle, operator)
    await eventually(problem_of(plan, STAYS, f"waits for `mooring hosts resume {VICTIM}`"), DEADLINE_S)
    code, output = await background.command(plan, "hosts")
    assert (code, "new disks" in output) == (0, True), output
    _, output = await background.command(plan, "status")
    assert f"maintenance: {VICTIM} (new disks)" in output
    assert await metric(plan, "mooring_hosts", state="maintenance") == 1
    assert await metric(plan, "mooring_hosts", state="silent") == 0
    assert [one["mooring-address"] for one in await switch_ports(handle) if one["host"] == VICTIM] == [
        before.address
    ]
    faults.goes_on()
    code, output = await background.command(plan, "hosts", "resume", VICTIM)
    assert code == 0, output
    await in_the_end(handle, operator, (STAYS, 2), (WEB, 2))
