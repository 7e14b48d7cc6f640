"""Somebody who is none of ours has the address that would be given out next."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

from mooring.lab import background, supervise
from mooring.lab.handle import LabHandle
from mooring.lab.plan import TOR, VLANS, LabPlan
from mooring.lab.proofs import eventually
from mooring.lab.sample import Operator, app
from mooring.lab.switches import tor_switch
from tests.e2e.evidence import DEADLINE_S, agreed, metric, traces_besides

NEW = "/shop/new"
SHOP = next(vlan for vlan in VLANS if vlan.pool == "shop")
CABLE = "stranger"


@asynccontextmanager
async def stranger(plan: LabPlan, address: str) -> AsyncIterator[str]:
    """A machine at the top of the rack, in the shop's network, that has the address; yields its MAC."""
    name, switch = f"mlab-{plan.name}-{CABLE}", tor_switch(plan)
    await supervise.run(plan, ["ip", "netns", "add", name])
    try:
        for words in (
            ["ip", "-n", plan.edge, "link", "add", CABLE, "type", "veth", "peer", "eth0", "netns", name],
            ["ip", "-n", plan.edge, "link", "set", CABLE, "up"],
            ["ip", "-n", name, "address", "add", f"{address}/{SHOP.network.prefixlen}", "dev", "eth0"],
            ["ip", "-n", name, "link", "set", "eth0", "up"],
        ):
            await supervise.run(plan, words)
        plug = ["ovs-vsctl", "--timeout=15", "add-port", TOR, CABLE, f"tag={SHOP.tag}"]
        await supervise.run(plan, plug, env=switch.env)
        link = json.loads(await supervise.run(plan, ["ip", "-j", "-n", name, "link", "show", "eth0"]))
        yield link[0]["address"]
    finally:
        pull = ["ovs-vsctl", "--timeout=15", "--if-exists", "del-port", TOR, CABLE]
        await supervise.run(plan, pull, env=switch.env)
        await supervise.run(plan, ["ip", "netns", "del", name])


async def no_leases(plan: LabPlan) -> tuple[None, str]:
    left = [lease["address"] for lease in await background.leases(plan)]
    return None, f"there still are leases: {left}" if left else ""


def assignable() -> list[str]:
    """The first addresses of the empty pool, in the order they are given out."""
    first = int(SHOP.network.network_address)
    found = [IPv4Address(first + number) for number in range(1, 5)]
    return [str(address) for address in found if address != SHOP.gateway]


async def test_a_newcomer_gets_another_address_and_the_strangers_is_shown(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await eventually(lambda: no_leases(plan), DEADLINE_S)
    his, next_one = assignable()[:2]
    before = await metric(plan, "mooring_address_conflicts_total")
    async with stranger(plan, his) as mac:
        await operator.deploy(app(NEW, 1, 8081))
        [proof] = await agreed(handle, operator, [(NEW, 1)])
        assert proof.address == next_one
        await eventually(lambda: traces_besides(handle, [proof]), DEADLINE_S)
        _, shown = await background.command(plan, "leases")
        [line] = [line for line in shown.splitlines() if line.startswith(f"{his} ")]
        assert "conflicted" in line
        assert mac in line
        _, told = await background.command(plan, "history", his)
        newest, first, *_ = [line for line in told.splitlines() if f" {his} " in line]
        assert " conflicted " in newest
        assert mac in newest
        assert " bound " in first
        assert await metric(plan, "mooring_address_conflicts_total") == before + 1
    # He is gone, and the address stays nobody's until a person says so.
    await operator.scale(NEW, 2)
    proofs = await agreed(handle, operator, [(NEW, 2)])
    assert his not in {proof.address for proof in proofs}
    code, answer = await background.command(plan, "lease", "release", his)
    assert code == 0, answer
    [lease] = [lease for lease in await background.leases(plan) if lease["address"] == his]
    assert lease["state"] == "cooling"
