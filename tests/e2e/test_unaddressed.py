"""An app that asks for no pool: its network is its own business, its traffic is still balanced."""

from __future__ import annotations

import json
import os
from typing import Any

from mooring.lab.handle import LabHandle
from mooring.lab.plan import IMAGE, LabPlan
from mooring.lab.proofs import answering, eventually, server_states
from mooring.lab.sample import Operator, app, balanced, vhost
from tests.e2e.evidence import DEADLINE_S, agreed, container_addresses, rows, switch_ports

LEGACY, BARE, NEIGHBOUR = "/old/legacy", "/old/bare", "/shop/web"


def host_app(name: str, instances: int) -> dict[str, Any]:
    """As apps were before Mooring: on the host's network, at a port of Marathon's choice."""
    base = app(name, instances, 8080)
    del base["container"]["portMappings"]
    return {
        **base,
        "cmd": "exec /bin/workload $PORT0",
        "container": {"type": "DOCKER", "docker": {"image": IMAGE}},
        "networks": [{"mode": "host"}],
        "portDefinitions": [{"port": 0, "protocol": "tcp", "name": "http"}],
        "labels": balanced(name),
    }


async def network_of(handle: LabHandle, agent: str) -> list[Any]:
    """Everything about an agent's network that wiring a container would change."""
    switch = await handle.exec_in(
        agent, ["ovs-vsctl", "--bare", "--columns=name,tag,external_ids", "list", "port"]
    )
    links = json.loads(await handle.exec_in(agent, ["ip", "-json", "addr"]))
    routes = await handle.exec_in(agent, ["ip", "route", "show", "table", "all"])
    return [
        sorted(switch.split("\n\n")),
        [(link["ifname"], link["addr_info"] and link["addr_info"][0]["local"]) for link in links],
        sorted(routes.splitlines()),
    ]


async def test_it_is_left_alone_on_the_network_and_balanced_by_host_and_port(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    agents = [agent.hostname for agent in plan.agents]
    before = {agent: await network_of(handle, agent) for agent in agents}
    await operator.deploy(host_app(LEGACY, 2))
    await operator.deploy({**app(BARE, 1, 8080), "labels": {}, "healthChecks": []})
    tasks = await eventually(lambda: served(handle, operator, LEGACY, 2), DEADLINE_S)

    assert {agent: await network_of(handle, agent) for agent in agents} == before
    assert await switch_ports(handle) == []
    await in_the_agents_own_namespace(handle, tasks)
    (bare,) = await operator.running(BARE)
    assert (await container_addresses(handle))[str(bare.id)] == []

    states = await server_states(handle)
    addresses = {str(plan.agent(task.host).address) for task in tasks}
    assert {address for address, state in states.items() if state == "UP"} == addresses
    for row in [*await rows(plan, LEGACY), *await rows(plan, BARE)]:
        assert (row.address, row.slot, row.lease, row.pool) == (None, None, None, None)
        assert row.problem == ""
    assert {row.phase.value for row in await rows(plan, LEGACY)} == {"serving"}
    assert not [line for line in await handle.transfer("mooring.test") if "legacy" in line or "bare" in line]


async def served(handle: LabHandle, operator: Operator, name: str, count: int) -> tuple[list[Any], str]:
    """All tasks of an app, as soon as every one answers through both balancers with its own id."""
    tasks = await operator.running(name)
    wanted = {str(task.id) for task in tasks}
    if len(wanted) != count:
        return [], f"{len(wanted)} of {count} tasks run"
    for fetch in (handle.via_haproxy, handle.via_nginx):
        if (seen := await answering(fetch, vhost(name), count)) != wanted:
            return [], f"{fetch.__name__} reaches {sorted(seen)} instead of {sorted(wanted)}"
    return tasks, ""


async def in_the_agents_own_namespace(handle: LabHandle, tasks: list[Any]) -> None:
    for task in tasks:
        pid = await handle.container_pid(str(task.id))
        agent = os.stat(f"/run/netns/{handle.plan.agent(task.host).namespace}")
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == agent.st_ino


async def test_it_follows_kills_and_scales_beside_an_addressed_app(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await operator.deploy(host_app(LEGACY, 2))
    await operator.deploy(app(NEIGHBOUR, 1, 8080))
    tasks = await eventually(lambda: served(handle, operator, LEGACY, 2), DEADLINE_S)
    await handle.docker_kill(str(tasks[0].id))
    await operator.scale(LEGACY, 3)
    after = await eventually(lambda: healed(handle, operator, str(tasks[0].id)), DEADLINE_S)
    assert {str(task.id) for task in after} & {str(task.id) for task in tasks} == {str(tasks[1].id)}
    await operator.scale(LEGACY, 1)
    await eventually(lambda: served(handle, operator, LEGACY, 1), DEADLINE_S)
    await agreed(handle, operator, [(NEIGHBOUR, 1)])


async def healed(handle: LabHandle, operator: Operator, dead: str) -> tuple[list[Any], str]:
    tasks, problem = await served(handle, operator, LEGACY, 3)
    if not problem and dead in {str(task.id) for task in tasks}:
        problem = f"{dead} is still listed"
    return tasks, problem
