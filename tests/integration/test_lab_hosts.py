"""The lab's hosts, engine and edges do what real ones do. One lab serves all tests of this module."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from mooring.lab import lifecycle
from mooring.lab.cmdb_receiver import sign
from mooring.lab.docker import DockerEngine
from mooring.lab.engine import Exit, Workload
from mooring.lab.handle import LabHandle
from mooring.lab.plan import BRIDGE, IMAGE, REVERSE_ZONES, ZONE, LabError, LabPlan
from tests.integration.labs import fresh_plan

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def plan() -> Iterator[LabPlan]:
    made = fresh_plan("host")
    asyncio.run(lifecycle.up(made))
    yield made
    lifecycle.down(made)


@pytest.fixture
def handle(plan: LabPlan) -> LabHandle:
    return LabHandle(plan)


@pytest.fixture
async def engine(plan: LabPlan) -> AsyncIterator[DockerEngine]:
    made = DockerEngine(plan.docker_socket, plan.name)
    yield made
    for container in await LabHandle(plan).containers():
        await made.kill(container.name, 0)
    await made.close()


async def until(question: Callable[[], Awaitable[bool]], deadline_s: float = 10.0) -> None:
    give_up = time.monotonic() + deadline_s
    while not await question():
        assert time.monotonic() < give_up, f"still not so after {deadline_s} s"
        await asyncio.sleep(0.05)


def workload(task_id: str, host: str, *argv: str, network: str = "none") -> Workload:
    return Workload(task_id, "/app", host, IMAGE, argv or ("/bin/workload",), {}, {"team": "a"}, network)


async def attach(handle: LabHandle, task_id: str, host: str, address: str, vlan: int) -> None:
    """Plug a container into its host's switch by hand, as Mooring's helper would."""
    pid = await handle.container_pid(task_id)
    port, gateway = f"c{pid}", "10.64.0.1" if vlan == 100 else "10.64.8.1"
    inside = [
        "ethtool -K eth0 tx off",
        f"ip addr add {address} dev eth0",
        "ip link set eth0 up",
        f"ip route add default via {gateway} 2>/dev/null || true",  # one test gives a wrong subnet
    ]
    script = [
        f"ip link add {port} type veth peer name eth0 netns {pid}",
        f"ip link set {port} up",
        f"ovs-vsctl --timeout=5 add-port {BRIDGE} {port} tag={vlan}"
        f" -- set port {port} external_ids:owner=test external_ids:task={task_id}",
        f"nsenter --net=/proc/{pid}/ns/net sh -e -c '{'; '.join(inside)}'",
    ]
    await handle.exec_in(host, ["sh", "-e", "-c", "\n".join(script)])


async def serves(handle: LabHandle, address: str, body: str) -> bool:
    with contextlib.suppress(LabError):  # curl's complaint: not yet
        return (await handle.from_edge(address, 8080, timeout_s=2)).body.strip() == body
    return False


async def test_containers_on_two_hosts_reach_each_other_and_the_edge(
    handle: LabHandle, engine: DockerEngine
) -> None:
    for task, host, address in (("t1", "agent-1", "10.64.0.11/22"), ("t2", "agent-2", "10.64.0.12/22")):
        await engine.launch(workload(task, host))
        await attach(handle, task, host, address, 100)
    await engine.launch(workload("t3", "agent-3"))
    await attach(handle, "t3", "agent-3", "10.64.8.13/24", 200)

    status, told = await handle.container_exec("t1", ["ping", "-c", "2", "-W", "2", "10.64.0.12"])
    assert status == 0, told
    await until(lambda: serves(handle, "10.64.0.11", "t1"))
    await until(lambda: serves(handle, "10.64.0.12", "t2"))
    status, told = await handle.container_exec(
        "t1", ["wget", "-q", "-O", "-", "http://10.64.8.13:8080/health"]
    )
    assert (status, told.strip()) == (0, "t3"), "the edge routes between the VLANs"

    assert await handle.container_addresses("t1") == ["10.64.0.11/22"]
    assert await handle.answered_addresses() == {
        "t1": {"10.64.0.11"},
        "t2": {"10.64.0.12"},
        "t3": {"10.64.8.13"},
    }
    (port,) = await handle.ovs_ports("agent-1")
    assert (port["tag"], port["external_ids"], port["error"]) == (100, {"owner": "test", "task": "t1"}, None)
    assert [entry["tag"] for entry in await handle.ovs_ports("agent-3")] == [200]


async def test_wrong_vlan_does_not_reach(handle: LabHandle, engine: DockerEngine) -> None:
    for task, vlan, address in (("v1", 100, "10.64.0.21/22"), ("v2", 200, "10.64.0.22/22")):
        await engine.launch(workload(task, "agent-1"))
        await attach(handle, task, "agent-1", address, vlan)
    status, _ = await handle.container_exec("v1", ["ping", "-c", "1", "-W", "1", "10.64.0.22"])
    assert status == 1


async def test_lost_host_is_silent_everywhere_and_comes_back(
    plan: LabPlan, handle: LabHandle, engine: DockerEngine
) -> None:
    await engine.launch(workload("lost", "agent-2"))
    await attach(handle, "lost", "agent-2", "10.64.0.32/22", 100)
    await until(lambda: serves(handle, "10.64.0.32", "lost"))
    assert ssh(plan, 2, "true").returncode == 0
    await handle.lose_host("agent-2")
    try:
        assert not await serves(handle, "10.64.0.32", "lost")
        assert ssh(plan, 2, "true").returncode == 255
        assert ssh(plan, 1, "true").returncode == 0
        assert (await handle.container("lost")).state == "running"
    finally:
        await handle.return_host("agent-2")
    await until(lambda: serves(handle, "10.64.0.32", "lost"))
    assert ssh(plan, 2, "true").returncode == 0


def ssh(plan: LabPlan, agent: int, command: str) -> subprocess.CompletedProcess[str]:
    trust = ["-o", f"UserKnownHostsFile={plan.ssh_dir}/known_hosts", "-o", "ConnectTimeout=3"]
    door = ["-i", str(plan.client_key), "-p", str(plan.agents[agent - 1].ssh_port), "root@127.0.0.1"]
    argv = ["ssh", "-F", "none", "-o", "BatchMode=yes", *trust, *door, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_ssh_reaches_a_host_with_its_own_switch_and_the_engine(plan: LabPlan, number: int) -> None:
    ask = "hostname; ovs-vsctl list-br; docker -H unix:///var/run/docker.sock images -q | wc -l; hostname -I"
    told = ssh(plan, number, ask)
    assert told.stdout.split() == [f"agent-{number}", BRIDGE, "1", f"10.65.0.1{number}"], told.stderr
    uuids = {ssh(plan, other, "ovs-vsctl get open . _uuid").stdout for other in (1, 2, 3)}
    assert len(uuids) == 3, "each host has a switch of its own"


def test_big_output_and_end_of_input_pass_a_door(plan: LabPlan) -> None:
    count = ssh(plan, 1, "head -c 3000000 /dev/zero | tee /dev/stderr | wc -c")
    assert (count.stdout.strip(), len(count.stderr)) == ("3000000", 3000000)


def test_ansible_reaches_every_host(plan: LabPlan) -> None:
    ansible = [str(Path(sys.executable).parent / "ansible"), "-i", str(plan.inventory), "agents", "-o"]
    told = subprocess.run(
        [*ansible, "-m", "ping"], capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL
    )
    assert told.stdout.count('"pong"') == 3, told.stdout + told.stderr


async def test_host_network_is_the_agents(handle: LabHandle, engine: DockerEngine) -> None:
    await engine.launch(workload("onhost", "agent-3", "sleep", "60", network="host"))
    assert "10.65.0.13/24" in await handle.container_addresses("onhost")
    same = await handle.exec_in("agent-3", ["readlink", "/proc/self/ns/net"])
    pid = await handle.container_pid("onhost")
    assert await handle.exec_in("agent-3", ["readlink", f"/proc/{pid}/ns/net"]) == same


async def test_container_starts_with_loopback_only(handle: LabHandle, engine: DockerEngine) -> None:
    await engine.launch(workload("bare", "agent-1"))
    assert await handle.container_addresses("bare") == []
    status, told = await handle.container_exec("bare", ["ps"])
    assert (status, "httpd" in told) == (0, False), "mooring-wait holds the command back"


# -- what engine.Engine promises


async def test_launch_names_labels_and_marks_a_container(engine: DockerEngine, plan: LabPlan) -> None:
    name = await engine.launch(workload("marked", "agent-2"))
    shown = json.loads(
        subprocess.check_output(["docker", "-H", f"unix://{plan.docker_socket}", "inspect", name])
    )[0]
    assert name.startswith("mesos-")
    labels = shown["Config"]["Labels"]
    assert (labels["MESOS_TASK_ID"], labels["team"]) == ("marked", "a")
    assert f"MOORING_LAB={plan.name}" in shown["Config"]["Env"]
    assert shown["HostConfig"]["NetworkMode"] == "none"
    assert await engine.pid(name) == shown["State"]["Pid"] > 0


async def test_launch_that_fails_names_task_and_reason_and_leaves_nothing(
    engine: DockerEngine, handle: LabHandle
) -> None:
    with pytest.raises(LabError, match=r"task broken does not start on agent-1: .*no-such-program"):
        await engine.launch(workload("broken", "agent-1", "/no-such-program"))
    assert await handle.containers("broken") == []


async def test_execute_returns_the_status_and_ends_what_takes_too_long(engine: DockerEngine) -> None:
    name = await engine.launch(workload("exec", "agent-1"))
    assert await engine.execute(name, ["sh", "-c", 'test "$MESOS_TASK_ID" = exec && exit 7'], 5) == 7
    began = time.monotonic()
    assert await engine.execute(name, ["sleep", "30"], 0.3) == 124
    assert time.monotonic() - began < 5
    assert await engine.execute(name, ["sh", "-c", "! pidof sleep"], 5) == 0, "it was ended inside"


async def test_kill_lets_the_process_end_and_forces_it_when_it_does_not(
    engine: DockerEngine, handle: LabHandle
) -> None:
    exits = engine.exits()
    kind = await engine.launch(workload("kind", "agent-1"))
    deaf = await engine.launch(
        workload("deaf", "agent-1", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    )
    began = time.monotonic()
    await engine.kill(kind, 20)
    assert time.monotonic() - began < 10, "mooring-wait takes the signal"
    await engine.kill(deaf, 0.2)
    assert await handle.containers() == []
    told = [await asyncio.wait_for(anext(exits), 5) for _ in range(2)]
    assert told == [Exit(kind, "kind", 143), Exit(deaf, "deaf", 137)]
    await engine.kill(kind, 1)  # already gone is as good
    with pytest.raises(LabError, match=kind):
        await engine.pid(kind)


async def test_exits_tell_of_containers_killed_behind_our_back(
    engine: DockerEngine, handle: LabHandle
) -> None:
    early, late = engine.exits(), engine.exits()
    name = await engine.launch(workload("byhand", "agent-1"))
    await handle.docker_kill("byhand")
    for listener in (early, late):
        assert await asyncio.wait_for(anext(listener), 5) == Exit(name, "byhand", 137)


# -- edges


async def test_zones_are_served_and_updated_with_the_key_only(plan: LabPlan, handle: LabHandle) -> None:
    for zone in (ZONE, *REVERSE_ZONES):
        (soa,) = await handle.dig(zone, "SOA")
        assert soa.startswith(f"ns.{ZONE}.")

    def update(*key: str) -> int:
        script = f"server 127.0.0.1 {plan.dns_port}\nzone {ZONE}\nadd x.{ZONE} 5 A 10.64.0.9\nsend\n"
        return subprocess.run(["nsupdate", *key], input=script, text=True, capture_output=True).returncode

    assert update() != 0
    assert await handle.dig(f"x.{ZONE}") == []
    secret = plan.tsig_secret.read_text().strip()
    assert update("-y", f"hmac-sha256:mooring-key:{secret}") == 0
    assert await handle.dig(f"x.{ZONE}") == ["10.64.0.9"]
    records = [line.split() for line in await handle.transfer(ZONE)]
    assert [f"x.{ZONE}.", "5", "IN", "A", "10.64.0.9"] in records


async def test_haproxy_reload_reads_the_daemons_file_again(plan: LabPlan, handle: LabHandle) -> None:
    assert (await handle.via_haproxy("shop.test")).status == 503
    config = plan.haproxy_dir / "haproxy.cfg"
    config.write_text(config.read_text().replace("no app is served yet", "generation two"))
    reader, writer = await asyncio.open_unix_connection(str(plan.haproxy_dir / "master.sock"))
    writer.write(b"reload\n")
    await reader.read()
    writer.close()

    async def is_new() -> bool:
        return "generation two" in (await handle.via_haproxy()).body

    await until(is_new)
    assert "PipesUsed" in await handle.haproxy("show info")


async def test_nginx_takes_the_generation_that_current_points_to(plan: LabPlan, handle: LabHandle) -> None:
    assert (await handle.via_nginx()).status == 503
    first = (plan.nginx_dir / "gen-0" / "nginx.conf").read_text()
    second = plan.nginx_dir / "gen-1"
    second.mkdir()
    (second / "nginx.conf").write_text(first.replace("no app is served yet", "generation one"))
    link = plan.nginx_dir / "next"
    link.symlink_to("gen-1")
    link.replace(plan.nginx_dir / "current")
    subprocess.run(["kill", "-HUP", (plan.nginx_dir / "nginx.pid").read_text().strip()], check=True)

    async def is_new() -> bool:
        return "generation one" in (await handle.via_nginx()).body

    await until(is_new)


async def test_cmdb_takes_signed_items_once(plan: LabPlan, handle: LabHandle) -> None:
    url, secret = f"http://127.0.0.1:{plan.cmdb_port}", plan.cmdb_secret.read_text().strip().encode()
    body = b'{"key": "shop/web:0", "address": "10.64.0.5"}'

    async def put(identity: str, signature: str) -> int:
        headers = {"Idempotency-Key": identity, "X-Mooring-Signature": signature}
        session = aiohttp.ClientSession()
        async with session, session.put(f"{url}/items/shop/web:0", data=body, headers=headers) as answer:
            return answer.status

    good = sign(secret, body)
    assert [await put("k1", "sha256=00"), await put("", good), await put("k1", good)] == [401, 400, 201]
    assert (await handle.cmdb_items())["shop/web:0"]["address"] == "10.64.0.5"


async def test_prometheus_scrapes_the_daemons_port(plan: LabPlan, handle: LabHandle) -> None:
    async def knows_target() -> bool:
        return bool(await handle.prometheus('up{job="mooring"}'))

    await until(knows_target, 20)
    with pytest.raises(LabError, match="refuses"):
        await handle.prometheus("nonsense{")


async def test_redis_keeps_every_write(plan: LabPlan) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", plan.redis_port)
    writer.write(b"CONFIG GET appendonly\r\nCONFIG GET appendfsync\r\n")
    told = await reader.readuntil(b"always")
    writer.close()
    assert b"appendonly\r\n$3\r\nyes" in told
