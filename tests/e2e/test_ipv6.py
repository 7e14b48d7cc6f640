"""Apps with IPv6 addresses: pool, lease, port, name and history, asked of containers, switches and BIND.

One app lives in a pool of IPv6, another in a pool of IPv4 that is paired with an IPv6 network.  The pools are
made while the daemon runs.  The lab's edge has IPv4 only, so the containers are asked from one another, over
switches on two hosts, and no balancer takes part.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

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

BOTH = "/lab/both"
PAIRED, PARTNERS = IPv4Network("10.64.200.0/28"), IPv6Network("fd00:65::/64")

Seats = dict[str, tuple[str, IPv6Address]]  # task: host and address
Pairs = dict[str, tuple[str, IPv4Address, IPv6Address]]  # task: host and addresses


@asynccontextmanager
async def pool(plan: LabPlan, name: str = POOL, *words: str) -> AsyncIterator[None]:
    """Meanwhile there is that pool, in a VLAN that the switches between the hosts know."""
    words = words or (str(NETWORK), "--gateway", str(GATEWAY))
    add = ("pool", "add", name, *words, "--vlan", str(VLANS[0].tag))
    assert (await background.command(plan, *add))[0] == 0
    yield
    await eventually(lambda: removed(plan, name), DEADLINE_S)


async def removed(plan: LabPlan, name: str) -> tuple[None, str]:
    code, output = await background.command(plan, "pool", "remove", name)
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


async def answers(plan: LabPlan, handle: LabHandle, asker: str, address: IPv4Address | IPv6Address) -> None:
    """Raises `LabError` unless the address answers three pings out of that task's container."""
    pid = await handle.container_pid(asker)
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", "ping", "-c", "3", "-i", "0.2", "-W", "2"]
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


async def pairs(plan: LabPlan, handle: LabHandle, operator: Operator, without: str = "") -> tuple[Pairs, str]:
    """Where both instances are, with both addresses of each, once containers and switches agree."""
    hosts = {str(task.id): str(task.host) for task in await operator.running(BOTH)}
    ports = {port["mooring-task"]: port for port in await switch_ports(handle)}
    found: Pairs = {}
    for task, pid in (await handle.running_pids()).items():
        four = [one.partition("/")[0] for one in await handle.addresses_of(pid)]
        six = [str(one) for one in await six_in(plan, pid) if one in PARTNERS]
        marks = ports.get(task, {})
        if (
            task in hosts
            and four == [marks.get("mooring-address")]
            and six == [marks.get("mooring-address6")]
        ):
            found[task] = (hosts[task], IPv4Address(four[0]), IPv6Address(six[0]))
    if without in found or len(found) != 2:
        return found, f"{len(found)} of 2 have both addresses, {without or 'nobody'} shall be gone"
    return found, ""


async def both_named(handle: LabHandle, found: Pairs) -> tuple[None, str]:
    """The app's name leads to every address, and each seat's to its own two."""
    name = f"both.lab.{ZONE}"
    seats = [(f"both-{seat}.{name}", addresses[1:]) for seat, addresses in enumerate(_by_seat(found))]
    four, six = [one[1] for one in found.values()], [one[2] for one in found.values()]
    for asked, wanted4, wanted6 in ((name, four, six), *((seat, [a], [b]) for seat, (a, b) in seats)):
        told4, told6 = await handle.dig(asked, "A"), await handle.dig(asked, "AAAA")
        if {*map(IPv4Address, told4)} != {*wanted4} or {*map(IPv6Address, told6)} != {*wanted6}:
            return None, f"{asked} leads to {told4} and {told6}"
    return None, ""


def _by_seat(found: Pairs) -> list[tuple[str, IPv4Address, IPv6Address]]:
    """Seats get the lowest addresses first."""
    return sorted(found.values(), key=lambda one: one[1])


async def test_an_app_in_a_paired_pool_keeps_both_addresses_on_another_host(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    words = (str(PAIRED), "--gateway", str(PAIRED[1]), "--ipv6", str(PARTNERS), "--gateway6", "fe80::1")
    async with pool(plan, "both", *words), watched_addresses(handle):
        definition = app(BOTH, 2, 8080)
        await operator.deploy({**definition, "labels": {"MOORING_POOL": "both"}})
        before = await eventually(lambda: pairs(plan, handle, operator), DEADLINE_S)
        given = {(four, six) for _, four, six in before.values()}
        assert given == {(PAIRED[last], PARTNERS[int(PAIRED[last])]) for last in (2, 3)}
        await eventually(lambda: both_named(handle, before), DEADLINE_S)
        (mover, (home, four, six)), (asker, _) = sorted(before.items())
        for address in (four, six):
            await answers(plan, handle, asker, address)

        await handle.docker_kill(mover)
        after = await eventually(lambda: pairs(plan, handle, operator, mover), DEADLINE_S)
        [(host, *kept)] = [found for task, found in after.items() if task != asker]
        assert kept == [four, six]
        assert host != home, "the lab's Marathon launches on its agents in turn"
        for address in (four, six):
            await answers(plan, handle, asker, address)
        await eventually(lambda: both_named(handle, after), DEADLINE_S)
        code, told = await background.command(plan, "who", str(six))
        assert (code, BOTH in told, str(four) in told) == (0, True, True), told

        await operator.delete(BOTH)
