"""The store is lost while a host is down: nothing is given out that may be in use, and nobody notices.

Whoever has an address is asked of containers and switches during the whole test, those of the host that is
down included; and every container is pinged all the time.
"""

from __future__ import annotations

import asyncio
import signal
import time
import tomllib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from mooring.core.readmodel import InstanceRow, Phase
from mooring.lab import background
from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import Proof, eventually, gather, proven
from mooring.lab.remains import marked_addresses
from mooring.lab.sample import Operator
from tests.e2e.evidence import (
    DEADLINE_S,
    agreed,
    beside,
    log_lines,
    log_size,
    metric,
    rows,
    status,
    switch_ports,
    watched_addresses,
)
from tests.e2e.pings import Pings, pinged
from tests.e2e.small_pool import COOLING_S, POOL, addresses, configured, shrunk, tenant

HERD, SPARE, BURST = "/herd/live", "/herd/spare", "/herd/burst"
DOWN = "agent-3"
ROOM = 36  # addresses that may be given out, and one more that is reserved
RESERVED, WHY = addresses(5)[-1], "the printer on the second floor"
INSTANCES, NEWCOMERS = 30, 10
LOOK_EVERY_S = 0.2
PATIENCE_S = 180.0  # as long as the command itself waits
KEPT = {"unreachableStrategy": "disabled"}  # Marathon waits for a host that is lost


def instance_of(proof: Proof) -> str:
    return proof.task.rpartition("._app.")[0]


def seats(proofs: Collection[Proof]) -> dict[str, str]:
    return {proof.address: instance_of(proof) for proof in proofs}


# -- what is watched


@asynccontextmanager
async def nobody_else_has(handle: LabHandle, owners: Mapping[str, str]) -> AsyncIterator[None]:
    """Each of these addresses belongs to one instance ("": to none), on switches and in containers."""
    findings: set[str] = set()
    looks = 0

    async def look() -> None:
        nonlocal looks
        while True:
            found = [
                (port["mooring-address"], port["mooring-instance"]) for port in await switch_ports(handle)
            ]
            for task, inside in (await handle.answered_addresses()).items():
                found += [(address, task.rpartition("._app.")[0]) for address in inside]
            findings.update(
                f"{one} has {address}" for address, one in found if owners.get(address, one) != one
            )
            looks += 1
            await asyncio.sleep(LOOK_EVERY_S)

    async with beside(look()):
        yield
    assert looks > 0
    assert findings == set()


# -- what happens


async def lose(handle: LabHandle, operator: Operator, host: str) -> None:
    await handle.lose_host(host)
    await operator.send("POST", f"/lab/hosts/{host}/lose")


async def return_(handle: LabHandle, operator: Operator, host: str) -> None:
    await handle.return_host(host)
    await operator.send("POST", f"/lab/hosts/{host}/return")


async def lose_the_store(plan: LabPlan) -> None:
    """kill -9, and everything the daemon has ever stored is gone."""
    await background.stop(plan, signal.SIGKILL)
    store = Path(tomllib.loads(plan.daemon_config.read_text())["store"])
    removed = [
        path for path in store.parent.glob(f"{store.name}*") if path.suffix in (".db", ".db-wal", ".db-shm")
    ]
    assert store in removed
    for path in removed:
        path.unlink()


async def refuses(plan: LabPlan, *words: str) -> tuple[None, str]:
    """Whether the daemon says, with these words, why it gives out no address."""
    told = [reason for reason in (await status(plan)).readiness if "no address is given out" in reason]
    missing = [word for word in words if not any(word in reason for reason in told)]
    return None, f"{missing} are not said in {told}" if missing or not told else ""


async def refuses_everywhere(plan: LabPlan, logged: int) -> None:
    """Status, readiness page, log and metrics say why, and name the remedy."""
    await eventually(lambda: refuses(plan, "mooring rebuild"), DEADLINE_S)
    code, output = await background.command(plan, "status")
    assert code == 1
    assert "mooring rebuild" in output
    url = f"http://127.0.0.1:{plan.portal_port}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert (answer.status, "mooring rebuild" in await answer.text()) == (503, True)
    assert await metric(plan, "mooring_rebuild_needed") == 1
    assert any("mooring rebuild" in str(line) for line in log_lines(plan, logged))


async def waiting(plan: LabPlan, name: str, count: int) -> tuple[list[InstanceRow], str]:
    """The app's instances that run and have no address, once there are so many."""
    found = [row for row in await rows(plan, name) if row.phase is Phase.WAITING and row.state == "running"]
    return found, "" if len(found) == count and not any(row.address for row in found) else f"{found}"


async def served(handle: LabHandle, operator: Operator, name: str, count: int) -> tuple[list[Proof], str]:
    """The proofs of those of the app that are served in every way, once there are so many."""
    found = [proof for proof in await gather(handle, operator, name) if not proof.missing()]
    return found, "" if len(found) == count else f"{len(found)} of {count} of {name} are served"


