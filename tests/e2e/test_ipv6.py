"""An app whose pool is IPv6: pool, lease, port, name and history, asked of containers, switches and BIND.

The pool is made while the daemon runs.  The lab's edge has IPv4 only, so the containers are asked from one
another, over switches on two hosts, and no balancer takes part.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, IPv6Network

from mooring.lab import background, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import VLANS, ZONE, LabPlan
from mooring.lab.proofs import eventually
from mooring.lab.sample import Operator, app
from tests.e2e.evidence import DEADLINE_S, switch_ports, watched_addresses

SIX = "/lab/six"
POOL = "six"
NETWORK = IPv6Network("fd00:64::/64")
GATEWAY = NETWORK[1]

Seats = dict[str, tuple[str, IPv6Address]]  # task: host and address


@asynccontextmanager
async def pool(plan: LabPlan) -> AsyncIterator[None]:
    """Meanwhile there is an IPv6 pool, in a VLAN that the switches between the hosts know."""
    add = ("pool", "add", POOL, str(NETWORK), "--gateway", str(GATEWAY), "--vlan", str(VLANS[0].tag))
    assert (await background.command(plan, *add))[0] == 0
    yield
    await eventually(lambda: removed(plan), DEADLINE_S)


async def removed(plan: LabPlan) -> tuple[None, str]:
    code, output = await background.command(plan, "pool", "remove", POOL)
    return None, "" if code == 0 else output


async def seats(plan: LabPlan, handle: LabHandle, operator: Operator, count: int) -> tuple[Seats, str]:
    """Where each instance is and which address of the pool it has, once containers and switches agree."""
    hosts = {str(task.id): str(task.host) for task in await operator.running(SIX)}
    ports = {port["mooring-task"]: port for port in await switch_ports(handle)}
    found: Seats = {}
    for task, pid in (await handle.running_pids()).items():
        inside = [one for one in await six_in(plan, pid) if one in NETWORK]
        plugged = ports.get(task, {})
        if task in hosts and len(inside) == 1 and plugged.get("mooring-address") == str(inside[0]):
            found[task] = (hosts[task], inside[0])
    return found, "" if len(found) == len(hosts) == count else f"{len(found)} of {count} have an address"


async def six_in(plan: LabPlan, pid: int) -> list[IPv6Address]:
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-json", "-6", "addr", "show", "scope", "global"]
    links = json.loads(await supervise.run(plan, argv))
    entries = [entry for link in links for entry in link.get("addr_info", [])]
    return [IPv6Address(entry["local"]) for entry in entries if "local" in entry]


async def answers(plan: LabPlan, handle: LabHandle, asker: str, address: IPv6Address) -> None:
    """Raises `LabError` unless the address answers three pings out of that task's container."""
    pid = await handle.container_pid(asker)
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ping", "-6", "-c", "3", "-i", "0.2", "-W", "2"]
    await supervise.run(plan, [*argv, str(address)])


async def named(handle: LabHandle, found: Seats) -> tuple[None, str]:
    told = await handle.dig(f"six.lab.{ZONE}", "AAAA")
    wanted = {address for _, address in found.values()}
    return None, "" if {IPv6Address(text) for text in told} == wanted else f"the name leads to {told}"


async def test_an_app_in_an_ipv6_pool_is_wired_named_and_finds_its_addresses_again(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    async with pool(plan), watched_addresses(handle):
        definition = app(SIX, 3, 8080)
        await operator.deploy({**definition, "labels": {"MOORING_POOL": POOL}})
        before = await eventually(lambda: seats(plan, handle, operator, 3), DEADLINE_S)
        assert {address for _, address in before.values()} == {NETWORK[2], NETWORK[3], NETWORK[4]}
        await eventually(lambda: named(handle, before), DEADLINE_S)
        first, (home, _) = next(iter(before.items()))
        far = next(address for host, address in before.values() if host != home)
        await answers(plan, handle, first, far)

        await handle.docker_kill(first)
        after = await eventually(lambda: all_but(first, plan, handle, operator), DEADLINE_S)
        assert {one for _, one in after.values()} == {one for _, one in before.values()}
        code, told = await background.command(plan, "who", str(before[first][1]))
        assert (code, SIX in told) == (0, True), told

        await operator.delete(SIX)


async def all_but(gone: str, plan: LabPlan, handle: LabHandle, operator: Operator) -> tuple[Seats, str]:
    found, problem = await seats(plan, handle, operator, 3)
    return found, f"{gone} still runs" if gone in found else problem
