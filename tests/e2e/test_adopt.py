"""Containers that were wired by pipework before there was a Mooring are taken over with their addresses."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mooring.lab import background
from mooring.lab.handle import LabHandle
from mooring.lab.plan import BRIDGE, VLANS, LabPlan
from mooring.lab.proofs import eventually
from mooring.lab.sample import Operator, app
from tests.e2e.evidence import DEADLINE_S, agreed, switch_ports
from tests.e2e.pings import pinged

OLD = "/shop/old"
SHOP = next(vlan for vlan in VLANS if vlan.pool == "shop")
PIPEWORK = Path(__file__).parents[1] / "integration/host_module/pipework_stand_in.py"


async def ran(handle: LabHandle, count: int) -> tuple[None, str]:
    running = [container for container in await handle.containers() if container.state == "running"]
    return None, "" if len(running) == count else f"{len(running)} containers run, not {count}"


async def wire(handle: LabHandle, task: str, address: str, number: int) -> None:
    """As an operator's script did it until today."""
    container = await handle.container(task)
    wanted = f"{address}/{SHOP.network.prefixlen}@{SHOP.gateway}"
    mac = f"0e:00:00:00:99:{number:02x}@{SHOP.tag}"
    words = [sys.executable, str(PIPEWORK), BRIDGE, "-i", "eth1", container.id, wanted, mac]
    await handle.exec_in(container.host, words)
    pid = await handle.container_pid(task)
    offload = ["nsenter", f"--net=/proc/{pid}/ns/net", "ethtool", "-K", "eth1", "tx", "off"]
    await handle.exec_in(container.host, offload)


async def refused(plan: LabPlan, count: int) -> tuple[None, str]:
    rows = (await background.status(plan))["instances"]
    told = [row["problem"] for row in rows if "`mooring adopt`" in row["problem"]]
    return None, "" if len(told) == count else f"refused: {rows}"


@pytest.mark.timeout(360)  # it starts the daemon, and three more programs, while others may use the machine
async def test_what_pipework_has_wired_is_taken_over_without_a_lost_packet(
    plan: LabPlan, handle: LabHandle, operator: Operator, tmp_path: Path
) -> None:
    await background.stop(plan)
    await operator.deploy(app(OLD, 2, 8080))
    await eventually(lambda: ran(handle, 2), DEADLINE_S)
    first = int(SHOP.network.network_address) + 200
    wired = {}
    for number, task in enumerate(sorted(await handle.running_pids())):
        wired[task] = str(IPv4Address(first + number))
        await wire(handle, task, wired[task], number)

    await background.start(plan)
    await eventually(lambda: refused(plan, 2), DEADLINE_S)
    code, told = await background.command(plan, "adopt")
    assert (code, "2 can be taken over, 0 are left alone" in told) == (0, True), told
    async with pinged(handle, wired.values(), tmp_path) as pings:
        code, told = await background.command(plan, "adopt", "--yes", timeout_s=120.0)
        assert (code, "2 taken over, 0 failed, 0 left alone" in told) == (0, True), told
        proofs = await agreed(handle, operator, [(OLD, 2)])
    assert {proof.task: proof.address for proof in proofs} == wired
    for address, heard in pings.heard.items():
        assert (heard.gaps(), heard.doubled) == ([], 0), address
    ports = {port["mooring-address"]: port for port in await switch_ports(handle)}
    assert {address: port["name"].startswith("veth1pl") for address, port in ports.items()} == dict.fromkeys(
        wired.values(), True
    )

    killed, stays = sorted(wired)
    await handle.docker_kill(killed)
    proofs = await agreed(handle, operator, [(OLD, 2)])
    assert {proof.address for proof in proofs} == set(wired.values())
    ports = {port["mooring-address"]: port for port in await switch_ports(handle)}
    assert ports[wired[killed]]["name"].startswith("mo"), "the next start is wired by ours"
    assert ports[wired[stays]]["name"].startswith("veth1pl")