async def rebuilt(plan: LabPlan, named: Collection[str]) -> None:
    """The plan is shown first, names all of these, and changes nothing; then it is applied."""
    code, shown = await background.command(plan, "rebuild", timeout_s=PATIENCE_S)
    assert code == 1, shown
    assert "nothing was changed" in shown
    assert [word for word in (*named, DOWN) if word not in shown] == []
    await eventually(lambda: refuses(plan, "mooring rebuild"), DEADLINE_S)
    code, applied = await background.command(plan, "rebuild", "--yes", timeout_s=PATIENCE_S)
    assert code == 0, applied


# -- a host is down, and comes back


async def herd(handle: LabHandle, operator: Operator) -> list[Proof]:
    """Thirty instances on three hosts, and an idle slot of an app that is scaled to zero."""
    await operator.deploy(tenant(HERD, INSTANCES, **KEPT))
    await operator.deploy(tenant(SPARE, 1))
    proofs = await agreed(handle, operator, [(HERD, INSTANCES), (SPARE, 1)], deadline_s=150.0)
    await operator.scale(SPARE, 0)
    (spare,) = [proof for proof in proofs if proof.app == SPARE]
    await eventually(lambda: idle(handle.plan, spare.address), DEADLINE_S)
    return [proof for proof in proofs if proof.app == HERD]


async def idle(plan: LabPlan, address: str) -> tuple[None, str]:
    told = {lease["address"]: lease["state"] for lease in await background.leases(plan)}
    return None, "" if told.get(address) == "idle" else f"{address} is {told.get(address)}"


@pytest.mark.timeout(600)
async def test_no_container_notices_and_the_lost_hosts_addresses_are_never_given_out(
    plan: LabPlan, handle: LabHandle, operator: Operator, tmp_path: Path
) -> None:
    async with configured(plan, shrunk(ROOM + 1, {RESERVED: WHY})):
        before = await herd(handle, operator)
        owners = {**seats(before), RESERVED: ""}
        async with (
            nobody_else_has(handle, owners),
            watched_addresses(handle),
            pinged(handle, seats(before), tmp_path) as pings,
        ):
            cut_at = time.time()
            killed = await everything_at_once(plan, handle, operator, before)
            await nothing_is_given_out(plan, handle, operator)
            up = [proof for proof in before if proof.host != DOWN]
            await rebuilt(plan, [*seats(up), RESERVED])
            await eventually(lambda: reachable_are_served(handle, operator, up), DEADLINE_S)
            await eventually(lambda: refuses(plan, DOWN, f"mooring hosts fence {DOWN}"), DEADLINE_S)
            assert (await waiting(plan, BURST, NEWCOMERS))[1] == ""
            returned_at = time.time()
            await return_(handle, operator, DOWN)
            after = await proven(handle, operator, [(HERD, INSTANCES)], DEADLINE_S)
            await burst_is_served_as_far_as_the_pool_goes(plan, handle, operator)
        assert seats(after) == seats(before)
        assert {proof.task for proof in before} - {proof.task for proof in after} == killed
        answered_all_the_time(pings, [proof for proof in up if proof.task not in killed])
        answered_but_while_cut_off(
            pings, [proof for proof in before if proof.host == DOWN], cut_at, returned_at
        )
        assert {address for address, heard in pings.heard.items() if heard.doubled} == set()


async def everything_at_once(
    plan: LabPlan, handle: LabHandle, operator: Operator, before: Sequence[Proof]
) -> set[str]:
    """A host is cut off, a container on each other host dies, the daemon dies, the store is lost."""
    await lose(handle, operator, DOWN)
    others = {proof.host: proof.task for proof in before if proof.host != DOWN}
    for task in others.values():
        await handle.docker_kill(task)
    await lose_the_store(plan)
    return set(others.values())


async def nothing_is_given_out(plan: LabPlan, handle: LabHandle, operator: Operator) -> None:
    """The daemon starts and waits for an operator, and with it a burst that the pool cannot hold."""
    logged = log_size(plan)
    ports = await switch_ports(handle)
    await background.start(plan)
    await operator.deploy(tenant(BURST, NEWCOMERS))
    await refuses_everywhere(plan, logged)
    await eventually(lambda: waiting(plan, BURST, NEWCOMERS), DEADLINE_S)
    assert await switch_ports(handle) == ports


async def reachable_are_served(
    handle: LabHandle, operator: Operator, up: Collection[Proof]
) -> tuple[None, str]:
    found = {instance_of(proof): proof for proof in await gather(handle, operator, HERD)}
    lacks = {one: found[one].missing() if one in found else ["container"] for one in seats(up).values()}
    moved = [address for address, one in seats(up).items() if one in found and found[one].address != address]
    return None, f"{moved} {lacks}" if moved or any(lacks.values()) else ""


