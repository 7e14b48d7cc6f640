"""More instances than addresses: those without one wait and say why, and nobody else has to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection

from mooring.core.readmodel import InstanceRow, Phase
from mooring.lab import background
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import Proof, eventually, gather
from mooring.lab.sample import WEB, Operator, app
from tests.e2e.evidence import DEADLINE_S, beside, rows, switch_ports, watched_addresses
from tests.e2e.small_pool import COOLING_S, POOL, addresses, configured, shrunk, tenant

CROWD = "/crowd/all"
SIZE, WANTED = 10, 12
WHY = f"pool {POOL} has no address left for {CROWD} ({SIZE} in all)"
LOOK_EVERY_S = 0.2
COOLS_AND_IS_SERVED_S = 120.0


async def test_ten_are_served_and_two_wait_until_an_address_has_cooled(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    async with configured(plan, shrunk(SIZE)), watched_addresses(handle):
        await operator.deploy(tenant(CROWD, WANTED, {"MOORING_IP_POLICY": "task"}))
        served = await eventually(lambda: serving(handle, operator, SIZE), DEADLINE_S)
        assert {proof.address for proof in served} == set(addresses(SIZE))
        waiting = await eventually(lambda: wait_for_an_address(plan, WANTED - SIZE), DEADLINE_S)
        await status_says_why(plan, waiting)

        await operator.deploy(app(WEB, 2, 8080))  # another pool has room
        await eventually(lambda: others_are_served(handle, operator), DEADLINE_S)
        await wait_for_an_address(plan, WANTED - SIZE)

        await killed_for_good_and_followed(plan, handle, operator, served[0])
        await operator.delete(CROWD)
        await operator.delete(WEB)
        await eventually(lambda: no_port_is_left(handle), DEADLINE_S)


async def serving(handle: LabHandle, operator: Operator, count: int) -> tuple[list[Proof], str]:
    """The proofs of those of the crowd that are served in every way, once there are so many."""
    found = [proof for proof in await gather(handle, operator, CROWD) if not proof.missing()]
    return found, "" if len(found) == count else f"{len(found)} of {count} are served"


async def wait_for_an_address(plan: LabPlan, count: int) -> tuple[list[InstanceRow], str]:
    found = [row for row in await rows(plan, CROWD) if row.phase is Phase.WAITING]
    told = [row.problem for row in found]
    right = len(found) == count and all(WHY in problem for problem in told)
    return found, "" if right and not any(row.address for row in found) else f"waiting: {told}"


async def status_says_why(plan: LabPlan, waiting: Collection[InstanceRow]) -> None:
    """To people and to programs."""
    code, output = await background.command(plan, "status", "--app", CROWD, "--json")
    told = json.loads(output)
    assert (code, told["in_step"]) == (1, False)
    behind = {row["instance"]: row["problem"] for row in told["instances"] if row["problem"]}
    assert behind.keys() == {row.instance for row in waiting}
    assert all(WHY in problem for problem in behind.values())
    code, output = await background.command(plan, "status", "--app", CROWD)
    assert code == 1
    assert " ".join(output.split()).count(WHY) == len(waiting)


async def others_are_served(handle: LabHandle, operator: Operator) -> tuple[None, str]:
    found = [proof for proof in await gather(handle, operator, WEB) if not proof.missing()]
    return None, "" if len(found) == 2 else f"{len(found)} of 2 instances of {WEB} are served"


async def killed_for_good_and_followed(
    plan: LabPlan, handle: LabHandle, operator: Operator, victim: Proof
) -> None:
    """One of those served goes and is not replaced: its address serves one that waits, after cooling."""
    absent = Absent(handle, victim.address)
    async with beside(absent.look()):
        await operator.send("DELETE", f"/v2/apps{CROWD}/tasks/{victim.task}?scale=true&force=true")
        await eventually(lambda: heir_is_served(handle, operator, victim), COOLS_AND_IS_SERVED_S)
    assert absent.longest_s >= COOLING_S, "the address was given out before it had cooled"
    await eventually(lambda: wait_for_an_address(plan, WANTED - SIZE - 1), DEADLINE_S)


async def heir_is_served(handle: LabHandle, operator: Operator, victim: Proof) -> tuple[None, str]:
    found, problem = await serving(handle, operator, SIZE)
    heirs = [proof for proof in found if proof.address == victim.address and proof.task != victim.task]
    return None, problem or ("" if heirs else f"nobody new has {victim.address}")


class Absent:
    """For how long an address was on no switch, at most: a look takes its time."""

    def __init__(self, handle: LabHandle, address: str) -> None:
        self._handle = handle
        self._address = address
        self.longest_s = 0.0

    async def look(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        seen_at = loop.time()
        while True:
            asked_at = loop.time()
            if self._address in {port["mooring-address"] for port in await switch_ports(self._handle)}:
                self.longest_s = max(self.longest_s, loop.time() - seen_at)
                seen_at = asked_at
            await asyncio.sleep(LOOK_EVERY_S)


async def no_port_is_left(handle: LabHandle) -> tuple[None, str]:
    left = await switch_ports(handle)
    return None, f"{len(left)} ports are left" if left else ""
