"""The process engine: real processes in real network namespaces, alone and under Marathon."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from mooring.lab.engine import Workload
from mooring.lab.processes import LaunchError, ProcessEngine

pytestmark = pytest.mark.root

NONE = [{"mode": "container", "name": "none"}]
SERVER = (
    "import http.server; http.server.HTTPServer(('127.0.0.1', 8080),"
    " http.server.SimpleHTTPRequestHandler).serve_forever()"
)


@pytest.fixture
async def engine():
    engine = ProcessEngine("unit", {})
    yield engine
    await asyncio.gather(*(engine.kill(name, 0) for name in engine.containers()))


def sleeper(*argv, network="none", task_id="t1", host="agent-1"):
    argv = argv or ("/bin/sleep", "60")
    return Workload(task_id, "/web", host, "", argv, {"MESOS_TASK_ID": task_id}, {}, network)


async def test_a_workload_is_in_a_namespace_of_its_own_when_launch_returns(engine):
    for _ in range(5):
        pid = await engine.pid(await engine.launch(sleeper()))
        assert namespace(pid) != namespace("self")


async def test_its_loopback_is_up(engine):
    name = await engine.launch(sleeper())
    assert await until_zero(engine, name, "ip -o link show lo up | grep -q LOOPBACK")
    assert await engine.execute(name, ["/bin/sh", "-c", "ip -o link | grep -q eth0"], 5) != 0


async def until_zero(engine, name, command):
    """The loopback comes up just after the namespace is entered."""
    async with asyncio.timeout(5):
        while await engine.execute(name, ["/bin/sh", "-c", command], 5) != 0:
            await asyncio.sleep(0.01)
    return True


async def test_host_networking_shares_the_namespace(engine):
    pid = await engine.pid(await engine.launch(sleeper(network="host")))
    assert namespace(pid) == namespace("self")


async def test_host_networking_enters_the_agents_namespace(engine):
    other = await engine.pid(await engine.launch(sleeper()))
    agents = ProcessEngine("unit", {"agent-2": f"/proc/{other}/ns/net"})
    name = await agents.launch(sleeper(network="host", host="agent-2"))
    assert namespace(await agents.pid(name)) == namespace(other)
    await agents.kill(name, 0)


async def test_exits_tell_name_task_and_status(engine):
    exits = engine.exits()
    name = await engine.launch(sleeper("/bin/sh", "-c", "exit 7"))
    exit_ = await asyncio.wait_for(anext(exits), 5)
    assert (exit_.container, exit_.task_id, exit_.exit_code) == (name, "t1", 7)
    with pytest.raises(LookupError):
        await engine.pid(name)


async def test_a_signal_shows_as_docker_shows_it(engine):
    exits = engine.exits()
    name = await engine.launch(sleeper())
    os.kill(await engine.pid(name), 9)
    assert (await asyncio.wait_for(anext(exits), 5)).exit_code == 137


async def test_kill_gives_grace_and_then_none(engine, tmp_path):
    stubborn = f"trap '' TERM; touch {tmp_path}/ready; while :; do sleep 0.1; done"
    name = await engine.launch(sleeper("/bin/sh", "-c", stubborn))
    while not (tmp_path / "ready").exists():
        await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await engine.kill(name, 0.3)
    assert 0.3 <= loop.time() - began < 5
    await engine.kill(name, 0.3)  # once more is no error


async def test_nothing_outlives_the_first_process(engine, tmp_path):
    name = await engine.launch(
        sleeper("/bin/sh", "-c", f"sleep 60 & echo $! > {tmp_path}/child; exec sleep 60")
    )
    child = tmp_path / "child"
    while not (child.exists() and child.read_text().strip()):
        await asyncio.sleep(0.01)
    await engine.kill(name, 0)
    pid = int(child.read_text())
    async with asyncio.timeout(5):
        while alive(pid):
            await asyncio.sleep(0.01)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_commands_run_in_the_workloads_namespace_and_environment(engine):
    name = await engine.launch(sleeper())
    script = f'test "$MESOS_TASK_ID" = t1 && test "$(readlink /proc/self/ns/net)" != "{namespace("self")}"'
    assert await engine.execute(name, ["/bin/sh", "-c", script], 5) == 0
    assert await engine.execute(name, ["/bin/sh", "-c", "exit 3"], 5) == 3
    assert await engine.execute(name, ["/bin/sleep", "60"], 0.1) == 124


async def test_a_workload_without_a_command_is_refused(engine):
    with pytest.raises(LaunchError, match="`cmd` or `args`"):
        await engine.launch(Workload("t", "/web", "agent-1", "", (), {}, {}))


def namespace(pid):
    return os.readlink(f"/proc/{pid}/ns/net")


async def test_under_marathon_a_check_reaches_into_the_namespace(start, engine):
    lab = await start(engine)
    check = {"protocol": "MESOS_HTTP", "portIndex": 0, "delaySeconds": 0, "intervalSeconds": 0.1}
    await lab.deploy(
        cmd=f'exec {sys.executable} -c "{SERVER}"',
        networks=NONE,
        container={"portMappings": [{"containerPort": 8080}]},
        healthChecks=[check],
        instances=2,
    )
    [app] = (await lab.call("GET", "/v2/apps"))["apps"]
    assert app["tasksHealthy"] == 2  # both on port 8080: only their own namespaces make that possible


async def test_under_marathon_a_killed_process_is_healed(start, engine, instance_id):
    lab = await start(engine)
    [task] = await lab.deploy(cmd="exec sleep 60", networks=NONE)
    [shown] = await lab.call("GET", "/lab/instances")
    os.kill(await engine.pid(shown["container"]), 9)
    seen = await lab.seen("IC Running")
    assert seen[:2] == ["SU FAILED", "IC Failed"]
    [healed] = await lab.quiet()
    assert instance_id(healed) == instance_id(task)


async def test_the_process_serves_and_leaves_nothing_behind(tmp_path):
    config = tmp_path / "marathon.json"
    config.write_text(
        '{"framework_id": "f", "listen_port": 0, "agents": [{"hostname": "a", "address": "127.0.0.1",'
        ' "slave_id": "S"}]}'
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mooring.lab.marathon", "--config", str(config), stderr=asyncio.subprocess.PIPE
    )
    line = await asyncio.wait_for(process.stderr.readline(), 20)
    assert b"serving on http://127.0.0.1:" in line
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 20) == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "truncated"),
        ('{"framework_id": "f", "agents": []}', "key `agents` is empty"),
        ('{"framework_id": "f", "agents": [], "typo": 1}', "unknown field `typo`"),
        ('{"framework_id": "f", "agents": [{"hostname": "a"}]}', "`$.agents[0]`"),
        (
            '{"framework_id": "f", "agents": [{"hostname": "a", "address": "b", "slave_id": "c"}],'
            ' "engine": {"kind": "qemu"}}',
            "`engine.kind`",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_explained(tmp_path, capsys, text, complaint):
    from mooring.lab.marathon.__main__ import main

    config = tmp_path / "marathon.json"
    config.write_text(text)
    assert main(["--config", str(config)]) == 2
    assert complaint in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "nowhere")]) == 2
