"""Tunnels between the lab's hosts and a gateway on one of them, kept by the real daemon through real plays.

Meanwhile the hosts' uplinks belong to a bridge of their own, which holds the tunnel address, and the network
between them carries nothing but the tunnels: what containers hear of one another comes through these.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mooring.lab import background, remains, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import BRIDGE, MANAGEMENT, UPLINK, VLANS, LabPlan
from mooring.lab.proofs import eventually
from mooring.lab.sample import Operator, app
from tests.e2e.evidence import DEADLINE_S
from tests.e2e.small_pool import configured

APP = "/lab/tunnelled"
UNDER = "br-under"
POOL = VLANS[1]
OUTSIDE = str(MANAGEMENT[1])
FABRIC = """
[fabric]
mode = "vxlan"

[fabric.addresses]
agent-1 = "192.0.2.1"
agent-2 = "192.0.2.2"
agent-3 = "192.0.2.3"
"""


def tunnelled(text: str) -> str:
    """The daemon's configuration with tunnels, and with agent-1 as the gateway of the second pool."""
    given = f'gateway = "{POOL.gateway}"\n'
    assert given in text
    managed = 'gateway = "managed"\ngateway_host = "agent-1"\ngateway_nat = true\n'
    return text.replace(given, managed) + FABRIC


@asynccontextmanager
async def underlay(plan: LabPlan, handle: LabHandle) -> AsyncIterator[None]:
    """Meanwhile the uplinks are for tunnels only; between the hosts they travel in a VLAN of the lab."""
    for number, agent in enumerate(plan.agents, 1):
        await handle.exec_in(agent.hostname, [
            "ovs-vsctl", "--timeout=10", "del-port", BRIDGE, UPLINK,
            "--", "add-br", UNDER, "--", "set", "bridge", UNDER, "datapath_type=netdev",
            "--", "set", "port", UNDER, f"tag={VLANS[0].tag}",
            "--", "add-port", UNDER, UPLINK,
        ])  # fmt: skip
        await handle.exec_in(agent.hostname, ["ip", "addr", "add", f"192.0.2.{number}/24", "dev", UNDER])
        await handle.exec_in(agent.hostname, ["ip", "link", "set", UNDER, "up"])
    try:
        yield
    finally:
        trunks = ",".join(str(vlan.tag) for vlan in VLANS)
        for agent in plan.agents:
            await handle.exec_in(agent.hostname, [
                "ovs-vsctl", "--timeout=10", "del-br", UNDER, "--", "add-port", BRIDGE, UPLINK,
                "--", "set", "port", UPLINK, "vlan_mode=trunk", f"trunks={trunks}",
            ])  # fmt: skip


async def addressed(handle: LabHandle, operator: Operator, count: int) -> tuple[dict[str, str], str]:
    """The address of each instance, once every one has one of the pool, on more than one host."""
    tasks = {str(task.id): str(task.host) for task in await operator.running(APP)}
    answered = await handle.answered_addresses()
    found = {task: min(answered[task]) for task in tasks if answered.get(task)}
    spread = len(set(tasks.values())) > 1
    return found, "" if len(found) == count and spread else f"{len(found)} of {count} have an address"


async def pings(plan: LabPlan, handle: LabHandle, task: str, address: str, size: int = 56) -> None:
    """Raises `LabError` unless the address answers that task's container."""
    pid = await handle.container_pid(task)
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "2"]
    await supervise.run(plan, [*argv, "-M", "do", "-s", str(size), address])


async def ways(plan: LabPlan, handle: LabHandle) -> dict[str, list[str]]:
    """The tunnels and gateways of every host, by what their names begin with."""
    found = {}
    for agent in plan.agents:
        ports = (await handle.exec_in(agent.hostname, ["ovs-vsctl", "list-ports", BRIDGE])).split()
        found[agent.hostname] = sorted(port[:2] for port in ports if port[:2] in ("mx", "mg"))
    return found


async def ways_are(plan: LabPlan, handle: LabHandle, wanted: Sequence[list[str]]) -> tuple[None, str]:
    found = await ways(plan, handle)
    return None, "" if list(found.values()) == list(wanted) else f"the hosts have {found}"


FULL = [["mg", "mx", "mx"], ["mx", "mx"], ["mx", "mx"]]


class TestTunnels:
    async def test_containers_reach_one_another_and_the_world(
        self, plan: LabPlan, handle: LabHandle, operator: Operator
    ) -> None:
        """Also: a tunnel taken away by hand comes back, and nothing is left in the end."""
        async with underlay(plan, handle):
            async with configured(plan, tunnelled):
                await eventually(lambda: ways_are(plan, handle, FULL), DEADLINE_S)
                await operator.deploy(app(APP, 3, 8080, {"MOORING_POOL": POOL.pool, "HAPROXY_GROUP": "none"}))
                found = await eventually(lambda: addressed(handle, operator, 3), DEADLINE_S)
                (one, own), *others = found.items()
                assert all(address.startswith("10.64.8.") for address in (own, *found.values()))
                for _, address in others:
                    await pings(plan, handle, one, address, size=1446 - 28)
                for task in found:
                    await pings(plan, handle, task, OUTSIDE)
                await self._take_one_away(plan, handle)
                await operator.delete(APP)
                await eventually(lambda: remains.nothing_left(handle), 2 * DEADLINE_S)
            await eventually(lambda: ways_are(plan, handle, [[], [], []]), DEADLINE_S)

    async def _take_one_away(self, plan: LabPlan, handle: LabHandle) -> None:
        ports = (await handle.exec_in("agent-2", ["ovs-vsctl", "list-ports", BRIDGE])).split()
        taken = next(port for port in ports if port.startswith("mx"))
        await handle.exec_in("agent-2", ["ovs-vsctl", "del-port", BRIDGE, taken])
        code, output = await background.command(plan, "verify", "--json")
        findings = json.loads(output)["findings"]
        assert code == 1
        assert [(one["sink"], one["kind"]) for one in findings if one["sink"] == "fabric"] == [
            ("fabric", "missing")
        ]
        await eventually(lambda: ways_are(plan, handle, FULL), DEADLINE_S)