async def burst_is_served_as_far_as_the_pool_goes(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    room = ROOM - INSTANCES
    await eventually(lambda: served(handle, operator, BURST, room), DEADLINE_S)
    rest, _ = await eventually_waiting(plan, NEWCOMERS - room)
    assert all(f"pool {POOL} has no address left" in row.problem for row in rest)


async def eventually_waiting(plan: LabPlan, count: int) -> tuple[list[InstanceRow], str]:
    return await eventually(lambda: waiting(plan, BURST, count), DEADLINE_S), ""


def answered_all_the_time(pings: Pings, live: Collection[Proof]) -> None:
    lost = {proof.address: gaps for proof in live if (gaps := pings.heard[proof.address].gaps())}
    assert lost == {}, "pings of live containers were lost"
    assert all(pings.heard[proof.address].sent > 50 for proof in live)


def answered_but_while_cut_off(
    pings: Pings, cut_off: Collection[Proof], cut_at: float, returned_at: float
) -> None:
    assert cut_off
    for proof in cut_off:
        ((last, first),) = pings.heard[proof.address].gaps()
        assert cut_at - 1 <= last <= first, proof
        assert returned_at <= first < float("inf"), proof


# -- a host is down, and will not come back soon

FEW, ROOM_FOR = 6, 8


@pytest.mark.timeout(600)
async def test_a_fence_stands_in_for_the_host_and_what_is_not_proven_free_rests_first(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    async with configured(plan, shrunk(ROOM_FOR)):
        await operator.deploy(tenant(HERD, FEW))  # Marathon replaces at once what is lost
        before = await agreed(handle, operator, [(HERD, FEW)])
        async with watched_addresses(handle, dead=DOWN):
            burnt = await without_power_and_store(plan, handle, operator, before)
            await waits_for_the_host(plan, handle, before)
            await the_rest_is_given_out_some_time_after_the_fence(plan, handle, operator, before)
            await operator.scale(HERD, ROOM_FOR)
            crowd = await proven(handle, operator, [(HERD, ROOM_FOR)], DEADLINE_S)
            assert burnt <= {proof.address for proof in crowd}, "every address is in use"
            assert set(await marked_addresses(handle, DOWN)) == burnt
            await return_(handle, operator, DOWN)
            await unfenced(plan)
        async with watched_addresses(handle):
            await agreed(handle, operator, [(HERD, ROOM_FOR)])  # there is no port besides theirs
            await used_again(handle, operator, crowd[0])


async def without_power_and_store(
    plan: LabPlan, handle: LabHandle, operator: Operator, before: Collection[Proof]
) -> set[str]:
    """The containers of a host end unseen, its switch keeps their ports; the addresses on these."""
    await lose(handle, operator, DOWN)
    burnt = [proof for proof in before if proof.host == DOWN]
    for proof in burnt:
        await handle.docker_kill(proof.task)
    await lose_the_store(plan)
    await background.start(plan)
    return {proof.address for proof in burnt}


async def waits_for_the_host(plan: LabPlan, handle: LabHandle, before: Collection[Proof]) -> None:
    await eventually(lambda: refuses(plan, "mooring rebuild"), DEADLINE_S)
    up = [proof for proof in before if proof.host != DOWN]
    await rebuilt(plan, seats(up))
    await eventually(lambda: refuses(plan, DOWN, f"mooring hosts fence {DOWN}"), DEADLINE_S)
    await eventually(lambda: waiting(plan, HERD, FEW - len(up)), DEADLINE_S)
    ports = [port for port in await switch_ports(handle) if port["host"] != DOWN]
    assert {port["mooring-address"] for port in ports} == {proof.address for proof in up}


async def fenced(plan: LabPlan) -> None:
    words = ("hosts", "fence", DOWN, "--reason", "its power supply burnt")
    code, output = await background.command(plan, *words)
    assert (code, "nothing was changed" in output) == (1, True), output
    code, output = await background.command(plan, *words, "--yes")
    assert code == 0, output
    code, output = await background.command(plan, "hosts")
    (line,) = [line for line in output.splitlines() if DOWN in line]
    assert "fenced" in line
    assert "its power supply burnt" in line


async def the_rest_is_given_out_some_time_after_the_fence(
    plan: LabPlan, handle: LabHandle, operator: Operator, before: Collection[Proof]
) -> None:
    """No earlier than a released address, and never on the host that is fenced."""
    began, logged = time.monotonic(), log_size(plan)
    await fenced(plan)
    after = await proven(handle, operator, [(HERD, FEW)], DEADLINE_S)
    assert time.monotonic() - began >= COOLING_S
    told = [str(line.get("reason")) for line in log_lines(plan, logged)]
    assert any("no address is proven free" in reason and DOWN in reason for reason in told)
    assert DOWN not in {proof.host for proof in after}
    kept = {proof.address: proof.task for proof in before if proof.host != DOWN}
    assert kept.items() <= {proof.address: proof.task for proof in after}.items()


async def unfenced(plan: LabPlan) -> None:
    async def ask() -> tuple[None, str]:
        code, output = await background.command(plan, "hosts", "unfence", DOWN)
        return None, "" if code == 0 else output

    await eventually(ask, DEADLINE_S)


async def used_again(handle: LabHandle, operator: Operator, one: Proof) -> None:
    """What Marathon launches on the host is attached there."""
    await operator.send("POST", f"/lab/instances/{instance_of(one)}/move?host={DOWN}")
    after = await agreed(handle, operator, [(HERD, ROOM_FOR)], gone={one.task})
    assert {proof.address: proof.host for proof in after}[one.address] == DOWN
